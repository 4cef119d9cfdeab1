"""Settings of the tasks of BABILong (arXiv 2406.10149). Imports nothing heavy."""

import dataclasses
from collections.abc import Mapping
from typing import Literal, get_args

from famjax.data.questions.question_config import QuestionTask, require_task_names
from famjax.validation import require_at_least, require_choice, require_fraction

BabiTask = Literal["qa1", "qa2", "qa3", "qa4", "qa5"]


@dataclasses.dataclass(frozen=True)
class Babilong(QuestionTask):
    """BABILong: the facts of a bAbI story hidden in real text, in their order, and the story's question.

    Attributes:
      babi_task: "qa1" (where is a person), "qa2" (where is an object), "qa3" (where was an object before), "qa4" (which
        place lies where), "qa5" (who gave what to whom).
      depth: where the facts lie, all in one place, 0 (before the text) to 1 (after it); None: each at a drawn place, as
        in BABILong.
      instruction: whether the prompt begins with BABILong's instruction.
      examples: whether its solved examples follow.
      post_prompt: whether its sentence about the answer's format follows.
      max_facts: sentences of a story at most; None: as many as have room in the length.
      max_new_tokens: budget of the answer, in tokens; where the answer, as the examples word it, needs more, that.
      documents: the task of type Documents that the text comes from.
    """

    babi_task: BabiTask = "qa1"
    depth: float | None = None
    instruction: bool = True
    examples: bool = True
    post_prompt: bool = True
    max_facts: int | None = None
    max_new_tokens: int = 20
    documents: str = "documents"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice(self, "babi_task", BabiTask)
        require_fraction(self, "depth")
        require_at_least(self, 12, "max_facts")
        require_at_least(self, 1, "max_new_tokens")
        require_task_names(self, "documents", (self.documents,))


BUILT_IN_TASKS: Mapping[str, Babilong] = {f"babilong_{task}": Babilong(babi_task=task) for task in get_args(BabiTask)}
