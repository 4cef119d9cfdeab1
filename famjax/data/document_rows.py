"""Rows that read whole documents: each row of the global batch reads one in order, batch after batch, then another.

A document begins with a block of the row, and what its last block has left over is padding:

    batch 1, row i:  [document 7, tokens 0 .. 4C-1                                  ]
    batch 2, row i:  [document 7, its last C + 9 | padding ][document 2, its first 2C ]

Rows take documents from one queue, an epoch's in a drawn order and then the next epoch's, so every document is read
once an epoch. All hosts follow all rows, and read the tokens of their own.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from famjax.data.batches import Batch, Rows, State, check_identity
from famjax.data.corpus import Corpus
from famjax.data.shuffling import EpochOrder

_NONE = -1  # instead of a document: the row has finished one and not begun the next


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


@dataclasses.dataclass(frozen=True)
class Span:
    """Consecutive tokens of a document in one row of one batch.

    Attributes:
      row: of the global batch.
      block: of the row, with which the span begins.
      document: its number in the corpus.
      offset: in the document, of the span's first token.
      length: tokens.
    """

    row: int
    block: int
    document: int
    offset: int
    length: int


@dataclasses.dataclass(frozen=True)
class Source:
    """What rows read.

    Attributes:
      corpus: the documents.
      documents: numbers of those that are read.
      order: in which `documents` are taken, epoch after epoch.
      ends: whether after one epoch there are no more.
      loss_weight: of every target.
      bos_id: the first input of a document.
      pad_id: stands where there is no token.
      skipped: documents left out, counted by reason.
    """

    corpus: Corpus
    documents: NDArray[np.integer]
    order: EpochOrder
    ends: bool
    loss_weight: float
    bos_id: int
    pad_id: int
    skipped: dict[str, int]


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
        self._tokens, self._starts = source.corpus.encoded.tokens, source.corpus.encoded.starts
        self._size = len(source.documents) if source.ends else None
        self.skipped = source.skipped
        num_tokens = int(np.sum(np.diff(self._starts)[source.documents]))
        self._identity: State = {
            **identity,
            "streaming": True,
            "batch_size": rows.batch_size,
            "block_size": shape.block_size,
            "corpus": f"{len(source.documents)} documents, {num_tokens} tokens",
        }
        self._taken = self._num_tokens = self._num_slots = 0
        self._places = [(_NONE, 0)] * rows.batch_size
        if state is not None:
            check_identity(self._identity, state)
            self._taken, self._num_tokens, self._num_slots = (int(state[name]) for name in ("taken", "tokens", "slots"))
            self._places = [(int(document), int(offset)) for document, offset in state["places"]]

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
        return self._fill([span for span in spans if span.row in self._rows.local])

    def state(self) -> State:
        """See `BatchIterator`: besides the identity, documents taken, tokens and slots filled, and each row's place.

        A place is [document, tokens of it that are read]; document -1: the row begins another one.
        """
        places = [list(place) for place in self._places]
        counts = {"taken": self._taken, "tokens": self._num_tokens, "slots": self._num_slots}
        return {**self._identity, **counts, "places": places}

    def close(self) -> None:
        """See `BatchIterator`; there is nothing to end."""

    def _advance(self, row: int) -> list[Span]:
        """What one row reads in the next batch; moves its place on."""
        spans: list[Span] = []
        document, offset = self._places[row]
        block, size = 0, self._shape.block_size
        while block < self._shape.num_blocks:
            if document == _NONE:
                if self._size is not None and self._taken >= self._size:
                    break
                document, offset = int(self._source.documents[self._source.order[self._taken]]), 0
                self._taken += 1
            left = int(self._starts[document + 1] - self._starts[document]) - offset
            length = min(left, (self._shape.num_blocks - block) * size)
            spans.append(Span(row, block, document, offset, length))
            block += -(-length // size)
            offset += length
            if length == left:
                document, offset = _NONE, 0
        self._places[row] = (document, offset)
        return spans

    def _fill(self, spans: list[Span]) -> Batch:
        """The host's rows of the batch that these spans make up."""
        source, local, shape = self._source, self._rows.local, self._shape
        grid, blocks = (len(local), shape.length), (len(local), shape.num_blocks)
        tokens, targets = np.full(grid, source.pad_id, np.int32), np.full(grid, source.pad_id, np.int32)
        weights, valid = np.zeros(grid, np.float32), np.zeros(grid, np.bool_)
        begins, lengths = np.zeros(blocks, np.bool_), np.zeros(blocks, np.int32)
        for span in spans:
            row, first = span.row - local.start, int(self._starts[span.document]) + span.offset
            text = self._tokens[first : first + span.length]
            begin, end = span.block * shape.block_size, span.block * shape.block_size + span.length
            targets[row, begin:end] = text
            tokens[row, begin] = self._tokens[first - 1] if span.offset else source.bos_id
            tokens[row, begin + 1 : end] = text[:-1]
            weights[row, begin:end] = source.loss_weight
            valid[row, begin:end] = True
            begins[row, span.block] = span.offset == 0
            whole, rest = divmod(span.length, shape.block_size)
            lengths[row, span.block : span.block + whole] = shape.block_size
            if rest:
                lengths[row, span.block + whole] = rest
        return {
            "tokens": tokens,
            "targets": targets,
            "weights": weights,
            "answers": np.zeros(grid, np.bool_),
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
