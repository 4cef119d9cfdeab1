"""Settings of the model refuse what the model cannot be."""

import copy
import dataclasses
from typing import Any

import pytest

from famjax.errors import ConfigError
from famjax.models.config import MemoryConfig, RopeScaling, TransformerConfig
from small import CONFIG, FAM


def check(config: TransformerConfig | MemoryConfig | RopeScaling, changes: dict[str, Any]) -> None:
    """Checks settings with changes, past the tests' own check of types, which no user has."""
    changed = copy.copy(config)
    for name, value in changes.items():
        object.__setattr__(changed, name, value)
    changed.__post_init__()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_kv_heads": 3}, "num_kv_heads = 3 does not divide num_heads = 4"),
        ({"head_dim": 7}, "head_dim = 7; RoPE needs an even"),
        ({"dropout_rate": 1.0}, r"dropout_rate = 1.0; allowed: 0 <= rate < 1"),
        ({"dropout_rate": -0.1}, "dropout_rate = -0.1"),
        ({"rope_base": 1.0}, "rope_base = 1.0; allowed: above 1"),
        ({"mlp_activation": "relu"}, "mlp_activation = 'relu'.*silu.*gelu"),
        ({"dtype": "float16"}, "dtype = 'float16'.*float32.*bfloat16"),
        ({"remat_policy": "some"}, "remat_policy = 'some'.*none.*full.*dots"),
        ({"attention_soft_cap": 0.0}, "attention_soft_cap = 0.0; allowed: above 0"),
        ({"embedding_scale": -1.0}, "embedding_scale = -1.0; allowed: above 0"),
        ({"layer_pattern": ()}, r"layer_pattern = \(\); allowed: a tuple of 'global' and 'local'"),
        ({"layer_pattern": ("near",)}, r"layer_pattern = \('near',\); allowed"),
        ({"layer_pattern": ("local",)}, 'layer_pattern has "local" layers; they need a local_window'),
        ({"local_window": 4}, "local_window and local_rope_base act on local layers, and layer_pattern has none"),
        ({"local_rope_base": 4.0}, "local_rope_base act on local layers"),
        *[
            ({name: 0}, f"{name} = 0")
            for name in ("vocab_size", "emb_dim", "num_layers", "num_heads", "num_kv_heads", "head_dim", "mlp_dim")
        ],
    ],
    ids=str,
)
def test_impossible_models(changes, message):
    """Guards against a mistake that is found only when shapes do not fit, deep inside a traceback."""
    with pytest.raises(ConfigError, match=message) as error:
        check(CONFIG, changes)
    assert "TransformerConfig." in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_size": 0}, "block_size = 0"),
        ({"num_segments": -1}, "num_segments = -1"),
        ({"fam_length": -1}, "fam_length = -1"),
        ({"fam_start": "zeros"}, "fam_start = 'zeros'.*prompt.*prefix"),
        ({"fam_position": "float"}, "fam_position = 'float'.*block_end.*between_blocks.*zero"),
    ],
    ids=str,
)
def test_impossible_memories(changes, message):
    """Guards against a memory that is silently another one."""
    with pytest.raises(ConfigError, match=message) as error:
        check(FAM, changes)
    assert "MemoryConfig." in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "yarn"}, "RopeScaling.kind = 'yarn'; allowed: 'linear', 'llama3'"),
        ({"factor": 0.0}, "RopeScaling.factor = 0.0; allowed: above 0"),
        ({"high_frequency_factor": 1.0}, "RopeScaling.high_frequency_factor = 1.0; allowed: above 1.0"),
        ({"original_length": 0}, "RopeScaling.original_length = 0"),
    ],
    ids=str,
)
def test_impossible_rope_scalings(changes, message):
    """Guards against frequencies that are no numbers, or a kind that is silently another one."""
    with pytest.raises(ConfigError, match=message):
        check(RopeScaling("llama3", 8.0), changes)


def test_layer_kinds_repeat():
    """Guards against a pattern that is cut or shifted along the stack."""
    config = dataclasses.replace(CONFIG, num_layers=5, layer_pattern=("local", "local", "global"), local_window=3)
    assert config.local_layers == (True, True, False, True, True)
    assert CONFIG.local_layers == (False, False)


def test_edges_are_allowed():
    """Guards against a check that refuses BSWA without segments, or one block of one token."""
    edge = dataclasses.replace(FAM, block_size=1, num_segments=0, fam_length=0)
    assert dataclasses.replace(CONFIG, memory=edge, dropout_rate=0.0).memory == edge
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(edge, "block_size", 2)  # noqa: B010  (an assignment would not pass the type check)
