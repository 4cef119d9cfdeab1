"""Checkpoints of t5x: both layouts, layers apart and together, other decoders' mappings, and what is refused."""

import dataclasses
import json
import re

import numpy as np
import pytest
import t5x_checkpoints as made_by_t5x
from flax.traverse_util import flatten_dict
from imported import FULL, logits_of, params_in
from t5x_checkpoints import HEAD, HEADS, KV_HEADS, LAYERS, MLP, VOCAB, WIDTH

from famjax.errors import CheckpointError, ConfigError
from famjax.interop import t5x
from famjax.interop.t5x_importing import import_t5x
from famjax.interop.t5x_layouts import Stack, StoredArray, open_checkpoint
from famjax.interop.t5x_mapping import DECODER_ONLY, FAMJAX, read_mapping
from small import CONFIG, params_of, vary
from tolerances import EXACT, FLOAT32, assert_close

TOKENS = np.random.default_rng(3).integers(0, VOCAB, 21)
HEADS_GIVEN = {"num_heads": HEADS}
# t5x's names of a layer's parameters, with the shapes that they have here.
OURS = {
    "attention_norm/scale": ("pre_self_attention_layer_norm/scale", (WIDTH,)),
    "attention/query/kernel": ("self_attention/query/kernel", (WIDTH, HEADS, HEAD)),
    "attention/key/kernel": ("self_attention/key/kernel", (WIDTH, KV_HEADS, HEAD)),
    "attention/value/kernel": ("self_attention/value/kernel", (WIDTH, KV_HEADS, HEAD)),
    "attention/out/kernel": ("self_attention/out/kernel", (HEADS, HEAD, WIDTH)),
    "mlp_norm/scale": ("pre_mlp_layer_norm/scale", (WIDTH,)),
    "mlp/gate/kernel": ("mlp/wi_0/kernel", (WIDTH, MLP)),
    "mlp/up/kernel": ("mlp/wi_1/kernel", (WIDTH, MLP)),
    "mlp/down/kernel": ("mlp/wo/kernel", (MLP, WIDTH)),
}


def expected_parameters(arrays):
    """What the arrays are here, by path."""
    expected = {
        "embedding/table": arrays["decoder/token_embedder/embedding"],
        "final_norm/scale": arrays["decoder/decoder_norm/scale"],
    }
    if "decoder/logits_dense/kernel" in arrays:
        expected["output/kernel"] = arrays["decoder/logits_dense/kernel"]
    for ours, (theirs, shape) in OURS.items():
        parts = [arrays[f"decoder/layers_{layer}/{theirs}"].reshape(shape) for layer in range(LAYERS)]
        expected[f"layers/{ours}"] = np.stack(parts)
    return expected


def read_in(source, output, mapping=DECODER_ONLY, given=None):
    """Imports with the memory that is full attention over the tests' text."""
    return import_t5x(source, output, FULL, read_mapping(mapping), HEADS_GIVEN if given is None else given)


def assert_parameters(folder, arrays):
    """The checkpoint's parameters are the arrays, bit for bit; returns the model and them."""
    config, params = params_in(folder)
    flat, expected = flatten_dict(params, sep="/"), expected_parameters(arrays)
    assert set(flat) == set(expected)
    for path, value in expected.items():
        np.testing.assert_array_equal(flat[path], value, err_msg=path)
    return config, params


@pytest.mark.parametrize("start", ["prompt", "prefix"])
def test_famjax_s_own_model_keeps_its_fam(start, tmp_path):
    """Guards against a model trained with famjax's class for t5x that comes back without its memory."""
    config = vary(fam_start=start)
    params = {path: np.asarray(value) for path, value in flatten_dict(params_of(config), sep="/").items()}
    made_by_t5x.write_orbax(params, tmp_path / "t5x")
    memory = dataclasses.replace(config.memory, fam_length=0)
    import_t5x(tmp_path / "t5x", tmp_path / "out", memory, read_mapping(FAMJAX), {})
    found_config, found = params_in(tmp_path / "out")
    assert found_config == config
    assert_close(flatten_dict(found, sep="/"), params, EXACT)


def test_a_fam_of_another_width_is_refused(tmp_path):
    """Guards against a prompt that a mapping takes from somewhere else."""
    params = {path: np.asarray(value) for path, value in flatten_dict(params_of(CONFIG), sep="/").items()}
    made_by_t5x.write_orbax(params | {"fam_prompt": np.zeros((3, 5), np.float32)}, tmp_path / "t5x")
    with pytest.raises(CheckpointError, match=r"fam_prompt would have the shape \[3, 5\]"):
        read_in(tmp_path / "t5x", tmp_path / "out", FAMJAX, {})


