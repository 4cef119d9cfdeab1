"""Imports: transformers' numbers, checkpoints that open like any other, and folders that are refused by name."""

import dataclasses
import json
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from hf_models import FIXTURES, RECIPES
from imported import BLOCK, copy_of, expected_of, import_fixture, logits_of, params_in, with_more_tokens
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from famjax.configuration.loading import load
from famjax.errors import CheckpointError
from famjax.inference.language_model import LanguageModel
from famjax.interop.importing import import_checkpoint
from famjax.models.config import MemoryConfig
from famjax.pods.config import MeshConfig
from famjax.training.checkpoint_files import damage, stored_arrays
from famjax.training.config import RestoreConfig, TrainJob
from famjax.training.restore import find_checkpoint, initialize_from
from tolerances import Tolerance, assert_close

# transformers computes RoPE's angles and everything else in float32, in another order.
TRANSFORMERS = Tolerance(0.0, 2e-4)
SMALL = MemoryConfig(block_size=BLOCK, num_segments=1, fam_length=0)


@pytest.mark.parametrize("name", RECIPES)
def test_logits_are_those_of_transformers(name, tmp_path):
    """Guards against a tensor in the wrong place or the wrong way round, and a value of config.json that is not read.

    The text is longer than two blocks.
    """
    made = import_fixture(name, tmp_path)
    tokens, expected = expected_of(name)
    assert tokens.shape[1] > 2 * BLOCK
    config, params = params_in(tmp_path / name)
    assert dataclasses.replace(config, dtype=made.config.dtype) == made.config
    assert_close(logits_of(config, params, tokens), expected, TRANSFORMERS)
    assert np.abs(expected).max() > 1


def test_fixtures_are_what_they_claim():
    """Guards against fixtures that lost what they are there for: several files, tied or not, heads of every kind."""
    configs = {name: json.loads((FIXTURES / name / "config.json").read_text()) for name in RECIPES}
    heads = {config["num_key_value_heads"] for config in configs.values()}
    assert heads == {1, 2, 4}
    assert {config["tie_word_embeddings"] for config in configs.values()} == {True, False}
    sharded = [name for name in RECIPES if len(list((FIXTURES / name).glob("model*.safetensors"))) > 1]
    assert sharded == ["llama", "qwen2_window", "gemma2"]
    assert {config["architectures"][0] for config in configs.values()} == {
        *("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"),
        *("GemmaForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM"),
    }


def test_checkpoint_keeps_dtypes_and_is_whole(tmp_path):
    """Guards against weights that take twice the room, or a checkpoint whose damage nobody would see."""
    for name, dtype in (("llama", "float32"), ("mistral", "bfloat16")):
        made = import_fixture(name, tmp_path)
        arrays = stored_arrays(find_checkpoint(tmp_path / name).path)
        assert {str(array.dtype) for path, array in arrays.items() if path != "step"} == {dtype}
        assert damage(find_checkpoint(tmp_path / name).path) is None
        total = sum(array.size * array.dtype.itemsize for path, array in arrays.items() if path != "step")
        assert made.num_bytes == total
        assert not list((tmp_path / name).glob("*tmp*"))


def test_onto_a_mesh(tmp_path):
    """Guards against parts of a parameter that reach the wrong device."""
    import_fixture("mistral", tmp_path)
    _, whole = params_in(tmp_path / "mistral")
    _, cut = params_in(tmp_path / "mistral", MeshConfig(model_parallelism=4))
    assert not cut["layers"]["mlp"]["up"]["kernel"].sharding.is_fully_replicated
    for path, leaf in flatten_dict(cut).items():
        np.testing.assert_array_equal(leaf, flatten_dict(whole)[path])


def test_large_tables_are_cut(tmp_path, monkeypatch):
    """Guards against parts of a table, or of a layer's kernel, that land in the wrong rows: chunks of a few numbers."""
    import_fixture("llama", tmp_path)
    monkeypatch.setattr("famjax.interop.array_store._CHUNK_BYTES", 256)
    import_fixture("llama", tmp_path / "cut")
    _, whole = params_in(tmp_path / "llama")
    _, cut = params_in(tmp_path / "cut" / "llama")
    assert len(list((tmp_path / "cut").rglob("params.embedding.table/*"))) > 10
    for path, leaf in flatten_dict(cut).items():
        np.testing.assert_array_equal(leaf, flatten_dict(whole)[path])


