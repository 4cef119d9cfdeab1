"""What a length curriculum is: frozen settings that check themselves. Imports no jax."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from famjax.errors import ConfigError
from famjax.validation import require_at_least, require_choice, require_fraction

StageMetric = Literal["accuracy", "answer_accuracy", "exact_match"]


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of the length curriculum. It ends at the first of its two ends; a stage with neither lasts to the end.

    Attributes:
      max_length: longest example, in tokens; the compiled shape of the stage.
      min_length: shortest example. It acts only on tasks that draw lengths (key tasks, associative recall): `documents`
        are windows of `max_length`, and a seqio task's examples are what it makes of them, cut to `max_length`.
      steps: ends after so many steps.
      metric: ends when the mean of this training metric over the last `window` steps of the stage reaches
        `threshold`; a batch that asks nothing counts as 0 in "answer_accuracy" and "exact_match".
      threshold: see `metric`.
      window: see `metric`.
    """

    max_length: int
    min_length: int = 1
    steps: int | None = None
    metric: StageMetric | None = None
    threshold: float = 0.9
    window: int = 10

    def __post_init__(self) -> None:
        for name in ("max_length", "min_length", "steps", "window"):
            value = getattr(self, name)
            if type(value) is not int and not (name == "steps" and value is None):
                raise ConfigError(f"Stage.{name} = {value!r} ({type(value).__name__}); expected an int.")
        if not isinstance(self.threshold, int | float):
            raise ConfigError(f"Stage.threshold = {self.threshold!r}; expected a number from 0 to 1.")
        require_at_least(self, 1, "min_length", "steps", "window")
        require_fraction(self, "threshold")
        if self.max_length < self.min_length:
            raise ConfigError(f"Stage.max_length = {self.max_length} is below min_length = {self.min_length}.")
        if self.metric is not None:
            require_choice(self, "metric", StageMetric)


@dataclasses.dataclass(frozen=True)
class Curriculum:
    """Lengths over the run.

    Attributes:
      stages: one mapping of `Stage` fields each, in order. Empty: no curriculum, every batch is as long as
        `DataConfig.task_feature_lengths` says.
    """

    stages: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        for index, stage in enumerate(self.parsed):
            is_last = index == len(self.stages) - 1
            if not is_last and stage.steps is None and stage.metric is None:
                raise ConfigError(f"Curriculum.stages[{index}] has no end: set its steps, its metric, or both.")

    @property
    def parsed(self) -> tuple[Stage, ...]:
        """The stages; ConfigError names a misspelled field."""
        allowed = [field.name for field in dataclasses.fields(Stage)]
        for index, values in enumerate(self.stages):
            unknown = sorted(set(values) - set(allowed))
            if unknown or "max_length" not in values:
                wrong = f"unknown field {unknown[0]!r}" if unknown else "max_length is missing"
                raise ConfigError(f"Curriculum.stages[{index}]: {wrong}; allowed: {', '.join(allowed)}.")
        try:
            return tuple(Stage(**values) for values in self.stages)
        except ConfigError as error:
            raise ConfigError(f"{error} It is set in Curriculum.stages.") from error
