"""Settings of the model refuse what the model cannot be."""

import copy
import dataclasses
from typing import Any

import pytest

from famjax.errors import ConfigError
from famjax.models.config import MemoryConfig, TransformerConfig
from small import CONFIG, FAM


def check(config: TransformerConfig | MemoryConfig, changes: dict[str, Any]) -> None:
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


def test_edges_are_allowed():
    """Guards against a check that refuses BSWA without segments, or one block of one token."""
    edge = dataclasses.replace(FAM, block_size=1, num_segments=0, fam_length=0)
    assert dataclasses.replace(CONFIG, memory=edge, dropout_rate=0.0).memory == edge
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(edge, "block_size", 2)  # noqa: B010  (an assignment would not pass the type check)
