"""Drawing a token, against probabilities computed by hand."""

import jax
import numpy as np
import pytest

from famjax.errors import ConfigError
from famjax.inference.config import MemoryOverrides, SamplingConfig
from famjax.inference.sampling import NO_LIMIT, Draw, draw_tokens

PROBABILITIES = np.array([0.4, 0.1, 0.3, 0.15, 0.05], np.float32)
DRAWS = 4000


def draw(temperature=1.0, top_k=NO_LIMIT, top_p=1.0):
    """Frequencies of each token in many draws."""
    logits = np.broadcast_to(np.log(PROBABILITIES), (DRAWS, 5))
    how = Draw(
        keys=np.asarray(jax.random.split(jax.random.PRNGKey(0), DRAWS)),
        temperature=np.full(DRAWS, temperature, np.float32),
        top_k=np.full(DRAWS, top_k, np.int32),
        top_p=np.full(DRAWS, top_p, np.float32),
    )
    index = np.zeros(DRAWS, np.int32)
    filtered = top_k < NO_LIMIT or top_p < 1
    tokens = draw_tokens(*jax.tree.map(jax.numpy.asarray, (logits, how, index)), greedy=False, filtered=filtered)
    return np.bincount(tokens, minlength=5) / DRAWS


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, PROBABILITIES),
        ({"temperature": 0.5}, PROBABILITIES**2 / np.sum(PROBABILITIES**2)),
        ({"temperature": 0.0}, [1, 0, 0, 0, 0]),
        ({"top_k": 2}, [4 / 7, 0, 3 / 7, 0, 0]),
        ({"top_k": 1}, [1, 0, 0, 0, 0]),
        ({"top_p": 0.75}, [0.4 / 0.85, 0, 0.3 / 0.85, 0.15 / 0.85, 0]),
        ({"top_p": 0.3}, [1, 0, 0, 0, 0]),
        ({"top_k": 3, "top_p": 0.8}, [4 / 7, 0, 3 / 7, 0, 0]),
    ],
    ids=str,
)
def test_frequencies(settings, expected):
    """Guards against a limit that is off by a token, is taken from other probabilities, or permutes the tokens."""
    np.testing.assert_allclose(draw(**settings), expected, atol=0.03)
    assert np.all(draw(**settings)[np.asarray(expected) == 0] == 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "temperature = -1.0; allowed: 0 or more"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p = 0.0; allowed: above 0"),
        ({"temperature": 1.0, "top_p": 1.5}, "top_p = 1.5; allowed: 0 to 1"),
        ({"temperature": 1.0, "top_k": 0}, "top_k = 0; allowed: 1 or more"),
        ({"max_new_tokens": 0}, "max_new_tokens = 0"),
        ({"max_new_tokens": 2**31}, "max_new_tokens = 2147483648; allowed: below"),
        ({"top_k": 2**31, "temperature": 1.0}, "top_k = 2147483648; allowed: below"),
        ({"seed": 2**32}, "seed = 4294967296; allowed: below 4294967296"),
        ({"max_repetitions": 1}, "max_repetitions = 1; allowed: 2"),
        ({"stop_strings": ("a", "")}, "stop_strings has an empty string"),
        ({"top_k": 3}, "no effect at temperature 0"),
        ({"num_samples": 3}, "same answer every time"),
    ],
    ids=str,
)
def test_settings(settings, message):
    """Guards against settings that are accepted and then ignored."""
    with pytest.raises(ConfigError, match=message):
        SamplingConfig(**settings)


def test_memory_overrides():
    """Guards against an override that changes what it should not."""
    from small import vary

    assert MemoryOverrides().apply(vary()) == vary()
    assert MemoryOverrides(block_size=8, num_segments=0).apply(vary()) == vary(block_size=8, num_segments=0)
    assert MemoryOverrides(with_fam=False).apply(vary()) == vary(fam_length=0)