def test_a_job_trains_from_it(tmp_path):
    """Guards against a gin file that is not the checkpoint's model, and a FAM that is not said to be new."""
    import_fixture("gemma3", tmp_path, SMALL)
    files = [str(tmp_path / "gemma3" / "model.gin"), "runs/finetune.gin", "memory/fam.gin"]
    bindings = {
        "MODEL_DIR": f"'{tmp_path / 'run'}'",
        "INITIAL_CHECKPOINT_PATH": f"'{tmp_path / 'gemma3'}'",
        "MIXTURE_OR_TASK_NAME": "'documents'",
        "TASK_FEATURE_LENGTHS": "{'targets': 64}",
        "TRAIN_STEPS": "1",
        "BLOCK_SIZE": "8",
        "NUM_SEGMENTS": "1",
        "FAM_LENGTH": "3",
    }
    job = load(TrainJob, files, list(bindings.items())).job
    config, params = params_in(tmp_path / "gemma3")
    assert dataclasses.replace(job.model, memory=config.memory, dtype="float32") == config
    fresh = jax.tree.map(np.zeros_like, {**params, "fam_prompt": params["embedding"]["table"][:3]})
    fresh = jax.device_put(fresh, jax.devices()[0])
    start = initialize_from(RestoreConfig(path=job.restore.path), fresh, {})
    assert start.report.initialised == ("fam_prompt",)
    assert start.report.left == ()
    assert_close({**start.params, "fam_prompt": 0}, {**params, "fam_prompt": 0}, Tolerance(0.0, 0.0))


def test_language_model_opens_it(tmp_path):
    """Guards against a checkpoint that inference refuses: read with another memory than the import's."""
    import_checkpoint(with_more_tokens(tmp_path), tmp_path / "out", SMALL)
    model = LanguageModel.open(tmp_path / "out", mesh=MeshConfig(num_devices=1))
    assert len(model.ask_all([model.session()], ["a text"])[0].tokens)
    assert "VOCABULARY =" not in (tmp_path / "out" / "model.gin").read_text()


@pytest.mark.parametrize(("name", "bad"), [("qwen3", np.nan), ("mistral", -np.inf)])
def test_numbers_that_are_none_are_told(name, bad, tmp_path, caplog):
    """Guards against a training that fails at its first step for weights that a disk, or another training, spoilt."""
    folder = copy_of(name, tmp_path)
    spoilt = ["model.norm.weight", "model.layers.1.mlp.up_proj.weight"]

    def spoil(tensors):
        for tensor in spoilt:
            tensors[tensor] = tensors[tensor].copy()
            tensors[tensor].flat[-1] = bad

    rewrite(folder, spoil)
    import_checkpoint(folder, tmp_path / "out", SMALL)
    (told,) = [text for text in caplog.messages if text.startswith("NaN or infinite numbers in ")]
    assert all(tensor in told for tensor in spoilt)
    assert told.count("model.") == 2
    assert find_checkpoint(tmp_path / "out").step == 0
    caplog.clear()
    import_fixture(name, tmp_path / "whole")
    assert not [text for text in caplog.messages if "infinite" in text]


def test_interrupted_import_is_none(tmp_path, monkeypatch):
    """Guards against half a checkpoint that passes for one, and a second try that fails over the first."""
    monkeypatch.setattr("famjax.training.checkpoint_files.seal", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        import_fixture("qwen3", tmp_path)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="has no checkpoint"):
        find_checkpoint(tmp_path / "qwen3")
    import_fixture("qwen3", tmp_path)
    assert find_checkpoint(tmp_path / "qwen3").step == 0
    with pytest.raises(CheckpointError, match=r"qwen3 holds checkpoint_0 already; give another --output"):
        import_fixture("qwen3", tmp_path)


