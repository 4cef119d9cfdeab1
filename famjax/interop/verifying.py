"""The parity report: how far an imported model is from transformers', and how far FAM moves it before any training."""

import dataclasses
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from famjax.errors import CheckpointError, ConfigError
from famjax.models.config import MemoryConfig, TransformerConfig
from famjax.models.transformer import Transformer, initial_state, logits, read
from famjax.pods.config import MeshConfig
from famjax.pods.mesh import make_mesh
from famjax.text_table import table
from famjax.training.program import abstract_params
from famjax.training.restore import find_checkpoint, load_params, read_model_config

Logits = NDArray[np.float32]

_NEEDED = ("torch", "transformers")
# Of a logit; two programs add up the same float32 products in different orders.
_ROUNDING = 2e-4


@dataclasses.dataclass(frozen=True)
class Difference:
    """How two models differ on some tokens of a text.

    Attributes:
      title: the model that is compared.
      begin: first of the tokens.
      end: behind the last of them.
      largest: largest absolute difference of a logit.
      mean: mean absolute difference.
      top1: share of the tokens after which both find the same token the most probable.
      loss: cross-entropy of the text's next tokens, in nats per token; None where there is no next one.
    """

    title: str
    begin: int
    end: int
    largest: float
    mean: float
    top1: float
    loss: float | None


@dataclasses.dataclass(frozen=True)
class Report:
    """What `verify` finds.

    Attributes:
      imported: famjax's model with full attention against transformers' model.
      moved: models with a working memory against famjax's with full attention.
      expected_loss: of transformers' model, as in `Difference`.
      largest_logit: of transformers' model, absolute.
      window: tokens that BSWA looks back on at least, all of them within the text's beginning.
      memory: of the models with a working memory.
    """

    imported: Difference
    moved: tuple[Difference, ...]
    expected_loss: float | None
    largest_logit: float
    window: int
    memory: MemoryConfig

    @property
    def limit(self) -> float:
        """The largest difference that rounding makes: `_ROUNDING`, or so much of the largest logit."""
        return _ROUNDING * max(1.0, self.largest_logit)

    @property
    def is_equal(self) -> bool:
        """Whether the imported model is transformers' but for rounding."""
        return self.imported.largest <= self.limit

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("", "tokens", "largest", "mean", "top-1 same", "loss")]
        rows += [("transformers", _range(self.imported), "", "", "", _loss(self.expected_loss)), _row(self.imported)]
        lines = table([*rows, *map(_row, self.moved)])
        verdict = "is" if self.is_equal else "is NOT"
        rounding = f"rounding: {self.limit:.1g} of logits to {self.largest_logit:.3g}"
        memory = self.memory
        text = [
            f"The import {verdict} transformers' model ({rounding}).",
            *lines[:3],
            f"With a memory (C = {memory.block_size}, M = {memory.num_segments}), against full attention:",
            *lines[3:],
        ]
        if self.imported.end <= self.window:
            text.append(
                f"The text ends within the window of {self.window} tokens: a larger --length or a smaller --block_size "
                "shows what is behind it."
            )
        return "\n".join(text)


def compare(
    title: str, actual: Logits, expected: Logits, tokens: NDArray[np.int32], begin: int, end: int
) -> Difference:
    """Compares logits [T, V] after the tokens from `begin` to `end`.

    Args:
      title: of the model that is compared.
      actual: its logits.
      expected: those that it is compared with.
      tokens: of the text [T].
      begin: first of the tokens.
      end: behind the last of them.
    """
    ours, theirs = actual[begin:end], expected[begin:end]
    distance = np.abs(ours.astype(np.float64) - theirs)
    same = np.argmax(ours, axis=-1) == np.argmax(theirs, axis=-1)
    loss = text_loss(actual, tokens, begin, end)
    return Difference(title, begin, end, float(distance.max()), float(distance.mean()), float(same.mean()), loss)


def text_loss(logits: Logits, tokens: NDArray[np.int32], begin: int, end: int) -> float | None:
    """Mean cross-entropy of what follows the tokens from `begin` to `end`, in nats; None where nothing does."""
    targets = tokens[begin + 1 : end + 1]
    if not len(targets):
        return None
    scores = logits[begin : begin + len(targets)].astype(np.float64)
    scores -= scores.max(axis=-1, keepdims=True)
    chosen = scores[np.arange(len(targets)), targets]
    return float(np.mean(np.log(np.exp(scores).sum(axis=-1)) - chosen))


def _row(difference: Difference) -> tuple[str, ...]:
    figures = (f"{difference.largest:.3g}", f"{difference.mean:.3g}", f"{difference.top1:.2%}", _loss(difference.loss))
    return (difference.title, _range(difference), *figures)


def _range(difference: Difference) -> str:
    return f"{difference.begin}-{difference.end - 1}"


def _loss(loss: float | None) -> str:
    return "" if loss is None else f"{loss:.4f}"