WRITERS = {
    "legacy": (made_by_t5x.write_legacy, False, True),
    "legacy_scanned": (made_by_t5x.write_legacy, True, False),
    "orbax": (made_by_t5x.write_orbax, False, False),
    "orbax_scanned": (made_by_t5x.write_orbax, True, True),
}


@pytest.mark.parametrize(("write", "is_scanned", "tied"), WRITERS.values(), ids=WRITERS)
def test_parameters_and_logits(write, is_scanned, tied, tmp_path):
    """Guards against gate and up, heads or layers that change places, and a scale of scores that is not t5x's."""
    arrays = made_by_t5x.make_arrays(tied=tied)
    write(made_by_t5x.scanned(arrays) if is_scanned else arrays, tmp_path / "t5x")
    made = read_in(tmp_path / "t5x", tmp_path / "out")
    assert made.num_tensors == len(arrays)
    assert made.num_bytes == sum(value.nbytes for value in arrays.values())
    assert made.source.layout == ("legacy" if write is made_by_t5x.write_legacy else "Orbax")
    config, params = assert_parameters(tmp_path / "out", arrays)
    assert (config.num_heads, config.num_kv_heads, config.head_dim) == (HEADS, KV_HEADS, HEAD)
    expected = made_by_t5x.decoder_logits(arrays, TOKENS)
    assert np.abs(expected).max() > 1
    assert_close(logits_of(config, params, TOKENS[None].astype(np.int32))[0], expected, FLOAT32)


def test_another_decoder_by_its_own_mapping(tmp_path):
    """Guards against a mapping that is followed for one model alone: other names, layers first, a matrix turned."""
    arrays = made_by_t5x.make_arrays()
    stored = {name.replace("decoder/", "lm/"): value for name, value in made_by_t5x.scanned(arrays, 0).items()}
    stored["lm/layers/mlp/wo/kernel"] = stored["lm/layers/mlp/wo/kernel"].swapaxes(1, 2)
    query = "lm/layers/self_attention/query/kernel"
    stored[query] = stored[query].reshape(LAYERS, WIDTH, HEADS, HEAD).transpose(0, 2, 1, 3)  # [L, H, D, h]
    stored["lm/counter"] = np.zeros(2, np.int64)
    rules = {
        "lm/token_embedder/embedding": "embedding/table",
        "lm/decoder_norm/scale": "final_norm/scale",
        **{
            f"lm/layers/{theirs}": {"parameter": f"layers/{ours}", "layers_axis": 0}
            for ours, (theirs, _) in OURS.items()
        },
    }
    rules["lm/layers/mlp/wo/kernel"]["axes"] = [1, 0]
    rules[query]["axes"] = [1, 0, 2]
    settings = {"query_scale": 1.0, "mlp_activation": "gelu", "rope_scaling": {"kind": "linear", "factor": 2.0}}
    mapping = made_by_t5x.write_mapping(
        tmp_path / "lm.json", {"parameters": rules, "settings": settings, "ignored": ["lm/counter"]}
    )
    made_by_t5x.write_orbax(stored, tmp_path / "t5x")
    made = read_in(tmp_path / "t5x", tmp_path / "out", mapping, {"rope_base": 500})
    assert_parameters(tmp_path / "out", arrays)
    assert (made.config.rope_base, made.config.rope_scaling.factor) == (500.0, 2.0)
    assert made.unseen["rope_base"] == "--set"
    assert made.unseen["rope_scaling"] == "the mapping"
    assert made.unseen["norm_epsilon"] == "default"
    assert "num_heads" not in made.unseen
    written = (tmp_path / "out" / "model.gin").read_text()
    assert "TransformerConfig.rope_base = 500.0" in written
    assert "RopeScaling.factor = 2.0" in written


def test_latest_checkpoint_is_taken(tmp_path):
    """Guards against the first of the run's checkpoints, and against one that its folder's name cannot select."""
    for step in (5, 10, 20):
        made_by_t5x.write_legacy(made_by_t5x.make_arrays(seed=step), tmp_path, step, bucket=True)
    read_in(tmp_path, tmp_path / "latest")
    read_in(tmp_path / "checkpoint_5", tmp_path / "first")
    assert_parameters(tmp_path / "latest", made_by_t5x.make_arrays(seed=20))
    assert_parameters(tmp_path / "first", made_by_t5x.make_arrays(seed=5))


def test_layers_are_read_in_groups(tmp_path, monkeypatch):
    """Guards against a chunk that is read once for each of its layers, and an array that stays in memory."""
    arrays = made_by_t5x.scanned(made_by_t5x.make_arrays())
    made_by_t5x.write_legacy(arrays, tmp_path)
    ranges, read_range = [], StoredArray.read_range
    monkeypatch.setattr(
        StoredArray, "read_range", lambda self, *index: ranges.append(index) or read_range(self, *index)
    )
    name = "decoder/layers/mlp/wo/kernel"
    stack = Stack(open_checkpoint(tmp_path).arrays[name], axis=1)
    for layer in range(LAYERS):
        np.testing.assert_array_equal(stack.read(layer), arrays[name][:, layer])
    assert ranges == [(1, 0, 2), (1, 2, 3)]
    assert stack._group is None


