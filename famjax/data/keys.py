"""The tasks `passkey` and `passkey_documents`: a key hidden in filler, and a question about it at the end.

An example is [introduction] filler, key sentence, filler, question, key; it ends with the key, without an end token, so
that exact match counts the key alone. The wording is the paper's (spec, Training recipe), which is landmark
attention's.
"""

import collections
import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from famjax.data.corpus import Corpus, open_corpus
from famjax.data.documents import Windows
from famjax.data.examples import Example, Reading
from famjax.data.shuffling import EpochOrder
from famjax.data.task_config import Documents, PassKey, PassKeyDocuments
from famjax.data.vocabularies import Vocabulary
from famjax.errors import ConfigError

INTRODUCTION = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. "
    "I will quiz you about the important information there."
)
KEY_SENTENCE = " The pass key is {key}. Remember it. {key} is the pass key."
QUESTION = " What is the pass key? The pass key is "
LANDMARK_SENTENCES = " The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."

# (random numbers of the example, its index, tokens wanted) -> ids [tokens wanted]
Filler = Callable[[np.random.Generator, int, int], NDArray[np.integer]]


@functools.lru_cache(maxsize=8)
def _adds_blank(vocabulary: Vocabulary) -> bool:
    """Whether the vocabulary puts a blank before every text (SentencePiece's dummy prefix)."""
    joined = np.concatenate([vocabulary.encode("a"), vocabulary.encode("b")])
    return vocabulary.decode(joined) == "a b"


def encode_piece(vocabulary: Vocabulary, text: str) -> NDArray[np.int32]:
    """Encodes a piece of an example that begins with a blank, so that it is the only one behind the piece before it."""
    return vocabulary.encode(text.removeprefix(" ") if _adds_blank(vocabulary) else text)


def landmark_filler(vocabulary: Vocabulary) -> Filler:
    """Filler of the landmark sentences, repeated and cut to length."""
    sentences = encode_piece(vocabulary, LANDMARK_SENTENCES)
    return lambda _random, _index, length: np.resize(sentences, length)


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


def answer_tokens(vocabulary: Vocabulary, question: str, answer: str) -> tuple[NDArray[np.int32], int]:
    """Encodes a question with its answer.

    Returns:
      Ids of both [n], and how many of these are the answer: those behind the longest common beginning with the encoded
      question alone (a subword may join the last blank of the question to the answer).
    """
    both, alone = encode_piece(vocabulary, question + answer), encode_piece(vocabulary, question)
    shared = min(len(both), len(alone))
    same = both[:shared] == alone[:shared]
    return both, len(both) - int(shared if same.all() else same.argmin())


def finish(pieces: list[NDArray[np.integer]], num_answers: int, prompt_weight: float) -> Example:
    """Joins the pieces of an example whose last `num_answers` tokens are the answer."""
    targets = np.concatenate(pieces)
    answers = np.zeros(len(targets), np.bool_)
    answers[len(targets) - num_answers :] = True
    return Example(targets, np.where(answers, 1.0, prompt_weight).astype(np.float32), answers)


class KeyExamples:
    """Examples of `PassKey` and `PassKeyDocuments`.

    Attributes:
      corpus: where the filler comes from; None for the landmark sentences.
    """

    def __init__(self, config: PassKey | PassKeyDocuments, reading: Reading) -> None:
        """Prepares the filler.

        Raises:
          ConfigError: the longest example is too short for the key and the question; a wrong task of documents.
          DataError: the documents cannot be read.
        """
        self._config, self._reading = config, reading
        self._introduction = reading.vocabulary.encode(INTRODUCTION) if config.introduction else np.zeros(0, np.int32)
        self.size = config.validation_examples if reading.ends else None
        self.skipped: dict[str, int] = {}
        self.corpus: Corpus | None = None
        self._pieces("0" * config.digits)
        if isinstance(config, PassKeyDocuments):
            documents = reading.task_config(config.documents)
            if not isinstance(documents, Documents):
                raise ConfigError(f"PassKeyDocuments.documents = {config.documents!r} is no task of type Documents.")
            self.corpus = open_corpus(documents, reading.split, reading.vocabulary)
            self._filler, self.skipped = document_filler(self.corpus, documents, reading)
        else:
            self._filler = landmark_filler(reading.vocabulary)

    def _pieces(self, key: str) -> tuple[NDArray[np.int32], NDArray[np.int32], int]:
        """The key sentence, the question with its answer, the answer's tokens; ConfigError if they have no room."""
        vocabulary = self._reading.vocabulary
        sentence = encode_piece(vocabulary, KEY_SENTENCE.format(key=key))
        question, num_answers = answer_tokens(vocabulary, QUESTION, key)
        least = len(self._introduction) + len(sentence) + len(question)
        if least > self._reading.longest:
            raise ConfigError(
                f"An example of {self._reading.longest} tokens has no room for the {least} tokens of a "
                f"{type(self._config).__name__} without filler (--gin.TASK_FEATURE_LENGTHS, or the "
                "curriculum's lengths)."
            )
        return sentence, question, num_answers

    def __getitem__(self, index: int) -> Example:
        """See `famjax.data.examples.Examples`."""
        config = self._config
        random = self._reading.random(index)
        key = "".join(map(str, random.integers(0, 10, config.digits)))
        sentence, question, num_answers = self._pieces(key)
        least = len(self._introduction) + len(sentence) + len(question)
        length = self._reading.draw_length(random, least, config.min_length, config.length_multiple) - least
        before = int(random.integers(length + 1)) if config.depth is None else round(config.depth * length)
        filler = self._filler(random, index, length)
        pieces = [self._introduction, filler[:before], sentence, filler[before:], question]
        return finish(pieces, num_answers, config.prompt_weight)
