import jax
import jax.numpy as jnp
import pytest

from famjax.errors import ConfigError
from famjax.training.parameter_paths import parameter_paths, select

PARAMS = jax.eval_shape(
    lambda: {
        "embedding": {"table": jnp.zeros((8, 4))},
        "layers": {"mlp": {"gate": {"kernel": jnp.zeros((2, 4, 8))}}, "mlp_norm": {"scale": jnp.zeros((2, 4))}},
    }
)


def test_paths_are_keys_joined_by_slashes():
    """Guards against paths that differ from those the settings and the messages use."""
    assert parameter_paths(PARAMS) == {
        "embedding": {"table": "embedding/table"},
        "layers": {
            "mlp": {"gate": {"kernel": "layers/mlp/gate/kernel"}},
            "mlp_norm": {"scale": "layers/mlp_norm/scale"},
        },
    }


def test_a_pattern_matches_the_whole_path():
    """Guards against a pattern that takes what it merely starts with (layers/mlp, and so layers/mlp_norm)."""
    chosen = select(PARAMS, ("layers/mlp(/.*)?", ".*/table"), "AdamW.freeze")
    assert chosen == {
        "embedding": {"table": True},
        "layers": {"mlp": {"gate": {"kernel": True}}, "mlp_norm": {"scale": False}},
    }


def test_a_pattern_without_a_match_is_an_error():
    """Guards against a misspelled pattern that silently freezes nothing."""
    with pytest.raises(ConfigError) as error:
        select(PARAMS, ("layers/mpl/.*",), "AdamW.freeze")
    message = str(error.value)
    assert "AdamW.freeze" in message
    assert "'layers/mpl/.*'" in message
    assert "layers/mlp/gate/kernel" in message
    with pytest.raises(ConfigError, match="matches no parameter"):
        select(PARAMS, ("layers/mlp",), "AdamW.freeze")


def test_an_optional_pattern_may_match_nothing():
    """Guards against defaults made for every model that refuse a model without a FAM prompt."""
    chosen = select(PARAMS, (".*fam_prompt",), "AdamW.weight_decay_exclude", optional=(".*fam_prompt",))
    assert not any(jax.tree.leaves(chosen))


def test_a_broken_regular_expression_is_an_error():
    """Guards against a traceback of `re` for a user's typing mistake."""
    with pytest.raises(ConfigError, match=r"AdamW.freeze has the pattern 'layers/\(', which is no regular expression"):
        select(PARAMS, ("layers/(",), "AdamW.freeze")
