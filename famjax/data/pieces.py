"""Pieces of an example, encoded one by one: their tokens add up, whatever the vocabulary."""

import functools

import numpy as np
from numpy.typing import NDArray

from famjax.data.examples import Example
from famjax.data.vocabularies import ANCHOR, Vocabulary


@functools.lru_cache(maxsize=8)
def _adds_blank(vocabulary: Vocabulary) -> bool:
    """Whether the vocabulary puts a blank before every text (SentencePiece's dummy prefix)."""
    joined = np.concatenate([vocabulary.encode("a"), vocabulary.encode("b")])
    return vocabulary.decode(joined) == "a b"


def encode_piece(vocabulary: Vocabulary, text: str) -> NDArray[np.int32]:
    """Encodes a piece as it follows another [n]: a blank that it begins with is the only one, and none is added."""
    if not _adds_blank(vocabulary):
        return vocabulary.encode(text)
    if text.startswith(" "):
        return vocabulary.encode(text.removeprefix(" "))
    both, before = vocabulary.encode(ANCHOR + text), vocabulary.encode(ANCHOR)
    return both[len(before) :] if np.array_equal(both[: len(before)], before) else vocabulary.encode(text)


def answer_tokens(
    vocabulary: Vocabulary, question: str, answer: str, *, first: bool = False
) -> tuple[NDArray[np.int32], int]:
    """Encodes a question with its answer.

    Args:
      vocabulary: of the tokens.
      question: what is asked.
      answer: follows it.
      first: whether the question begins a text; otherwise it follows another piece.

    Returns:
      Ids of both [n], and how many of these are the answer: those behind the longest common beginning with the encoded
      question alone (a subword may join the last blank of the question to the answer).
    """
    texts = question + answer, question
    both, alone = (vocabulary.encode(text) if first else encode_piece(vocabulary, text) for text in texts)
    shared = min(len(both), len(alone))
    same = both[:shared] == alone[:shared]
    return both, len(both) - int(shared if same.all() else same.argmin())


def finish(pieces: list[NDArray[np.integer]], num_answers: int, prompt_weight: float) -> Example:
    """Joins the pieces of an example whose last `num_answers` tokens are the answer."""
    targets = np.concatenate(pieces)
    answers = np.zeros(len(targets), np.bool_)
    answers[len(targets) - num_answers :] = True
    return Example(targets, np.where(answers, 1.0, prompt_weight).astype(np.float32), answers)
