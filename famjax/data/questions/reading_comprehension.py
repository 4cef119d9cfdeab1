"""The tasks `narrative_qa`, `qasper`, `quality` and `xlsum`: a document, what is asked about it, and the answer."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from famjax.data.examples import Example, Reading
from famjax.data.pieces import encode_piece, finish
from famjax.data.questions.published_data import Entry, encode_document, open_dataset
from famjax.data.questions.published_forms import OPTION_LETTERS
from famjax.data.questions.question import OutputType, Question, Questions, answer_ids
from famjax.data.questions.reading_config import NarrativeQA, Qasper, Quality, ReadingComprehension, XLSum
from famjax.data.shuffling import EpochOrder
from famjax.errors import ConfigError

# An answer is one line.
STOP_STRINGS = ("\n",)


def open_reading_comprehension(config: ReadingComprehension, reading: Reading) -> Questions:
    """Opens one of these tasks.

    Raises:
      ConfigError: neither files nor a data set of TFDS are named; a length too short for a question and its budget.
      DataError: as `open_dataset`.
    """
    return ReadingQuestions(config, reading)


@dataclasses.dataclass(frozen=True)
class _Frame:
    """What stands around a document, and the room that the answer needs.

    Attributes:
      before, after: int32, around the document.
      budget: tokens of an answer.
    """

    before: NDArray[np.int32]
    after: NDArray[np.int32]
    budget: int

    @property
    def size(self) -> int:
        """Tokens of all but the document."""
        return len(self.before) + len(self.after) + self.budget


class ReadingQuestions:
    """Questions about documents; see `famjax.data.questions.question.Questions`."""

    def __init__(self, config: ReadingComprehension, reading: Reading) -> None:
        """Reads the split; errors as `open_reading_comprehension`."""
        self._config, self._reading = config, reading
        self._dataset = open_dataset(config, reading.split)
        entries = self._dataset.entries
        self._order = EpochOrder(len(entries), reading.shuffle, *reading.key)
        self.size = len(entries) if reading.ends else None
        self.skipped = self._dataset.skipped
        self.output_type: OutputType = "multiple_choice" if isinstance(config, Quality) else "generate_until"
        self.metrics = _metrics(config)
        self._require_room()

    def _require_room(self) -> None:
        """Raises ConfigError unless every question, with its budget, leaves room for a token of its document."""
        asked = {(entry.question, entry.choices): entry for entry in self._dataset.entries}
        frames = [self._frame(entry) for entry in asked.values()]
        most = max(frames, key=lambda frame: frame.size)
        if most.size >= self._reading.longest:
            raise ConfigError(
                f"{self._reading.name}: a length of {self._reading.longest} tokens is too short; {most.size + 1} are "
                f"needed: {most.size - most.budget} for the longest question, {most.budget} for its answer, and 1 at "
                "least for the document."
            )

    def _frame(self, entry: Entry) -> _Frame:
        vocabulary = self._reading.vocabulary
        before, after = _texts(self._config, entry)
        if isinstance(self._config, Quality):
            budget = max(len(answer_ids(choice, vocabulary)) for choice in entry.choices)
        else:
            budget = self._config.max_new_tokens
        return _Frame(encode_piece(vocabulary, before), encode_piece(vocabulary, after), budget)

    def question(self, index: int) -> Question:
        """See `famjax.data.questions.question.Questions`."""
        entry = self._dataset.entries[self._order[index]]
        frame = self._frame(entry)
        document = encode_document(self._dataset, entry.document, self._reading.vocabulary)
        kept = document[: self._reading.longest - frame.size]
        return Question(
            prompt=np.concatenate([frame.before, kept, frame.after]),
            references=entry.references,
            max_new_tokens=frame.budget,
            choices=entry.choices,
            stop_strings=() if entry.choices else STOP_STRINGS,
            num_cut=len(document) - len(kept),
        )

    def __getitem__(self, index: int) -> Example:
        """See `famjax.data.examples.Examples`: the first reference, and the line end that stops an answer.

        A reference longer than the budget is cut there.
        """
        question = self.question(index)
        answer = " ".join(question.references[0].split()) + "".join(question.stop_strings)
        ids = answer_ids(answer, self._reading.vocabulary)[: question.max_new_tokens]
        return finish([question.prompt, ids], len(ids), self._config.prompt_weight)


def _metrics(config: ReadingComprehension) -> tuple[str, ...]:
    match config:
        case NarrativeQA():
            return ("rouge_l", "token_f1", "normalized_exact_match")
        case Qasper():
            return ("token_f1", "rouge_l", "normalized_exact_match")
        case Quality():
            return ("acc", "acc_norm")
        case XLSum():
            return ("rouge_l",)


def _texts(config: ReadingComprehension, entry: Entry) -> tuple[str, str]:
    """What stands before the document and behind it (as lm-evaluation-harness has it for SCROLLS)."""
    if isinstance(config, XLSum):
        return "", f"\n\n{config.instruction}"
    options = zip(OPTION_LETTERS, entry.choices, strict=False)
    question = f"Question: {entry.question}" + "".join(f"\n ({letter}) {choice}" for letter, choice in options)
    if config.question_first:
        return f"{question}\n\n", "\n\nAnswer:"
    return "", f"\n\n{question}\nAnswer:"
