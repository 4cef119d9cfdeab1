"""The parity report: how far an imported model is from transformers', and how far FAM moves it before any training."""

import dataclasses
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from famjax.errors import ConfigError
from famjax.models.config import TransformerConfig
from famjax.models.transformer import Transformer, initial_state, logits, read
from famjax.pods.config import MeshConfig
from famjax.pods.mesh import make_mesh
from famjax.training.program import abstract_params
from famjax.training.restore import find_checkpoint, load_params, read_model_config

Logits = NDArray[np.float32]

_NEEDED = ("torch", "transformers")


@dataclasses.dataclass(frozen=True)
class Difference:
    """How two models differ on a text.

    Attributes:
      title: which two, and where.
      largest: largest absolute difference of a logit.
      mean: mean absolute difference.
      top1: share of the tokens after which both find the same token the most probable.
    """

    title: str
    largest: float
    mean: float
    top1: float

    def __str__(self) -> str:
        numbers = f"largest {self.largest:.3g}, mean {self.mean:.3g}, top-1 agreement {self.top1:.2%}"
        return f"{self.title}: {numbers}"


def compare(title: str, actual: Logits, expected: Logits) -> Difference:
    """Compares logits [T, V]."""
    distance = np.abs(actual.astype(np.float64) - expected)
    same = np.argmax(actual, axis=-1) == np.argmax(expected, axis=-1)
    return Difference(title, float(distance.max()), float(distance.mean()), float(same.mean()))


def verify(
    source: Path,
    checkpoint: str,
    tokens: Sequence[int],
    *,
    block_size: int | None = None,
    num_segments: int | None = None,
    fam_length: int = 64,
) -> list[Difference]:
    """Compares, in float32 and on one text, transformers' model with the imported one and its memories.

    1. transformers against famjax with full attention (F = 0, M >= N): the import;
    2. BSWA (F = 0) against full attention, within the window, where it is the same function, and behind it;
    3. FAM, the checkpoint's or one of `fam_length` rows that is not trained, against full attention.

    Args:
      source: the folder that was imported.
      checkpoint: what it was imported to.
      tokens: ids of the text.
      block_size: C; None: the checkpoint's.
      num_segments: M of BSWA and FAM; None: the checkpoint's.
      fam_length: F, where the checkpoint has no FAM.

    Raises:
      ConfigError: torch or transformers is not installed, or there are no tokens or ids beyond the vocabulary.
      CheckpointError: there is no such checkpoint.
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

    blocks = -(-len(ids) // size)
    full = _logits_of(with_memory(0, blocks), params, ids)
    bswa = _logits_of(with_memory(0, segments), params, ids)
    fam = _logits_of(with_memory(rows, segments), params, ids)
    window = min((segments + 1) * size, len(ids))
    report = [
        compare("famjax (full attention) against transformers", full, _transformers_logits(source, ids)),
        compare(f"BSWA against full attention, first {window} tokens", bswa[:window], full[:window]),
    ]
    if window < len(ids):
        report.append(compare("BSWA against full attention, later tokens", bswa[window:], full[window:]))
    kind = "the checkpoint's FAM" if memory.fam_length else f"FAM of {rows} untrained rows"
    return [*report, compare(f"{kind} against full attention", fam, full)]


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

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        found = model(torch.as_tensor(ids.astype(np.int64))[None], use_cache=False).logits[0]
    return np.asarray(found.float().numpy())