UP = "decoder/layers_1/mlp/wi_1/kernel"
CHANGES = {
    "missing": ({UP: None}, r"checkpoint_7 has nothing for layers/mlp/up/kernel of layer 1, by the patterns of .*json"),
    "extra": (
        {"decoder/adapter/kernel": np.zeros((2, 2), np.float32)},
        r'has decoder/adapter/kernel, which .*decoder_only.json \(--mapping\) has no pattern for.*under "ignored"',
    ),
    "mis_shaped": (
        {UP: np.zeros((WIDTH, MLP + 1), np.float32)},
        rf"{UP} has the shape \[{WIDTH}, {MLP + 1}\]; the model asks for \[{WIDTH}, {MLP}\]",
    ),
    "turned": (
        {"decoder/layers_1/self_attention/out/kernel": np.zeros((WIDTH, HEADS * HEAD), np.float32)},
        rf"out/kernel has the shape \[{WIDTH}, {HEADS * HEAD}\]; the model asks for \[{HEADS}, {HEAD}, {WIDTH}\]",
    ),
    "position_biases": (
        {"decoder/relpos_bias/rel_embedding": np.zeros((HEADS, 32), np.float32)},
        "has decoder/relpos_bias/rel_embedding: relative position biases, for which famjax's model",
    ),
    "no_gate": ({"decoder/layers_0/mlp/wi/kernel": np.zeros((2, 2), np.float32)}, "wi/kernel: an MLP without a gate"),
    "dtype": ({UP: np.zeros((WIDTH, MLP), np.int8)}, rf"{UP} has the dtype int8; known: float32, bfloat16, float16"),
    "no_table": (
        {"decoder/token_embedder/embedding": None},
        "has nothing for embedding/table, by the patterns of --mapping",
    ),
    "twice": (
        {"decoder/decoder/mlp/wo/kernel": np.zeros((MLP, LAYERS, WIDTH), np.float32)},
        r"both decoder/.*wo/kernel.* and decoder/.*wo/kernel.* are layers/mlp/down/kernel of layer 0",
    ),
}


