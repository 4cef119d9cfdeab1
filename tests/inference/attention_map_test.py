"""Attention maps as arrays and as pictures. That the model's probabilities are right: read_with_attention_test.py."""

import dataclasses
import io
import itertools

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest
from tiny_checkpoint import write_checkpoint

from famjax.data.vocabularies import Bytes
from famjax.errors import CheckpointError, ConfigError, DataError
from famjax.inference import attention_map as attention_maps
from famjax.inference import attention_pictures
from famjax.inference.attention_config import AttentionJob
from famjax.inference.attention_map import attention_map, draw, fam_history
from famjax.inference.attention_pictures import Source, draw_history, draw_map, draw_overview
from famjax.inference.attention_reading import NO_TOKEN, BlockReader, FamHistory
from famjax.inference.config import MemoryOverrides
from famjax.models import transformer
from famjax.models.config import MemoryConfig
from famjax.models.transformer import Transformer
from famjax.pods.config import MeshConfig
from small import BLOCK
from tiny_language_model import BOS, make_model, random_ids
from tolerances import EXACT, FLOAT32, assert_close

MEMORIES = {
    "fam": {},
    "grouped": {"num_kv_heads": 2, "fam_position": "between_blocks"},
    "no_segments": {"num_segments": 0},
    "bswa": {"fam_length": 0},
    "block_only": {"fam_length": 0, "num_segments": 0},
}
IDS = random_ids(5 * BLOCK + 1)  # with the beginning token 5 blocks and 2 tokens
NUM_BLOCKS = 6
ONE_DEVICE = MeshConfig(num_devices=1)
SOURCE = Source("run/checkpoint_7", "a_text.txt")
each_memory = pytest.mark.parametrize("changes", MEMORIES.values(), ids=MEMORIES)


def whole(model, ids):
    """What the model gives of a text in one call: the output, and probabilities [L, H, blocks, ...]."""

    @jax.jit
    def look(params, tokens):
        whole_model = Transformer(model.config)
        state = transformer.initial_state(whole_model, params, 1)
        return transformer.read_with_attention(whole_model, params, tokens, state)

    output, seen = look(model.params, np.array([[BOS, *ids]], np.int32))
    return output, *(np.moveaxis(np.asarray(array)[:, 0], 1, 2) for array in (seen.tokens, seen.fam))


@each_memory
def test_equal_to_the_whole_text_in_one_call(changes):
    """Guards against the probabilities of another layer, head, block or key, and of a text that was read otherwise."""
    model = make_model(**changes)
    memory = model.config.memory
    _, of_tokens, of_fam = whole(model, IDS)
    assert of_tokens.shape[:3] == (2, 4, NUM_BLOCKS)
    reader = BlockReader(model, IDS)
    for block in range(NUM_BLOCKS):
        reader.read_to(block)
        seen = reader.look()
        is_full = block < NUM_BLOCKS - 1
        unused = 0 if is_full else BLOCK - 2
        for layer in range(model.config.num_layers):
            for head in range(model.config.num_heads):
                actual = seen.map(layer, head)
                assert (actual.layer, actual.head, actual.block) == (layer, head, block)
                expected = of_tokens[layer, head, block]
                assert (expected[: BLOCK - unused, expected.shape[1] - unused :] == 0).all()
                expected = expected[: BLOCK - unused, : expected.shape[1] - unused]
                assert_close(actual.probabilities, expected, FLOAT32, f"{layer} {head} {block}")
                expected = of_fam[layer, head, block] if is_full else np.zeros((0, memory.fam_length + 2))
                assert_close(actual.fam_probabilities, expected, FLOAT32, f"{layer} {head} {block}")


@each_memory
@pytest.mark.parametrize("block", [0, 1, 4, 5])
def test_rows_sum_up_to_1_and_are_0_where_a_token_may_not_look(changes, block):
    """Guards against attention to the future, to blocks before the text, and against columns that are left out."""
    seen = attention_map(make_model(**changes), IDS, layer=1, head=2, block=block)
    num_tokens = BLOCK if block < NUM_BLOCKS - 1 else 2
    np.testing.assert_allclose(seen.probabilities.sum(axis=1), np.ones(num_tokens), rtol=1e-5)
    np.testing.assert_allclose(seen.fam_probabilities.sum(axis=1), 1, rtol=1e-5)
    assert (seen.probabilities[~seen.visible] == 0).all()
    assert (seen.probabilities[seen.visible] > 0).all()
    assert (seen.visible[:, seen.block_keys] == np.tri(num_tokens, dtype=bool)).all()
    assert seen.visible[:, seen.fam_keys].all()
    assert (seen.visible[:, seen.segment_keys] == (seen.segment_tokens != NO_TOKEN)).all()
    exists = np.arange(block - seen.num_segments, block) >= 0
    assert (seen.segment_tokens != NO_TOKEN).tolist() == np.repeat(exists, BLOCK).tolist()


