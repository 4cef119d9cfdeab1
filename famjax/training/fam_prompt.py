"""The FAM prompt's first rows, drawn from the embedding table (prompt tuning's way; spec: The first block)."""

from typing import Any

import jax
import jax.numpy as jnp

from famjax.errors import ConfigError
from famjax.models.transformer import Transformer
from famjax.training.config import TrainJob

NAME = "fam_prompt"


def draw_fam_prompt(job: TrainJob, vocab_size: int, params: Any) -> Any:
    """The parameters with a FAM prompt [F, D] of embedded tokens, all different: the run's seed says which.

    It draws the same tokens in a new model and after a table was restored, whose rows it then takes.

    Args:
      job: the run.
      vocab_size: tokens of its vocabulary: rows of the table beyond are of no token, and were never trained.
      params: its parameters, unboxed.

    Raises:
      ConfigError: the prompt has more rows than there are tokens.
    """
    # (A key of its own: those of initial values and of steps are split from the seed's.)
    key = jax.random.fold_in(jax.random.key(job.random_seed), 1)
    fam_length = job.model.memory.fam_length
    if fam_length > vocab_size:
        raise ConfigError(
            f'TrainJob.fam_prompt_init = "embedding" draws {fam_length} different tokens (MemoryConfig.fam_length) '
            f"of a vocabulary of {vocab_size}."
        )
    tokens = jax.random.choice(key, vocab_size, (fam_length,), replace=False)

    def embed(model: Transformer, tokens: jax.Array) -> jax.Array:
        embedded: jax.Array = model.embedding(tokens)
        return embedded

    rows: Any = Transformer(job.model).apply({"params": params}, tokens, method=embed)
    return {**params, NAME: rows.astype(jnp.float32)}
