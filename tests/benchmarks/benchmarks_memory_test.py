"""benchmarks/memory.py at a tiny size."""

import jax
import jax.numpy as jnp
import memory
from figures import TINY, figures_of
from jobs import Sizes

VOCABULARY, LENGTH = 300, 64


def test_figures(capsys):
    """Temporary memory at two lengths, and no array of T x V elements where logits are made in chunks."""
    arguments = [
        *TINY,
        "--remat_policy=none",
        "--chunk_size=64",
        f"--vocabulary={VOCABULARY}",
        f"--vocabulary_length={LENGTH}",
    ]
    growth, vocabulary = figures_of(memory.main, arguments, capsys)
    assert growth["benchmark"] == "memory_growth"
    assert growth["lengths"] == [16, 32]
    assert growth["ratio"] == growth["temporary_bytes"][1] / growth["temporary_bytes"][0] > 1
    assert growth["met"] == (growth["ratio"] <= growth["target"] == 2.1)
    assert vocabulary["benchmark"] == "memory_vocabulary"
    assert vocabulary["limit_elements"] == LENGTH * VOCABULARY
    assert vocabulary["temporary_bytes"] > 0
    assert vocabulary["met"]


def test_logits_of_all_tokens_are_found(monkeypatch):
    """A check that cannot fail says nothing."""
    shapes = [(LENGTH, 8), (VOCABULARY, 8), (2, 2, 2)]
    hidden, table, small = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)

    def compute(hidden, table, small):
        return jnp.max(jnp.einsum("TD,VD->TV", hidden, table), axis=1), 2 * small

    whole = jax.jit(compute).lower(hidden, table, small).compile()
    monkeypatch.setattr(memory, "compile_step", lambda sizes: whole)
    figures = memory.measure_largest(Sizes(vocab_size=VOCABULARY, length=LENGTH))
    assert figures["largest_elements"] == figures["limit_elements"]
    assert figures["largest_shape"] == [LENGTH, VOCABULARY]


def test_shapes_in_a_program():
    """The check sees only what the pattern finds."""
    text = "%fusion = (f32[16,256]{1,0}, s32[]) fusion(pred[7]{0} %a, bf16[2,3,5]{2,1,0} %b), f8e4m3fn[9]{0}"
    assert sorted(memory.shapes_in(text)) == [(2, 3, 5), (7,), (9,), (16, 256)]