def rewrite(folder, change):
    """Changes the tensors of a single-file model."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def edit_config(**changes):
    """A damage that sets keys of config.json."""

    def edit(folder):
        values = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**values, **changes}))

    return edit


def drop_bytes(folder):
    """Cuts a file short."""
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def rename(old, new):
    """A damage that renames a tensor."""
    return lambda folder: rewrite(folder, lambda tensors: tensors.update({new: tensors.pop(old)}))


UP = "model.layers.1.mlp.up_proj.weight"
DAMAGES = {
    "missing": (
        lambda folder: rewrite(folder, lambda tensors: tensors.pop(UP)),
        rf"qwen3 lacks {UP}, which its config.json asks for",
    ),
    "extra": (
        lambda folder: rewrite(folder, lambda tensors: tensors.update({"model.extra": tensors[UP]})),
        r"qwen3 has model.extra, which its config.json has no place for",
    ),
    "mis_shaped": (
        lambda folder: rewrite(folder, lambda tensors: tensors.update({UP: tensors[UP].T.copy()})),
        rf"{UP} has the shape \[16, 24\]; config.json asks for \[24, 16\]",
    ),
    "cut_short": (drop_bytes, r"model.safetensors is damaged or cut short \(.*\); download or copy it again"),
    "quantized": (
        lambda folder: rewrite(folder, lambda tensors: tensors.update({UP: tensors[UP].astype(np.int8)})),
        rf"{UP} has the dtype I8; known: F32, BF16, F16. Quantized weights are not read",
    ),
    "no_file": (lambda folder: (folder / "model.safetensors").unlink(), "has neither model.safetensors nor .*It has: "),
    "other_format": (
        lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
        "It has pytorch_model.bin, a format that is not read",
    ),
    "no_config": (lambda folder: (folder / "config.json").unlink(), "config.json cannot be read: No such file"),
    "bad_config": (lambda folder: (folder / "config.json").write_text("{"), "config.json is not JSON"),
    "architecture": (
        edit_config(architectures=["MambaForCausalLM"]),
        "the architecture 'MambaForCausalLM' is not supported; known: LlamaForCausalLM, ",
    ),
    "tied_but_different": (
        edit_config(tie_word_embeddings=True),
        "lm_head.weight is not model.embed_tokens.weight; if the model was trained so, set tie_word_embeddings",
    ),
    "rope": (
        edit_config(rope_parameters={"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6}),
        "RoPE scaling = 'yarn' is not supported, and leaving it out would change the model; known: default, linear",
    ),
}


@pytest.mark.parametrize("damaged", DAMAGES.values(), ids=DAMAGES)
def test_refused_by_name(damaged, tmp_path):
    """Guards against a model that is silently another one, and against a half-written output."""
    damage_folder, message = damaged
    folder = copy_of("qwen3", tmp_path)
    damage_folder(folder)
    with pytest.raises(CheckpointError, match=message):
        import_checkpoint(folder, tmp_path / "out", SMALL)
    assert not (tmp_path / "out").exists()


def test_index_and_files_disagree(tmp_path):
    """Guards against a shard of another model, or one that was not downloaded."""
    folder = copy_of("llama", tmp_path)
    file = folder / "model-00002-of-00003.safetensors"
    tensors = load_file(file)
    name = next(iter(tensors))
    save_file({key: value for key, value in tensors.items() if key != name}, file)
    with pytest.raises(CheckpointError, match=rf"{file.name} lacks the tensor {name}, which model.safetensors.index"):
        import_checkpoint(folder, tmp_path / "out", SMALL)
    file.unlink()
    with pytest.raises(CheckpointError, match=rf"{file.name} is missing"):
        import_checkpoint(folder, tmp_path / "out", SMALL)


def test_tied_copy_and_old_tables_are_not_needed(tmp_path):
    """Guards against real folders that are refused: a tied output stored as well, RoPE's tables of older files.

    A table is not read, so that its dtype is none of famjax's business.
    """
    folder = copy_of("qwen2", tmp_path)
    more = {"lm_head.weight": "model.embed_tokens.weight"}
    table = "model.layers.0.self_attn.rotary_emb.inv_freq"

    def add(tensors):
        tensors.update({copy: tensors[name] for copy, name in more.items()}, **{table: np.ones(4, np.int64)})

    rewrite(folder, add)
    made = import_checkpoint(folder, tmp_path / "out", SMALL)
    assert set(made.ignored) == {table, "lm_head.weight"}
    with safe_open(folder / "model.safetensors", "np") as file:
        assert made.num_tensors == len(list(file.keys())) - 2


MEMORY = {"block_size": 8, "num_segments": 1, "fam_length": 3}
PROMPT = {"fam_prompt": np.ones((3, 16), np.float32)}
FAMS = {
    "width": (
        {"fam_prompt": np.ones((3, 15), np.float32)},
        MEMORY,
        r"has fam_prompt of the shape \[3, 15\]; .*\[3, 16\]",
    ),
    "length": (
        {"fam_prompt": np.ones((2, 16), np.float32)},
        MEMORY,
        r"has fam_prompt of the shape \[2, 16\]; .*\[3, 16\]",
    ),
    "none": ({}, MEMORY, r"fam.safetensors lacks fam_prompt; its memory in the model of config.json asks for"),
    "prefix": ({"layers/fam_prefix": np.ones((2, 3, 16), np.float32)}, MEMORY, r"lacks fam_prompt"),
    "not_asked_for": (PROMPT, {**MEMORY, "fam_length": 0}, r"has fam_prompt of the shape .*asks for none"),
    "unknown_key": (PROMPT, {**MEMORY, "gate": 1}, r"its memory has gate, which this famjax does not know"),
    "no_json": (PROMPT, "x", r"its metadata 'memory' are not JSON"),
    "no_object": (PROMPT, [1], r"its metadata 'memory' hold no JSON object"),
    "invalid": (PROMPT, {**MEMORY, "block_size": 0}, r"its memory is none: MemoryConfig.block_size"),
    "wrong_type": (PROMPT, {**MEMORY, "block_size": "8"}, r"its memory is none: "),
}


@pytest.mark.parametrize(("arrays", "memory", "message"), FAMS.values(), ids=FAMS)
def test_a_fam_that_does_not_fit(arrays, memory, message, tmp_path):
    """Guards against a FAM of another model, or half of one, that goes into the checkpoint without a word."""
    folder = copy_of("qwen3", tmp_path)
    metadata = {"memory": memory if isinstance(memory, str) else json.dumps(memory)}
    save_file(arrays, folder / "fam.safetensors", metadata=metadata)
    with pytest.raises(CheckpointError, match=message):
        import_checkpoint(folder, tmp_path / "out", SMALL)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16])
def test_a_fam_of_another_dtype(dtype, tmp_path):
    """Guards against a checkpoint whose FAM has other bytes than its description says, and which cannot be read."""
    folder, prompt = copy_of("qwen3", tmp_path), np.arange(48).reshape(3, 16) / 8
    save_file({"fam_prompt": prompt.astype(dtype)}, folder / "fam.safetensors", metadata={"memory": json.dumps(MEMORY)})
    import_checkpoint(folder, tmp_path / "out", SMALL)
    np.testing.assert_array_equal(params_in(tmp_path / "out")[1]["fam_prompt"], prompt.astype(np.float32))


def test_output_is_the_source(tmp_path, monkeypatch):
    """Guards against a checkpoint in the folder that it is read from, whose tokenizer is copied over itself."""
    folder = copy_of("qwen3", tmp_path)
    monkeypatch.chdir(folder)
    before = sorted(folder.iterdir())
    with pytest.raises(CheckpointError, match=r"--output=\. is the folder that is imported; give another one"):
        import_checkpoint(folder, Path(), SMALL)
    assert sorted(folder.iterdir()) == before


def test_a_disk_that_fails(tmp_path, monkeypatch):
    """Guards against a traceback, and a checkpoint without its gin file that passes for whole."""
    write = Path.write_text

    def fail(path, *arguments, **settings):
        if path.name == "model.gin":
            raise OSError(28, "No space left on device")
        return write(path, *arguments, **settings)

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(CheckpointError, match="qwen3 could not be written: No space left on device"):
        import_fixture("qwen3", tmp_path)
    with pytest.raises(CheckpointError, match="has no checkpoint"):
        find_checkpoint(tmp_path / "qwen3")
