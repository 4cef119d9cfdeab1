"""How a model answers, and with which memory it reads: frozen settings. Imports neither jax nor flax."""

import dataclasses

from famjax.errors import ConfigError
from famjax.models.config import TransformerConfig
from famjax.validation import require_above, require_all, require_at_least, require_fraction


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How an answer is drawn, and where it ends.

    Attributes:
      max_new_tokens: tokens of an answer at most.
      temperature: the logits are divided by it; 0 takes the most probable token (greedy).
      top_k: draw among so many most probable tokens; None: among all.
      top_p: draw among the fewest most probable tokens whose probabilities sum up to it; None: among all.
      num_samples: answers to each prompt.
      stop_strings: an answer ends where one of these appears, and does not contain it.
      stop_tokens: an answer ends before one of these tokens: ids, or strings that are one token of the vocabulary.
      stop_at_eos: an answer ends before the vocabulary's end token.
      max_repetitions: an answer ends where it has said the same 1 to 32 tokens so many times in a row; None: it may.
      logprobs: give the log-probability of each token, as the model has it (before temperature, top-k and top-p).
      seed: of the drawing, below 2 ** 32. With the same seed an answer does not depend on the other prompts.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    num_samples: int = 1
    stop_strings: tuple[str, ...] = ()
    stop_tokens: tuple[int | str, ...] = ()
    stop_at_eos: bool = True
    max_repetitions: int | None = None
    logprobs: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        require_all(
            lambda: require_at_least(self, 1, "max_new_tokens", "top_k", "num_samples"),
            lambda: require_at_least(self, 2, "max_repetitions"),
            lambda: require_at_least(self, 0, "temperature", "seed"),
            self._require_top_p,
        )
        for name, bound in (("seed", 2**32), ("max_new_tokens", 2**31), ("top_k", 2**31)):
            value = getattr(self, name)
            if value is not None and value >= bound:
                raise ConfigError(f"SamplingConfig.{name} = {value}; allowed: below {bound}.")
        if any(isinstance(values, str) for values in (self.stop_strings, self.stop_tokens)):
            raise ConfigError("SamplingConfig.stop_strings and stop_tokens are lists; a list of one is ['END'].")
        if "" in self.stop_strings:
            raise ConfigError(
                "SamplingConfig.stop_strings has an empty string; allowed: strings of a character or more."
            )
        if self.temperature == 0 and (self.top_k is not None or self.top_p is not None):
            raise ConfigError(
                "SamplingConfig.top_k and top_p have no effect at temperature 0, which takes the most probable token; "
                "set --gin.SamplingConfig.temperature above 0."
            )
        if self.temperature == 0 and self.num_samples > 1:
            raise ConfigError(
                f"SamplingConfig.num_samples = {self.num_samples} gives the same answer every time at temperature 0; "
                "set --gin.SamplingConfig.temperature above 0."
            )

    def _require_top_p(self) -> None:
        require_fraction(self, "top_p")
        require_above(self, 0, "top_p")


@dataclasses.dataclass(frozen=True)
class MemoryOverrides:
    """The same parameters with another memory.

    Attributes:
      block_size: tokens in a block [C]; None: as the model was trained.
      num_segments: past blocks that stay as keys and values [M]; None: as the model was trained.
      with_fam: False reads without feedback memory (TransformerBSWA); True: as the model was trained.
    """

    block_size: int | None = None
    num_segments: int | None = None
    with_fam: bool = True

    def __post_init__(self) -> None:
        require_at_least(self, 1, "block_size")
        require_at_least(self, 0, "num_segments")

    def apply(self, config: TransformerConfig) -> TransformerConfig:
        """The model's settings with this memory."""
        trained = config.memory
        memory = dataclasses.replace(
            trained,
            block_size=trained.block_size if self.block_size is None else self.block_size,
            num_segments=trained.num_segments if self.num_segments is None else self.num_segments,
            fam_length=trained.fam_length if self.with_fam else 0,
        )
        return dataclasses.replace(config, memory=memory)
