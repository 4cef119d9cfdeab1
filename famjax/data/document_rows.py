"""Rows that read whole documents: each row of the global batch reads one in order, batch after batch, then another.

A document begins with a block of the row, and what its last block has left over is padding:

    batch 1, row i:  [document 7, tokens 0 .. 4C-1                                  ]
    batch 2, row i:  [document 7, its last C + 9 | padding ][document 2, its first 2C ]

Rows take documents from one queue, an epoch's in a drawn order and then the next epoch's, so every document is read
once an epoch. All hosts follow all rows, and read the tokens of their own.
"""

import dataclasses
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from famjax.data.batches import CORPUS, Batch, Rows, State, check_identity
from famjax.data.examples import Example
from famjax.data.shuffling import EpochOrder


@dataclasses.dataclass(frozen=True)
class BlockShape:
    """The shape of a row of a batch.

    Attributes:
      num_blocks: blocks of a row [N].
      block_size: tokens of a block [C].
    """

    num_blocks: int
    block_size: int

    @property
    def length(self) -> int:
        """Tokens of a row [T]."""
        return self.num_blocks * self.block_size


@runtime_checkable
class Documents(Protocol):
    """Documents for rows to read, numbered from 0.

    Attributes:
      lengths: int64 [documents], tokens of each, at least 1.
      skipped: documents and records that were left out, counted by reason.
    """

    lengths: NDArray[np.int64]
    skipped: dict[str, int]

    def part(self, document: int, turn: int, start: int, stop: int) -> Example:
        """Consecutive tokens of a document, with their weights.

        Args:
          document: its number.
          turn: how many documents were taken before it, over all epochs; what is drawn for a document depends on it.
          start: the first token's place in the document.
          stop: the place behind the last one.
        """


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a row stands: in a document of which some tokens are left.

    Attributes:
      document: its number.
      turn: see `Documents.part`.
      offset: tokens of it that are read.
    """

    document: int
    turn: int
    offset: int


@dataclasses.dataclass(frozen=True)
class Span:
    """Consecutive tokens of a document in one row of one batch.

    Attributes:
      row: of the global batch.
      block: of the row, with which the span begins.
      start: the place of its first token.
      length: tokens.
    """

    row: int
    block: int
    start: Place
    length: int


@dataclasses.dataclass(frozen=True)
class Source:
    """What rows read.

    Attributes:
      documents: those that are read.
      order: in which they are taken, epoch after epoch.
      ends: whether after one epoch there are no more.
      bos_id: the first input of a document.
      pad_id: stands where there is no token.
    """

    documents: Documents
    order: EpochOrder
    ends: bool
    bos_id: int
    pad_id: int


class DocumentRows:
    """Batches of rows that read whole documents; a `famjax.data.batches.BatchIterator`.

    A batch has, besides `famjax.data.batches.Batch`: begins, bool [B, N], whether a document begins with a block, and
    block_lengths, int32 [B, N], the tokens of each block; what is left of it is padding. The first input of a document
    is the beginning token, every other one the token before its target, from batch to batch too.

    At the end of a split that has one rows whose turn it is find no document, and their blocks are empty.
    """

    def __init__(self, source: Source, rows: Rows, shape: BlockShape, identity: State, state: State | None) -> None:
        """Begins at the start, or at `state`.

        Args:
          source: what is read.
          rows: of the global batch.
          shape: of a row.
          identity: what is read, in words; a state of something else is refused.
          state: see `BatchIterator.state`; another number of blocks or of hosts than it was made with is allowed.
        """
        self._source, self._rows, self._shape = source, rows, shape
        lengths = source.documents.lengths
        self._size = len(lengths) if source.ends else None
        self.skipped = source.documents.skipped
        self._local_rows = {row: place for place, row in enumerate(rows.local)}
        self._identity: State = {
            **identity,
            "streaming": True,
            "batch_size": rows.batch_size,
            "block_size": shape.block_size,
            CORPUS: f"{len(lengths)} documents, {lengths.sum()} tokens",
        }
        self._taken = self._num_tokens = self._num_slots = 0
        self._places: list[Place | None] = [None] * rows.batch_size  # None: the row begins another document
        if state is not None:
            check_identity(self._identity, state)
            self._taken, self._num_tokens, self._num_slots = (int(state[name]) for name in ("taken", "tokens", "slots"))
            self._places = [place and Place(*map(int, place)) for place in state["places"]]

    def __iter__(self) -> Iterator[Batch]:
        """See `BatchIterator`."""
        return self

    def __next__(self) -> Batch:
        """See `BatchIterator`."""
        spans = [span for row in range(self._rows.batch_size) for span in self._advance(row)]
        if not spans:
            raise StopIteration
        self._num_tokens += sum(span.length for span in spans)
        self._num_slots += self._rows.batch_size * self._shape.length
        return self._fill([span for span in spans if span.row in self._local_rows])

    def state(self) -> State:
        """See `BatchIterator`: besides the identity, documents taken, tokens and slots filled, and each row's place.

        A place is [document, turn, offset], see `Place`; None: the row begins another document.
        """
        places = [place and list(dataclasses.astuple(place)) for place in self._places]
        counts = {"taken": self._taken, "tokens": self._num_tokens, "slots": self._num_slots}
        return {**self._identity, **counts, "places": places}

    def close(self) -> None:
        """See `BatchIterator`; there is nothing to end."""

    def _advance(self, row: int) -> list[Span]:
        """What one row reads in the next batch; moves its place on."""
        spans: list[Span] = []
        place = self._places[row]
        block, size = 0, self._shape.block_size
        while block < self._shape.num_blocks:
            if place is None:
                if self._size is not None and self._taken >= self._size:
                    break
                place = Place(self._source.order[self._taken], self._taken, 0)
                self._taken += 1
            left = int(self._source.documents.lengths[place.document]) - place.offset
            length = min(left, (self._shape.num_blocks - block) * size)
            spans.append(Span(row, block, place, length))
            block += -(-length // size)
            place = None if length == left else dataclasses.replace(place, offset=place.offset + length)
        self._places[row] = place
        return spans

    def _fill(self, spans: list[Span]) -> Batch:
        """The host's rows of the batch that these spans make up."""
        source, num_rows, shape = self._source, len(self._local_rows), self._shape
        grid, blocks = (num_rows, shape.length), (num_rows, shape.num_blocks)
        tokens, targets = np.full(grid, source.pad_id, np.int32), np.full(grid, source.pad_id, np.int32)
        weights, answers, valid = np.zeros(grid, np.float32), np.zeros(grid, np.bool_), np.zeros(grid, np.bool_)
        begins, lengths = np.zeros(blocks, np.bool_), np.zeros(blocks, np.int32)
        for span in spans:
            row, place = self._local_rows[span.row], span.start
            num_before = min(place.offset, 1)  # the token before the first target is the first input
            start, stop = place.offset - num_before, place.offset + span.length
            text = source.documents.part(place.document, place.turn, start, stop)
            begin, end = span.block * shape.block_size, span.block * shape.block_size + span.length
            tokens[row, begin] = source.bos_id
            tokens[row, begin + 1 - num_before : end] = text.targets[:-1]
            targets[row, begin:end] = text.targets[num_before:]
            weights[row, begin:end] = text.weights[num_before:]
            answers[row, begin:end] = text.answers[num_before:]
            valid[row, begin:end] = True
            begins[row, span.block] = place.offset == 0
            whole, rest = divmod(span.length, shape.block_size)
            lengths[row, span.block : span.block + whole] = shape.block_size
            if rest:
                lengths[row, span.block + whole] = rest
        return {
            "tokens": tokens,
            "targets": targets,
            "weights": weights,
            "answers": answers,
            "valid": valid,
            "begins": begins,
            "block_lengths": lengths,
        }


@dataclasses.dataclass(frozen=True)
class StreamCounts:
    """How much a stream of documents has given since the beginning of the data.

    Attributes:
      documents: begun, in all rows of the global batch.
      tokens: read.
      slots: places for tokens in the batches: what is no token is padding.
    """

    documents: int = 0
    tokens: int = 0
    slots: int = 0

    @property
    def padding(self) -> float:
        """Share of the slots without a token; 0 before the first batch."""
        return 1 - self.tokens / self.slots if self.slots else 0.0


def counts_of(state: State) -> StreamCounts:
    """The counts in a state of `DocumentRows`; zeros in one of a stream that has not begun."""
    return StreamCounts(*(int(state.get(name, 0)) for name in ("taken", "tokens", "slots")))
