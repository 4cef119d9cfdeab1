"""A model's settings survive JSON, and differences are named."""

import dataclasses
import json

import pytest

from famjax.errors import CheckpointError
from famjax.models.config import RopeScaling
from famjax.training import model_settings
from train_states import MODEL


def test_round_trip():
    """A setting that is lost, the memory's above all."""
    config = dataclasses.replace(MODEL, rope_base=500000.0, memory=dataclasses.replace(MODEL.memory, fam_length=3))
    nested = dataclasses.replace(
        MODEL, rope_scaling=RopeScaling("llama3", 8.0), layer_pattern=("local", "global"), local_window=4
    )
    for changed in (config, nested):
        assert changed != MODEL
        assert model_settings.from_json(json.loads(json.dumps(model_settings.to_json(changed))), "x") == changed


def test_an_older_checkpoint_lacks_a_setting():
    """A checkpoint that cannot be read any more because a setting was added."""
    values = model_settings.to_json(MODEL)
    del values["remat_policy"], values["memory"]["stop_gradient"]
    del values["rope_scaling"], values["layer_pattern"], values["attention_bias"]
    assert model_settings.from_json(values, "x") == MODEL


@pytest.mark.parametrize("change", [{"made_up": 1}, {"num_kv_heads": 3}, {"memory": {"block": 1}}])
def test_settings_of_another_version(change):
    """A setting that this version does not know, silently dropped."""
    with pytest.raises(CheckpointError, match=r"^/run/checkpoint_1: its model settings do not fit"):
        model_settings.from_json({**model_settings.to_json(MODEL), **change}, "/run/checkpoint_1")


def test_differences():
    """A difference that is not named, or named though it changes nothing that the model computes."""
    memory = dataclasses.replace(MODEL.memory, block_size=16)
    other = dataclasses.replace(MODEL, mlp_activation="gelu", memory=memory, remat_policy="full", dropout_rate=0.5)
    assert model_settings.differences(MODEL, MODEL) == []
    assert model_settings.differences(MODEL, other) == [
        "memory.block_size: checkpoint 8, this run 16",
        "mlp_activation: checkpoint 'silu', this run 'gelu'",
    ]
    scaled = dataclasses.replace(MODEL, rope_scaling=RopeScaling("linear", 8.0))
    assert "rope_scaling.factor: checkpoint None, this run 8.0" in model_settings.differences(MODEL, scaled)
    assert "rope_scaling.factor: checkpoint 8.0, this run None" in model_settings.differences(scaled, MODEL)