@pytest.mark.parametrize(("changes", "message"), CHANGES.values(), ids=CHANGES)
def test_arrays_are_refused_by_name(changes, message, tmp_path):
    """Guards against a model that is silently another one, and against a half-written output."""
    arrays = {**made_by_t5x.make_arrays(), **changes}
    made_by_t5x.write_legacy({name: value for name, value in arrays.items() if value is not None}, tmp_path)
    with pytest.raises(CheckpointError, match=message):
        read_in(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


WO = "target.decoder.layers_1.mlp.wo.kernel"


def cut(pattern):
    """A damage that cuts files short."""

    def damage(folder):
        files = [path for path in folder.glob(pattern) if path.is_file()]
        assert files
        for path in files:
            path.write_bytes(path.read_bytes()[:-9])

    return damage


def remove(name):
    """A damage that deletes a file."""
    return lambda folder: (folder / name).unlink()


DAMAGES = {
    "msgpack": (made_by_t5x.write_legacy, cut("checkpoint"), r"checkpoint_7/checkpoint is damaged or cut short \("),
    "chunk": (made_by_t5x.write_legacy, cut(f"{WO}/0.1"), rf"{WO} cannot be read: a part of it is missing or damaged"),
    # tensorstore reads a missing chunk as zeros, unless it is told not to.
    "no_chunk": (made_by_t5x.write_legacy, remove(f"{WO}/0.1"), rf"{WO} cannot be read: a part of it is missing"),
    "no_array": (made_by_t5x.write_legacy, remove(f"{WO}/.zarray"), rf"{WO}, which holds .*wo/kernel, is missing"),
    "orbax": (
        made_by_t5x.write_orbax,
        cut("state/**/d/*"),
        "state (cannot be read: a part of it|is damaged or cut)",
    ),
    "orbax_names": (made_by_t5x.write_orbax, cut("state/_METADATA"), "state is damaged or cut short"),
    "no_orbax_names": (
        made_by_t5x.write_orbax,
        remove("state/_METADATA"),
        r"checkpoint_7 is no t5x checkpoint: it has neither the file checkpoint \(legacy layout\) nor state/_METADATA",
    ),
}


@pytest.mark.parametrize(("write", "damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_damage_is_told(write, damage, message, tmp_path):
    """Guards against zeros in the place of what was not copied, and a checkpoint of half of the arrays."""
    damage(write(made_by_t5x.make_arrays(), tmp_path))
    with pytest.raises(CheckpointError, match=message):
        read_in(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out" / "checkpoint_0").exists()


READY = json.loads(DECODER_ONLY.read_text())
RULES = READY["parameters"]
WRONG = {
    "no_heads": ({}, {}, r"queries of 24 numbers, all heads in one; say how many heads: --set=num_heads=NUMBER"),
    "setting": ({}, {"heads": 3}, r"--set: heads is no setting of the model; allowed: vocab_size, emb_dim"),
    "type": ({}, {"num_heads": "four"}, r"--set: num_heads = 'four'; it must be an int"),
    "heads_do_not_fit": ({}, {"num_heads": 5}, r"queries of 24 numbers, which are not 5 heads \(num_heads\)"),
    "keys_do_not_fit": ({}, {"num_heads": 3}, r"keys of 12 numbers, which are not heads of 8 \(num_heads = 3\)"),
    "regex": ({"parameters": {**RULES, "decoder/(": "x"}}, HEADS_GIVEN, r"'decoder/\(' is no regular expression"),
    "two_patterns": (
        {"parameters": {**RULES, "decoder/decoder_norm/.*": "final_norm/scale"}},
        HEADS_GIVEN,
        r"both 'decoder/decoder_norm/scale' and 'decoder/decoder_norm/\.\*' match decoder/decoder_norm/scale",
    ),
    "unknown_parameter": (
        {"parameters": {**RULES, "decoder/decoder_norm/scale": "last_norm/scale"}},
        HEADS_GIVEN,
        r"makes decoder/decoder_norm/scale last_norm/scale, which the model has not; it has .*final_norm/scale",
    ),
    "key": ({"parametres": {}}, HEADS_GIVEN, r'a mapping has "parametres"; allowed: settings, parameters'),
    "axes": (
        {"parameters": {**RULES, "decoder/decoder_norm/scale": {"parameter": "final_norm/scale", "axes": [1, 0]}}},
        HEADS_GIVEN,
        r"gives 2 axes to decoder/decoder_norm/scale, which has the shape \[12\]",
    ),
    "no_permutation": (
        {"parameters": {"a": {"parameter": "final_norm/scale", "axes": [1, 2]}}},
        HEADS_GIVEN,
        r"has the axes \[1, 2\]; allowed: 0, 1, ... in some order",
    ),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A checkpoint that nothing is wrong with."""
    return made_by_t5x.write_legacy(made_by_t5x.make_arrays(), tmp_path_factory.mktemp("t5x"))


@pytest.mark.parametrize(("changes", "given", "message"), WRONG.values(), ids=WRONG)
def test_mistakes_in_mapping_and_settings(changes, given, message, whole, tmp_path):
    """Guards against a mapping whose mistakes end in a traceback, or in another model."""
    mapping = made_by_t5x.write_mapping(tmp_path / "own.json", READY, **changes)
    with pytest.raises((ConfigError, CheckpointError), match=message):
        read_in(whole, tmp_path / "out", mapping, given)
    assert not (tmp_path / "out").exists()


def test_command_line(whole, tmp_path, capsys):
    """Guards against flags that do not arrive, settings that are assumed in silence, and paths that cannot be seen."""
    assert t5x.main(["list", f"--source={whole}"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert listed[0].startswith(f"{whole} (legacy layout): 29 arrays, ")
    assert any(re.fullmatch(r"  decoder/layers_1/mlp/wi_1/kernel +float32 +\[12, 20\]", line) for line in listed)
    output = tmp_path / "out"
    flags = ["import", f"--source={whole}", f"--output={output}", "--set=num_heads=4", "--block_size=16"]
    assert t5x.main(flags) == 0
    printed = capsys.readouterr().out
    assert f"{output}/checkpoint_0: 29 tensors" in printed
    assert re.search(r"mlp_activation +\= 'gelu'  \(the mapping\)", printed)
    assert re.search(r"num_heads +\= 4  \(--set\)", printed)
    assert re.search(r"rope_base +\= 10000.0  \(default\)", printed)
    assert f"--gin_file={output}/model.gin" in printed
    assert t5x.main(flags) == 4
    assert "out holds checkpoint_0 already; give another --output" in capsys.readouterr().err
    assert t5x.main([*flags, "--set=num_heads"]) == 2
    assert "--set=num_heads: needs NAME=VALUE" in capsys.readouterr().err
    assert t5x.main(["list", f"--source={tmp_path / 'nowhere'}"]) == 4
    assert "nowhere is neither a t5x MODEL_DIR with checkpoint_<step> nor one of these" in capsys.readouterr().err