def test_tokens_of_the_axes():
    """Guards against texts that stand beside other rows and columns than theirs."""
    text = [BOS, *IDS]
    seen = attention_map(make_model(), IDS, 0, 0, block=4)
    assert seen.tokens.tolist() == text[4 * BLOCK : 5 * BLOCK]
    assert seen.segment_tokens.tolist() == text[2 * BLOCK : 4 * BLOCK]
    assert seen.first_position == 4 * BLOCK
    first = attention_map(make_model(), IDS, 0, 0, block=1)
    assert first.segment_tokens.tolist() == [NO_TOKEN] * BLOCK + text[:BLOCK]


def test_a_string_and_its_ids_are_the_same_text():
    """Guards against a beginning token too many or too few, and against another default block than the last."""
    model = make_model()
    from_text = attention_map(model, "Who did it, then?", 1, 3)
    from_ids = attention_map(model, [b + 3 for b in b"Who did it, then?"], 1, 3, block=4)
    assert from_text.block == from_ids.block == 4
    assert_close(from_text.probabilities, from_ids.probabilities, EXACT)


@pytest.mark.parametrize("model_parallelism", [1, 2])
def test_several_devices_see_the_same(model_parallelism):
    """Guards against one row that is to be spread over the data axis, and against heads that are mixed up."""
    model = make_model()
    mesh = MeshConfig(model_parallelism=model_parallelism)
    one, eight = (attention_map(each, IDS, 1, 1) for each in (model, dataclasses.replace(model, mesh=mesh)))
    assert_close(eight.probabilities, one.probabilities, FLOAT32)


def test_history():
    """Guards against a block that is left out, a first block that is compared, and another reference of departure."""
    model = make_model()

    @jax.jit
    def fam_after(params, length):
        whole_model, tokens = Transformer(model.config), np.array([[BOS, *IDS]], np.int32)
        state = transformer.initial_state(whole_model, params, 1)
        return transformer.read(whole_model, params, jnp.asarray(tokens), state, length).state.fam

    ends = [np.array([blocks * BLOCK], np.int32) for blocks in range(1, NUM_BLOCKS)]
    fams = [np.asarray(fam_after(model.params, end)) for end in ends]

    def mean_square(fam):
        return np.square(fam).mean(axis=(1, 2, 3))

    history = fam_history(model, IDS)
    nothing = np.full(model.config.num_layers, np.nan)
    changes = [mean_square(new - old) / mean_square(new) for old, new in itertools.pairwise(fams)]
    departures = [mean_square(fam - fams[0]) / mean_square(fam) for fam in fams[1:]]
    assert_close(history.norm, np.array([mean_square(fam) ** 0.5 for fam in fams]), FLOAT32)
    assert_close(history.update, np.array([nothing, *changes]), FLOAT32)
    assert_close(history.departure, np.array([nothing, *departures]), FLOAT32)
    _, of_tokens, _ = whole(model, IDS)
    to_fam = of_tokens[:, :, :-1, :, 2 * BLOCK : 2 * BLOCK + 3].sum(axis=-1)
    assert_close(history.attention, to_fam.mean(axis=(1, 3)).T, FLOAT32)


def test_a_long_text_takes_no_more_memory():
    """Guards against maps or activations of the blocks before that are kept: four numbers a layer are."""
    model = make_model()
    reader = BlockReader(model, random_ids(80 * BLOCK))

    def held():
        return sum(array.nbytes for array in jax.live_arrays())

    reader.read_to(20)
    before = held()
    reader.read_to(70)
    assert held() - before == 50 * 4 * model.config.num_layers * 4


