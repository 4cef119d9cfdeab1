"""A question: a prompt, its right answers, and the budget for an answer; and what a task that asks must offer."""

import dataclasses
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from famjax.data.examples import Example, Examples
from famjax.data.pieces import encode_piece, finish
from famjax.data.vocabularies import Vocabulary

# The names of lm-evaluation-harness.
OutputType = Literal["generate_until", "multiple_choice", "loglikelihood_rolling"]


@dataclasses.dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
      prompt: int32 [n], without the beginning token.
      references: right answers, as text; what a metric makes of those behind the first is its own (`babilong` takes
        them for the wrong ones).
      max_new_tokens: budget of the answer; with the prompt it is never above the length that was asked for.
      choices: of a multiple choice: the continuations that are ranked, `references` among them.
      stop_strings: end an answer.
      num_cut: tokens of the original that had no room and were left out.
    """

    prompt: NDArray[np.int32]
    references: tuple[str, ...]
    max_new_tokens: int
    choices: tuple[str, ...] = ()
    stop_strings: tuple[str, ...] = ()
    num_cut: int = 0


@runtime_checkable
class Questions(Examples, Protocol):
    """The questions of one split of one task. As examples they are to be trained on: prompt and answer.

    Attributes:
      output_type: what is asked of a model.
      metrics: names in `famjax.data.questions.metrics.METRICS`, the primary one first.
    """

    output_type: OutputType
    metrics: tuple[str, ...]

    def question(self, index: int) -> Question:
        """Question number `index`, counted from 0: a function of settings, reading and index alone."""


def training_example(
    question: Question,
    vocabulary: Vocabulary,
    *,
    answer: str | None = None,
    separator: str = " ",
    prompt_weight: float = 0.0,
) -> Example:
    """Makes a question an example to train on: its prompt, then the answer, which alone is marked.

    Args:
      question: its `max_new_tokens` must hold the answer's tokens, so that the example is no longer than was asked for.
      vocabulary: of the tokens.
      answer: None: the first reference.
      separator: stands before the answer: " ", or "" where the prompt ends with white space.
      prompt_weight: loss weight of the prompt's tokens.
    """
    ids = answer_ids(question.references[0] if answer is None else answer, vocabulary, separator)
    return finish([question.prompt, ids], len(ids), prompt_weight)


def answer_ids(answer: str, vocabulary: Vocabulary, separator: str = " ") -> NDArray[np.int32]:
    """Encodes an answer as it follows a prompt [n]."""
    return encode_piece(vocabulary, separator + answer)


def question_of(example: Example, vocabulary: Vocabulary) -> Question:
    """Makes an example that ends with its answer a question, with the answer's own length as its budget."""
    num_answers = int(example.answers.sum())
    split = len(example.targets) - num_answers
    return Question(
        prompt=example.targets[:split].astype(np.int32),
        references=(vocabulary.decode(example.targets[split:]).strip(),),
        max_new_tokens=num_answers,
    )