def verify(
    source: Path,
    checkpoint: str,
    tokens: Sequence[int],
    *,
    block_size: int | None = None,
    num_segments: int | None = None,
    fam_length: int = 64,
) -> Report:
    """Compares, in float32 and on one text, transformers' model with the imported one and its memories.

    1. transformers against famjax with full attention (F = 0, M >= N): the import;
    2. BSWA (F = 0) against full attention, within the window, where it is the same function, and behind it;
    3. FAM, the checkpoint's or one of `fam_length` rows that is not trained, against full attention, likewise.

    Args:
      source: the folder that was imported.
      checkpoint: what it was imported to.
      tokens: ids of the text.
      block_size: C; None: the checkpoint's.
      num_segments: M of BSWA and FAM; None: the checkpoint's.
      fam_length: F, where the checkpoint has no FAM.

    Raises:
      ConfigError: torch or transformers is not installed, or there are no tokens or ids beyond the vocabulary.
      CheckpointError: there is no such checkpoint, or it is of another vocabulary.
    """
    require_packages()
    folder = find_checkpoint(checkpoint, setting="--checkpoint")
    trained = read_model_config(folder)
    ids = np.asarray(tokens, np.int32)
    if not len(ids) or ids.min() < 0 or ids.max() >= trained.vocab_size:
        raise ConfigError(f"The text needs a token or more, with ids below the vocabulary's {trained.vocab_size}.")
    params = load_params(folder, abstract_params(trained, make_mesh(MeshConfig()), MeshConfig())[0])
    memory = trained.memory
    size = memory.block_size if block_size is None else block_size
    segments = memory.num_segments if num_segments is None else num_segments
    rows = memory.fam_length or fam_length

    if not memory.fam_length:
        # As a training run initialises it.
        params = {**params, "fam_prompt": jax.random.normal(jax.random.key(0), (rows, trained.emb_dim))}

    def with_memory(fam: int, past: int) -> TransformerConfig:
        changed = dataclasses.replace(memory, block_size=size, num_segments=past, fam_length=fam)
        return dataclasses.replace(trained, memory=changed, dtype="float32")

    expected = _transformers_logits(source, ids)
    full = _logits_of(with_memory(0, -(-len(ids) // size)), params, ids)
    if full.shape != expected.shape:
        raise CheckpointError(
            f"{checkpoint} has a vocabulary of {trained.vocab_size}, and the model of {source} one of "
            f"{expected.shape[-1]}: it was not imported from there."
        )
    window = (segments + 1) * size
    kind = "the checkpoint's FAM" if memory.fam_length else f"FAM of {rows} untrained rows"
    moved: list[Difference] = []
    for title, fam in (("BSWA", 0), (kind, rows)):
        moved += _by_window(title, _logits_of(with_memory(fam, segments), params, ids), full, ids, window)
    return Report(
        imported=compare("famjax, full attention", full, expected, ids, 0, len(ids)),
        moved=tuple(moved),
        expected_loss=text_loss(expected, ids, 0, len(ids)),
        largest_logit=float(np.abs(expected).max()),
        window=window,
        memory=with_memory(rows, segments).memory,
    )


def _by_window(
    title: str, actual: Logits, expected: Logits, tokens: NDArray[np.int32], window: int
) -> Iterator[Difference]:
    """The comparison of the text's beginning, where everything is within the window, and that of the rest."""
    yield compare(f"{title}, within the window", actual, expected, tokens, 0, min(window, len(tokens)))
    if window < len(tokens):
        yield compare(f"{title}, behind it", actual, expected, tokens, window, len(tokens))


def require_packages() -> None:
    """ConfigError where torch or transformers, which only this comparison needs, is not installed."""
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise ConfigError(
            f"verify compares with transformers' own model and needs {' and '.join(missing)}, which is not installed; "
            "pip install torch transformers (import and export need neither)."
        )


def tokens_of(source: Path, text: str, length: int) -> list[int]:
    """The first ids of a text, by the folder's tokenizer as transformers reads it."""
    require_packages()
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{source} has no tokenizer that transformers can read ({error}); leave --text_file out."
        ) from error
    return list(tokenizer(text)["input_ids"][:length])


def _logits_of(config: TransformerConfig, params: Any, ids: NDArray[np.int32]) -> Logits:
    """Logits [T, V] of a text read from the start."""
    model = Transformer(config)

    @jax.jit
    def run(params: Any, tokens: jax.Array) -> jax.Array:
        state = initial_state(model, params, 1, with_cache=False)
        return logits(model, params, read(model, params, tokens, state).hidden[0])

    return np.asarray(run(params, jnp.asarray(ids)[None]))


def _transformers_logits(source: Path, ids: NDArray[np.int32]) -> Logits:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        found = model(torch.as_tensor(ids.astype(np.int64))[None], use_cache=False).logits[0]
    return np.asarray(found.float().numpy())