@pytest.mark.parametrize(
    ("layer", "head", "said"),
    [
        (2, 0, "no layer 2: the model's layers are 0 to 1; see --gin.LAYERS"),
        (-1, 0, "layer -1"),
        (0, 4, "heads are 0 to 3"),
    ],
)
def test_layers_and_heads_that_are_not_there(layer, head, said):
    """Guards against numpy's view: an index that is cut, or counts from the end."""
    with pytest.raises(ConfigError, match=said):
        attention_map(make_model(), IDS, layer, head)


@pytest.mark.parametrize("block", [6, -7])
def test_a_text_without_the_block(block):
    """Guards against an empty map, or one of another block."""
    with pytest.raises(DataError, match=f"no block {block}: the text, 22 tokens .* 6 blocks of 4: 0 to 5, or -1 to -6"):
        attention_map(make_model(), IDS, 0, 0, block)


def test_texts_that_are_none():
    """Guards against a map of the beginning token alone, and against ids that the embedding table would clip."""
    for text in ("", []):
        with pytest.raises(DataError, match="empty text"):
            attention_map(make_model(), text, 0, 0)
    with pytest.raises(DataError, match="no token 264: the model's ids are 0 to 263"):
        attention_map(make_model(), [70, 264], 0, 0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"checkpoint": ""}, "AttentionJob.checkpoint is empty"),
        ({"text_file": ""}, "AttentionJob.text_file is empty"),
        ({"output_dir": ""}, "AttentionJob.output_dir is empty"),
        ({"layers": ()}, "AttentionJob.layers is empty"),
        ({"heads": ()}, "AttentionJob.heads is empty"),
        ({"blocks": ()}, "AttentionJob.blocks is empty"),
    ],
)
def test_a_job_without_something(changes, said):
    """Guards against a run that ends well and draws nothing."""
    with pytest.raises(ConfigError, match=said):
        AttentionJob(**{"checkpoint": "run", "text_file": "a.txt", "output_dir": "out"} | changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint of one layer and two heads with blocks of 8 tokens, and a text of 3 blocks and 2 tokens."""
    folder = tmp_path_factory.mktemp("attention")
    write_checkpoint(folder)
    (folder / "text.txt").write_text("Costs $5 and $6: a text.\n")
    (folder / "empty.txt").write_text("")
    return folder


@pytest.fixture
def job(folder, tmp_path):
    """A job of all maps of two blocks."""
    return AttentionJob(
        checkpoint=str(folder / "run"),
        text_file=str(folder / "text.txt"),
        output_dir=str(tmp_path / "pictures"),
        blocks=(1, -1),
        mesh=ONE_DEVICE,
    )


def test_draw(job, tmp_path, capsys, monkeypatch):
    """Guards against a picture under the name of another, and against one that is told of and not there."""
    drawn = []

    def note(seen, vocabulary, source):
        drawn.append((seen, source))
        return draw_map(seen, vocabulary, source)

    monkeypatch.setattr(attention_maps, "draw_map", note)
    draw(job)
    names = [f"block{block}-{rest}.png" for block in (1, 3) for rest in ("overview", "layer0-head0", "layer0-head1")]
    written = [str(tmp_path / "pictures" / name) for name in [*names, "fam.png"]]
    assert capsys.readouterr().out.split() == written
    assert {str(path) for path in (tmp_path / "pictures").iterdir()} == set(written)
    for path in written:
        assert min(matplotlib.image.imread(path).shape[:2]) > 100
    assert [(seen.block, seen.layer, seen.head) for seen, _ in drawn] == [(1, 0, 0), (1, 0, 1), (3, 0, 0), (3, 0, 1)]
    assert drawn[0][1] == Source("run/checkpoint_7", "text.txt")
    assert Bytes().decode(drawn[0][0].tokens) == "5 and $6"


def test_draw_one_map_with_another_memory(job, tmp_path):
    """Guards against overrides that are not applied, and against pictures of what the model lacks."""
    changed = dataclasses.replace(job, heads=(1,), blocks=(0,), memory=MemoryOverrides(with_fam=False, num_segments=0))
    draw(changed)
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["block0-layer0-head1.png"]


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"text_file": "nowhere.txt"}, DataError, "nowhere.txt cannot be read: No such file"),
        ({"text_file": "empty.txt"}, DataError, "empty.txt is empty: there is nothing to look at. Set --gin.TEXT_FILE"),
        ({"checkpoint": "nowhere"}, CheckpointError, "nowhere"),
        ({"output_dir": "text.txt"}, CheckpointError, "text.txt cannot be written .* Set --gin.OUTPUT_DIR"),
        ({"layers": (1,)}, ConfigError, "no layer 1: the model's layers are 0 to 0"),
        ({"heads": (0, 2)}, ConfigError, "no head 2: the model's heads are 0 to 1"),
        ({"blocks": (0, 4)}, DataError, r"no block 4: (.|\n)* Set --gin.BLOCKS"),
    ],
)
def test_draw_refuses(job, folder, changes, error, said):
    """Guards against a traceback, and against another error than the one that helps."""
    paths = {name: str(folder / value) for name, value in changes.items() if isinstance(value, str)}
    with pytest.raises(error, match=said):
        draw(dataclasses.replace(job, **changes | paths))


def test_a_picture_that_cannot_be_written(job, tmp_path):
    """Guards against a traceback where the folder is there and a picture cannot be put into it."""
    (tmp_path / "pictures" / "block1-overview.png").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="pictures cannot be written"):
        draw(job)


class Subwords(Bytes):
    """A vocabulary with whatever may stand beside an axis."""

    texts = ("", r"$\frac$", "_hidden", "\n", "\x07", "\N{HUGGING FACE}", "two words", " blank", "\ufffd")

    def decode(self, ids):
        return self.texts[ids[0] % len(self.texts)]


def size_of(png):
    """Width and height in pixels."""
    height, width, _ = matplotlib.image.imread(io.BytesIO(png)).shape
    return width, height


def test_token_texts():
    """Guards against labels that are a formula, hidden, invisible or boxes."""
    shown = [attention_pictures._shown(Subwords(), token) for token in range(len(Subwords.texts))]
    assert shown == ["<bos>", r"$\frac$", " _hidden", "↵", "<4>", "<5>", "two␣words", "␣blank", "<8>"]
    seen = attention_map(make_model(), list(range(len(shown))), 0, 0, block=1)
    assert size_of(draw_map(seen, Subwords(), Source("run/checkpoint_7", r"$\frac$.txt"))) > (300, 200)


@pytest.mark.parametrize("memory", ["fam", "no_segments", "bswa", "block_only"])
def test_pictures_of_every_memory(memory, monkeypatch):
    """Guards against a panel that only some models have, with labels and without."""
    model = make_model(**MEMORIES[memory])
    reader = BlockReader(model, IDS)
    reader.read_to(1)
    full = reader.look()
    reader.read_to(5)
    unfinished = reader.look()
    heights = [size_of(draw_map(seen.map(1, 1), Bytes(), SOURCE))[1] for seen in (full, unfinished)]
    assert (heights[0] > heights[1]) == (model.config.memory.fam_length > 0)
    monkeypatch.setattr(attention_pictures, "_MOST_LABELS", 2)
    monkeypatch.setattr(attention_pictures, "_MOST_CELLS", 3)
    assert size_of(draw_map(full.map(1, 1), Bytes(), SOURCE)) > (300, 200)
    assert size_of(draw_overview(full, (0, 1), (0, 2, 3), SOURCE)) > (300, 200)


@pytest.mark.parametrize("num_layers", [1, 3, 12])
@pytest.mark.parametrize("num_blocks", [1, 2, 50])
def test_pictures_of_histories(num_layers, num_blocks):
    """Guards against one block, whose update is no number, and against more layers than there are names for."""
    values = np.random.default_rng(0).uniform(size=(4, num_blocks, num_layers)).astype(np.float32)
    values[2:, 0] = np.nan
    norm, attention, update, departure = values
    history = FamHistory(norm=norm, update=update, departure=departure, attention=attention)
    assert size_of(draw_history(history, MemoryConfig(8, 1, 2), SOURCE)) > (1000, 600)


def test_a_single_bright_key_is_not_lost():
    """Guards against images that are thinned out: of keys that share a cell the largest shows."""
    values = np.full((7, 2000), 1e-5, np.float32)
    values[3, 1237] = 0.9
    values[:, 1990:] = np.nan
    small = attention_pictures._resized(values, 7, 100)
    assert small.shape == (7, 100)
    assert np.argwhere(small == np.float32(0.9)).tolist() == [[3, 61]]
    assert np.isnan(small[:, 99]).sum() == 0
    assert np.isnan(attention_pictures._resized(values, 7, 400)[:, 398:]).all()
    assert attention_pictures._resized(values[:, :3], 14, 6).shape == (14, 6)
