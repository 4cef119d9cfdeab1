"""Exports: bit-equal when imported again, and families chosen by what they can compute."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import linen as nn
from hf_models import FIXTURES, RECIPES
from imported import FULL, expected_of, import_fixture, logits_of, params_in
from safetensors.numpy import load_file

from famjax.errors import CheckpointError, ConfigError
from famjax.interop.exporting import export_checkpoint, export_parameters
from famjax.interop.importing import import_checkpoint
from famjax.models.config import MemoryConfig, TransformerConfig
from famjax.models.transformer import Transformer, init_params
from famjax.training.checkpoints import Checkpointer
from famjax.training.config import CheckpointConfig
from tolerances import FLOAT32, assert_close


def tensors_in(folder):
    """Every tensor of a model's files."""
    return {
        name: value for file in sorted(folder.glob("model*.safetensors")) for name, value in load_file(file).items()
    }


@pytest.mark.parametrize("name", RECIPES)
def test_import_and_export_is_bit_equal(name, tmp_path):
    """Guards against a tensor that is changed, cast or lost on the way, in files large and small."""
    import_fixture(name, tmp_path)
    made = export_checkpoint(str(tmp_path / name), tmp_path / "out", shard_bytes=5000)
    assert len(made.files) > 1
    expected, actual = tensors_in(FIXTURES / name), tensors_in(tmp_path / "out")
    assert set(actual) == set(expected)
    for tensor, value in expected.items():
        assert actual[tensor].dtype == value.dtype
        assert actual[tensor].tobytes() == value.tobytes(), tensor
    again = import_checkpoint(tmp_path / "out", tmp_path / "again", FULL)
    config = json.loads((FIXTURES / name / "config.json").read_text())
    assert again.family.architecture == config["architectures"][0]
    assert params_in(tmp_path / "again")[0] == params_in(tmp_path / name)[0]
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in expected.values())


def own_model(**changes) -> TransformerConfig:
    """A model as famjax trains it from scratch, with FAM."""
    memory = MemoryConfig(block_size=8, num_segments=1, fam_length=3)
    config = TransformerConfig(
        vocab_size=40, emb_dim=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, mlp_dim=24, memory=memory
    )
    return dataclasses.replace(config, **changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run's checkpoint, written by the trainer's own code."""
    folder, config = tmp_path_factory.mktemp("run"), own_model()
    params = nn.meta.unbox(init_params(Transformer(config), jax.random.key(3)))
    with Checkpointer(folder, CheckpointConfig(), config) as checkpointer:
        checkpointer.save(7, {"step": np.int32(7), "params": params}, {}, force=True)
    return folder, config, params


def test_own_model_and_its_fam(trained, tmp_path):
    """Guards against a checkpoint of a run that comes back as another function, or without its FAM.

    famjax scales tied logits by D ** -0.5; the export folds that into the last norm.
    """
    folder, config, params = trained
    made = export_checkpoint(str(folder), tmp_path / "out")
    assert (made.family.name, made.has_fam, made.folded) == ("llama", True, 0.25)
    assert set(load_file(tmp_path / "out" / "fam.safetensors")) == {"fam_prompt"}
    imported = import_checkpoint(tmp_path / "out", tmp_path / "again", FULL)
    assert imported.config.memory == config.memory
    again, loaded = params_in(tmp_path / "again")
    np.testing.assert_array_equal(loaded["fam_prompt"], params["fam_prompt"])
    tokens, _ = expected_of("llama")
    actual = logits_of(again, loaded, tokens)
    assert_close(actual, logits_of(config, params, tokens), FLOAT32)
    assert np.abs(actual).max() > 0.1


def test_dtype_and_like(tmp_path):
    """Guards against weights twice as large as asked for, and a folder without its tokenizer."""
    import_fixture("llama", tmp_path)
    like = tmp_path / "like"
    like.mkdir()
    (like / "tokenizer.json").write_text("{}")
    config = json.loads((FIXTURES / "llama" / "config.json").read_text())
    (like / "config.json").write_text(json.dumps({**config, "eos_token_id": [5, 6]}))
    export_checkpoint(str(tmp_path / "llama"), tmp_path / "out", like=like, dtype="bfloat16")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (written["torch_dtype"], written["eos_token_id"], written["max_position_embeddings"]) == (
        "bfloat16",
        [5, 6],
        128,
    )
    assert {value.dtype.name for value in tensors_in(tmp_path / "out").values()} == {"bfloat16"}
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "{}"


def test_refused(trained, tmp_path):
    """Guards against an export over another model, as a family that computes something else, or of no model at all."""
    folder, _, params = trained
    with pytest.raises(ConfigError, match="--family=bert is not known; allowed: llama, mistral, qwen2"):
        export_checkpoint(str(folder), tmp_path / "out", family="bert")
    with pytest.raises(
        ConfigError, match="transformers cannot compute this model as gemma; its settings: vocab_size = 40"
    ):
        export_checkpoint(str(folder), tmp_path / "out", family="gemma")
    with pytest.raises(ConfigError, match=r"as llama, mistral, .*; its settings: .*attention_soft_cap = 4.0"):
        export_parameters(lambda path, layer: params, own_model(attention_soft_cap=4.0), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    for left in ("config.json", "model-00002-of-00003.safetensors", "model.safetensors.0.partial", "fam.safetensors"):
        (tmp_path / left).mkdir()
        (tmp_path / left / left).write_text("{}")
        with pytest.raises(CheckpointError, match=rf"holds a model already \({left}\); give another --output"):
            export_checkpoint(str(folder), tmp_path / left)
    with pytest.raises(CheckpointError, match=r"\(--checkpoint\) does not exist"):
        export_checkpoint(str(tmp_path / "nothing"), tmp_path / "other")
