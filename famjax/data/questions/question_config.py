"""What the settings of the tasks that ask have in common. Imports nothing heavy, and not `famjax.data.task_config`."""

import dataclasses

from famjax.errors import ConfigError
from famjax.validation import require_at_least


def require_task_names(config: object, setting: str, names: tuple[object, ...]) -> None:
    """Raises ConfigError unless each of `names`, which stand in the field `setting`, can be the name of a task."""
    for name in names:
        if not isinstance(name, str) or not name:
            raise ConfigError(f"{type(config).__name__}.{setting}: {name!r} is not the name of a task.")


@dataclasses.dataclass(frozen=True)
class QuestionTask:
    """What the tasks that ask have in common.

    Attributes:
      prompt_weight: where the task is trained on: loss weight of the tokens before the answer, whose own weight is 1.
      validation_examples: size of the validation split. The training split has no end.
    """

    prompt_weight: float = 0.0
    validation_examples: int = 256

    def __post_init__(self) -> None:
        require_at_least(self, 1, "validation_examples")
        require_at_least(self, 0.0, "prompt_weight")
