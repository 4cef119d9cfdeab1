"""Reading texts of any length, in chunks of one shape: into a context, or with a score for every token."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from famjax.errors import DataError, NumericsError
from famjax.inference.context import Context
from famjax.inference.programs import Programs

Ids = Sequence[int] | NDArray[np.integer]
RowTokens = Ids | Iterable[NDArray[np.integer]]
"""Tokens of a row: ids, or arrays of ids one behind the other, which may come from a file of any size."""


@dataclasses.dataclass(frozen=True)
class TokenScores:
    """How a model saw each token of a text, given all before it.

    Attributes:
      logprobs: log-probability, nats, float32 [n].
      greedy: whether it was the most probable token, bool [n].
    """

    logprobs: NDArray[np.float32]
    greedy: NDArray[np.bool_]


def read_rows(programs: Programs, params: Any, context: Context, rows: Sequence[RowTokens]) -> Context:
    """Reads on in each row.

    Args:
      programs: of the model.
      params: of the model.
      context: what was read before.
      rows: what each row reads; they may differ in length, and be empty.

    Raises:
      DataError: an id that the model has no embedding for.
    """
    on_device, counts = context.rows, context.num_tokens
    for tokens, lengths in _chunks(programs, rows, context.num_rows):
        on_device = programs.read(params, on_device, tokens, lengths)
        counts = counts + lengths
    return Context(rows=on_device, num_tokens=counts)


def score_rows(
    programs: Programs, params: Any, context: Context, rows: Sequence[RowTokens]
) -> tuple[Context, list[TokenScores]]:
    """Reads on in each row, and scores every token on the way; see `read_rows`.

    Raises:
      DataError: an id that the model has no embedding for.
      NumericsError: log-probabilities that are no numbers.
    """
    on_device, counts = context.rows, context.num_tokens
    logprobs: list[list[NDArray[np.float32]]] = [[] for _ in rows]
    greedy: list[list[NDArray[np.bool_]]] = [[] for _ in rows]
    for tokens, lengths in _chunks(programs, rows, context.num_rows):
        on_device, scores = programs.score(params, on_device, tokens, lengths)
        scores = jax.device_get(scores)
        require_numbers(scores.logprobs)
        counts = counts + lengths
        for row, length in enumerate(lengths.tolist()):
            logprobs[row].append(scores.logprobs[row, :length])
            greedy[row].append(scores.greedy[row, :length])
    none = np.zeros(0, np.float32)
    joined = [
        TokenScores(
            logprobs=np.concatenate([none, *logprobs[row]]),
            greedy=np.concatenate([none.astype(np.bool_), *greedy[row]]),
        )
        for row in range(len(rows))
    ]
    return Context(rows=on_device, num_tokens=counts), joined


def _chunks(
    programs: Programs, rows: Sequence[RowTokens], num_rows: int
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32]]]:
    """Tokens [B, chunk_size] and how many of them each row reads [B], until every row is at its end."""
    if len(rows) != num_rows:
        raise ValueError(f"{len(rows)} rows of tokens for a context of {num_rows} rows")
    readers = [_Reader(row, programs.vocab_size) for row in rows]
    while True:
        taken = [reader.take(programs.chunk_size) for reader in readers]
        lengths = np.array([len(ids) for ids in taken], np.int32)
        if not lengths.any():
            return
        tokens = np.zeros((num_rows, programs.chunk_size), np.int32)
        for row, ids in enumerate(taken):
            tokens[row, : len(ids)] = ids
        yield tokens, lengths


class _Reader:
    """Gives the tokens of a row in pieces of a wanted size; holds no more of a stream than that needs."""

    def __init__(self, row: RowTokens, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        whole = isinstance(row, np.ndarray) or (isinstance(row, Sequence) and not _is_of_arrays(row))
        self._pieces: Iterator[Any] = iter([row] if whole else row)
        self._piece, self._taken = np.zeros(0, np.int32), 0

    def take(self, size: int) -> NDArray[np.int32]:
        """Up to `size` more tokens; fewer only at the end."""
        held: list[NDArray[np.int32]] = []
        missing = size
        while missing:
            if self._taken == len(self._piece):
                piece = next(self._pieces, None)
                if piece is None:
                    break
                self._piece, self._taken = self._checked(piece), 0
            held.append(self._piece[self._taken : self._taken + missing])
            self._taken += len(held[-1])
            missing -= len(held[-1])
        return np.concatenate([np.zeros(0, np.int32), *held])

    def _checked(self, piece: Any) -> NDArray[np.int32]:
        ids = np.asarray(piece, np.int64)
        wrong = ids[(ids < 0) | (ids >= self._vocab_size)]
        if wrong.size:
            raise DataError(f"There is no token {wrong[0]}: the model's ids are 0 to {self._vocab_size - 1}.")
        return ids.astype(np.int32)


def require_numbers(logprobs: NDArray[np.floating]) -> None:
    """Raises NumericsError where the model gave no number: its answers would mean nothing."""
    if np.isnan(logprobs).any():
        raise NumericsError("The model gives log-probabilities that are no numbers (NaN): its parameters are broken.")


def _is_of_arrays(row: Sequence[Any]) -> bool:
    return len(row) > 0 and isinstance(row[0], np.ndarray) and row[0].ndim == 1
