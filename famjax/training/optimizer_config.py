"""What an optimizer is: frozen settings that check themselves. Imports no jax."""

import dataclasses
from typing import Literal

from famjax.errors import ConfigError
from famjax.validation import require_above, require_at_least, require_choice, require_fraction

Decay = Literal["constant", "linear", "cosine", "rsqrt"]


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A learning rate: a linear warm-up from 0 to `peak`, then a decay.

    Attributes:
      peak: the rate at the end of the warm-up.
      warmup_steps: steps of the warm-up.
      decay: "constant"; "linear" or "cosine" down to `end_factor * peak` at `total_steps`; "rsqrt", peak times
        sqrt(max(warmup_steps, 1) / step), t5x's `rsqrt_decay`.
      total_steps: where "linear" and "cosine" end (usually %TRAIN_STEPS).
      end_factor: the last rate over `peak`, for "linear" and "cosine".
    """

    peak: float
    warmup_steps: int = 0
    decay: Decay = "constant"
    total_steps: int | None = None
    end_factor: float = 0.0

    def __post_init__(self) -> None:
        require_at_least(self, 0, "peak", "warmup_steps")
        require_choice(self, "decay", Decay)
        require_fraction(self, "end_factor")
        if self.decay in ("linear", "cosine"):
            if self.total_steps is None:
                raise ConfigError(
                    f'Schedule.total_steps is not set; decay "{self.decay}" needs it (usually %TRAIN_STEPS).'
                )
            if self.total_steps < self.warmup_steps:
                raise ConfigError(
                    f"Schedule.total_steps = {self.total_steps} lies before the end of the warm-up, "
                    f"warmup_steps = {self.warmup_steps}."
                )


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """What every optimizer has.

    Paths are written as "layers/mlp/gate/kernel"; a pattern is a regular expression that must match the whole path.

    Attributes:
      schedule: the learning rate.
      clip_norm: gradients are scaled down to this global norm; None leaves them.
      weight_decay: decoupled, times the learning rate.
      weight_decay_exclude: paths that are not decayed.
      freeze: paths that are not trained: no gradient, no optimizer state.
    """

    schedule: Schedule
    clip_norm: float | None = 1.0
    weight_decay: float = 0.0
    weight_decay_exclude: tuple[str, ...] = (".*/scale", ".*/bias", ".*fam_prompt", ".*fam_prefix")
    freeze: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_at_least(self, 0, "weight_decay")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ConfigError(f"{type(self).__name__}.clip_norm = {self.clip_norm!r}; allowed: above 0, or None.")


@dataclasses.dataclass(frozen=True)
class AdamW(OptimizerConfig):
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101)."""

    beta1: float = 0.9
    beta2: float = 0.98
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_decay(self, "beta1", "beta2")
        require_above(self, 0, "epsilon")


@dataclasses.dataclass(frozen=True)
class Adafactor(OptimizerConfig):
    """Adafactor (Shazeer and Stern, arXiv 1804.04235).

    Attributes:
      beta1: decay of the first moment; None keeps none.
      beta2: constant decay of the second moment (the FAM paper: 0.99); None takes the paper's 1 - step **
        -decay_exponent.
      decay_exponent: of the growing second-moment decay, used where `beta2` is None.
      multiply_by_parameter_scale: updates relative to the root mean square of each parameter.
      clipping_threshold: of the root mean square of an update; None leaves updates.
      min_dim_size_to_factor: matrices with both dimensions this large keep row and column statistics only.
    """

    beta1: float | None = None
    beta2: float | None = None
    decay_exponent: float = 0.8
    multiply_by_parameter_scale: bool = True
    clipping_threshold: float | None = 1.0
    min_dim_size_to_factor: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_decay(self, "beta1", "beta2")
        require_above(self, 0, "decay_exponent", "clipping_threshold")
        require_at_least(self, 1, "min_dim_size_to_factor")


def _require_decay(config: OptimizerConfig, *names: str) -> None:
    """A decay of 1 never forgets its start, and its bias correction divides by 0."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not 0.0 <= value < 1.0:
            raise ConfigError(f"{type(config).__name__}.{name} = {value!r}; allowed: 0 to 1, below 1.")
