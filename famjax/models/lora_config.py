"""Low-rank adapters (LoRA): settings that check themselves. Imports neither jax nor flax."""

import dataclasses
import re

from famjax.errors import ConfigError
from famjax.validation import require_above, require_at_least

# The matrices that may have an adapter: those of every layer. The embedding, the output layer and norms have none.
ADAPTABLE = (
    *(f"layers/attention/{name}/kernel" for name in ("query", "key", "value", "out")),
    *(f"layers/mlp/{name}/kernel" for name in ("gate", "up", "down")),
)


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters beside matrices that are not trained: LoRA (Hu et al., arXiv 2106.09685).

    A matrix W has a branch of its own: y = x W + (alpha / rank) (dropout(x) A) B, with A random and B = 0 at first, so
    that the model starts as what it was. Tokens and FAM use the same matrices, and so the same adapters.

    Attributes:
      rank: columns of A, rows of B.
      alpha: the branch counts alpha / rank; None: as much as `rank`, which makes it 1.
      dropout: on the input of the branch, in training; the FAM prompt's way up the stack has none.
      patterns: regular expressions for whole paths of matrices, as "layers/attention/query/kernel"; a matrix that
        matches one has an adapter.
    """

    rank: int
    alpha: float | None = None
    dropout: float = 0.0
    patterns: tuple[str, ...] = ("layers/(attention|mlp)/.*/kernel",)

    def __post_init__(self) -> None:
        require_at_least(self, 1, "rank")
        require_above(self, 0, "alpha")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"LoraConfig.dropout = {self.dropout}; allowed: 0 <= dropout < 1.")
        if not self.patterns:
            raise ConfigError('LoraConfig.patterns is empty; name one at least, as ["layers/attention/.*/kernel"].')
        for pattern in self.patterns:
            try:
                expression = re.compile(pattern)
            except re.error as error:
                raise ConfigError(
                    f"LoraConfig.patterns has {pattern!r}, which is no regular expression: {error}."
                ) from error
            if not any(map(expression.fullmatch, ADAPTABLE)):
                raise ConfigError(
                    f"LoraConfig.patterns has {pattern!r}, which matches no matrix that may have an adapter; a pattern "
                    f"must match a whole path of: {', '.join(ADAPTABLE)}."
                )

    @property
    def scale(self) -> float:
        """alpha / rank, by which the branch is multiplied."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def adapts(self, path: str) -> bool:
        """Whether the matrix of this path has an adapter."""
        return path in ADAPTABLE and any(re.fullmatch(pattern, path) for pattern in self.patterns)
