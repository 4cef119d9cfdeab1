"""The tasks `passkey` and `passkey_documents`: a key hidden in filler, and a question about it at the end.

An example is [introduction] filler, key sentence, filler, question, key; it ends with the key, without an end token, so
that exact match counts the key alone. Its length is exactly the length asked for: the filler is cut to the token. The
words are the paper's (spec, Training recipe), which are landmark attention's (arXiv 2305.16300, llama/run_test.py).
"""

import collections
import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from famjax.data.corpus import Corpus, open_corpus
from famjax.data.documents import Windows
from famjax.data.examples import Example, Reading
from famjax.data.pieces import answer_tokens, encode_piece, finish
from famjax.data.questions.question import OutputType, Question, question_of
from famjax.data.shuffling import EpochOrder
from famjax.data.task_config import Documents, PassKey, PassKeyDocuments
from famjax.data.vocabularies import Vocabulary
from famjax.errors import ConfigError

INTRODUCTION = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. "
    "I will quiz you about the important information there."
)
KEY_SENTENCE = "The pass key is {key}. Remember it. {key} is the pass key."
QUESTION = "What is the pass key? The pass key is"
LANDMARK_SENTENCES = " The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."

# Between the parts, and before the key, in each wording.
_BETWEEN = {"fam": " ", "landmark": "\n"}
_BEFORE_KEY = {"fam": "", "landmark": " "}

# (random numbers of the example, its index, tokens wanted) -> ids [tokens wanted]
Filler = Callable[[np.random.Generator, int, int], NDArray[np.integer]]


def landmark_filler(vocabulary: Vocabulary, new_line: bool = False) -> Filler:
    """Filler of the landmark sentences, repeated and cut to length; `new_line`: without the blank before the first."""
    sentences = encode_piece(vocabulary, LANDMARK_SENTENCES)
    if not new_line:
        return lambda _random, _index, length: np.resize(sentences, length)
    first = encode_piece(vocabulary, LANDMARK_SENTENCES.lstrip())
    return lambda _random, _index, length: np.concatenate([first, np.resize(sentences, length)])[:length]


def document_filler(corpus: Corpus, config: Documents, reading: Reading) -> tuple[Filler, dict[str, int]]:
    """Filler of consecutive tokens of documents; within an epoch over them no text comes twice.

    Args:
      corpus: the documents.
      config: their settings.
      reading: how the task that needs filler is read.

    Returns:
      The filler, and bad records that were left out.
    """
    windows = Windows(corpus, reading.longest, config.short_documents, whole_only=True)
    order = EpochOrder(windows.size, reading.shuffle, *reading.key)

    def filler(random: np.random.Generator, index: int, length: int) -> NDArray[np.integer]:
        start = int(random.integers(reading.longest - length + 1))
        return windows[order[index]][start : start + length]

    return filler, dict(collections.Counter(corpus.encoded.skipped) + windows.skipped)


@dataclasses.dataclass(frozen=True)
class _Parts:
    """The parts of an example but its filler, encoded, in their order.

    Attributes:
      introduction: with what separates it from the filler.
      sentence: of the key, with what separates it from the filler on either side.
      question: with its answer.
      num_answers: tokens of the answer.
    """

    introduction: NDArray[np.int32]
    sentence: NDArray[np.int32]
    question: NDArray[np.int32]
    num_answers: int

    @property
    def length(self) -> int:
        """Tokens of all parts."""
        return len(self.introduction) + len(self.sentence) + len(self.question)


class KeyExamples:
    """Examples of `PassKey` and `PassKeyDocuments`, which are questions too.

    Attributes:
      corpus: where the filler comes from; None for the landmark sentences.
    """

    output_type: OutputType = "generate_until"
    metrics: tuple[str, ...] = ("exact_match",)

    def __init__(self, config: PassKey | PassKeyDocuments, reading: Reading) -> None:
        """Prepares the filler.

        Raises:
          ConfigError: the longest example is too short for the key and the question; a wrong task of documents.
          DataError: the documents cannot be read.
        """
        self._config, self._reading = config, reading
        self.size = config.validation_examples if reading.ends else None
        self.skipped: dict[str, int] = {}
        self.corpus: Corpus | None = None
        self._parts("0" * config.digits)
        if isinstance(config, PassKeyDocuments):
            documents = reading.task_config(config.documents)
            if not isinstance(documents, Documents):
                raise ConfigError(f"PassKeyDocuments.documents = {config.documents!r} is no task of type Documents.")
            self.corpus = open_corpus(documents, reading.split, reading.vocabulary)
            self._filler, self.skipped = document_filler(self.corpus, documents, reading)
        else:
            self._filler = landmark_filler(reading.vocabulary, new_line=config.wording == "landmark")

    def _parts(self, key: str) -> _Parts:
        """Encodes the parts of an example with this key; ConfigError if they have no room."""
        config, vocabulary = self._config, self._reading.vocabulary
        between = _BETWEEN[config.wording]
        line_break = encode_piece(vocabulary, between) if between == "\n" else np.zeros(0, np.int32)
        introduction = vocabulary.encode(INTRODUCTION) if config.introduction else np.zeros(0, np.int32)
        sentence = encode_piece(vocabulary, between + KEY_SENTENCE.format(key=key))
        question = between + QUESTION + (" " if config.wording == "fam" else "")
        parts = _Parts(
            np.concatenate([introduction, line_break]) if config.introduction else introduction,
            np.concatenate([sentence, line_break]),
            *answer_tokens(vocabulary, question, _BEFORE_KEY[config.wording] + key),
        )
        if parts.length > self._reading.longest:
            raise ConfigError(
                f"An example of {self._reading.longest} tokens has no room for the {parts.length} tokens of a "
                f"{type(config).__name__} without filler (--gin.TASK_FEATURE_LENGTHS, the curriculum's lengths, or a "
                "scan's --gin.SCAN_LENGTHS)."
            )
        return parts

    def __getitem__(self, index: int) -> Example:
        """See `famjax.data.examples.Examples`."""
        config = self._config
        random = self._reading.random(index)
        key = "".join(map(str, random.integers(0, 10, config.digits)))
        parts = self._parts(key)
        wanted = self._reading.draw_length(random, parts.length, config.min_length, config.length_multiple)
        length = wanted - parts.length
        before = int(random.integers(length + 1)) if config.depth is None else round(config.depth * length)
        filler = self._filler(random, index, length)
        anew = config.wording == "landmark" and self.corpus is None
        behind = filler[: length - before] if anew else filler[before:]
        pieces = [parts.introduction, filler[:before], parts.sentence, behind, parts.question]
        return finish(pieces, parts.num_answers, config.prompt_weight)

    def question(self, index: int) -> Question:
        """See `famjax.data.questions.question.Questions`."""
        return question_of(self[index], self._reading.vocabulary)
