"""What the tasks that are generated from templates have in common."""

import abc
import dataclasses

import numpy as np

from famjax.data.examples import Example, Reading
from famjax.data.questions.question import OutputType, Question, answer_ids, training_example
from famjax.data.questions.question_config import QuestionTask
from famjax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Asked:
    """A question, and its answer as it is trained on.

    Attributes:
      question: the question.
      answer: the whole answer.
      separator: stands before it.
    """

    question: Question
    answer: str
    separator: str = " "


class TemplateQuestions(abc.ABC):
    """Questions without end, each drawn by its index: see `famjax.data.questions.question.Questions`."""

    output_type: OutputType = "generate_until"
    metrics: tuple[str, ...]

    def __init__(self, config: QuestionTask, reading: Reading) -> None:
        """Checks that a question has room in the longest length; ConfigError, with the tokens needed, if not."""
        self._reading, self._prompt_weight = reading, config.prompt_weight
        self.size = config.validation_examples if reading.ends else None
        self.skipped: dict[str, int] = {}
        self._least = self._least_length()
        self._require_room(self._least, reading.longest)

    @abc.abstractmethod
    def _least_length(self) -> int:
        """Tokens that the longest question without haystack needs, its budget included."""

    @abc.abstractmethod
    def _ask(self, random: np.random.Generator, length: int) -> Asked:
        """Draws a question of so many tokens, its budget included."""

    def _require_room(self, needed: int, length: int) -> None:
        if needed > length:
            raise ConfigError(
                f"A length of {length} tokens has no room for a question of {self._reading.name!r}, which needs "
                f"{needed} with its answer."
            )

    def _budget(self, answer: str, separator: str, least: int) -> int:
        """Tokens for an answer: `least`, or what the right one needs."""
        return max(least, len(answer_ids(answer, self._reading.vocabulary, separator)))

    def _draw(self, index: int) -> Asked:
        random = self._reading.random(index)
        return self._ask(random, self._reading.draw_length(random, self._least, None, 1))

    def question(self, index: int) -> Question:
        """See `famjax.data.questions.question.Questions`."""
        return self._draw(index).question

    def __getitem__(self, index: int) -> Example:
        """See `famjax.data.examples.Examples`."""
        asked = self._draw(index)
        return training_example(
            asked.question,
            self._reading.vocabulary,
            answer=asked.answer,
            separator=asked.separator,
            prompt_weight=self._prompt_weight,
        )
