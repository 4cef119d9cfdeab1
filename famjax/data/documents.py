"""The task `documents`: windows of consecutive tokens of long documents, or whole documents for streaming."""

import collections

import numpy as np
from numpy.typing import NDArray

from famjax.data.corpus import Corpus, open_corpus
from famjax.data.examples import Example, Reading
from famjax.data.shuffling import EpochOrder
from famjax.data.task_config import Documents
from famjax.errors import DataError


class Windows:
    """All windows of a corpus, numbered.

    Attributes:
      size: how many.
      skipped: documents that were too short, as a count by reason.
    """

    def __init__(self, corpus: Corpus, length: int, short_documents: str, whole_only: bool = False) -> None:
        """Cuts a corpus.

        Args:
          corpus: what is cut.
          length: tokens of a window.
          short_documents: see `Documents`.
          whole_only: leave out what remains behind the last whole window (of the corpus or of each document).

        Raises:
          DataError: no window at all, or a document shorter than a window where that is an error.
        """
        self._tokens, self._length = corpus.encoded.tokens, length
        self.skipped: collections.Counter[str] = collections.Counter()
        if short_documents == "pack":
            starts = corpus.encoded.starts[[0, -1]]
        else:
            starts = corpus.encoded.starts
            long = long_documents(corpus, length, short_documents)
            self.skipped["short_document"] += len(starts) - 1 - len(long)
        lengths = np.diff(starts)
        counts = np.where(lengths < length, 0 if short_documents != "pack" else 1, -(-lengths // length))
        if whole_only:
            counts = lengths // length
        self._starts, self._ends = starts[:-1], starts[1:]
        self._first_windows = np.concatenate([[0], np.cumsum(counts)])
        self.size = int(self._first_windows[-1])
        if not self.size:
            raise DataError(
                f"The documents hold no window of {length} tokens: {len(self._starts)} of {int(lengths.max())} tokens "
                f"at most, the first at {corpus.place(0)}."
            )

    def __getitem__(self, number: int) -> NDArray[np.unsignedinteger]:
        """The tokens of a window [length, or fewer at an end]."""
        document = int(np.searchsorted(self._first_windows, number, side="right")) - 1
        start = int(self._starts[document]) + (number - int(self._first_windows[document])) * self._length
        return self._tokens[start : min(start + self._length, int(self._ends[document]))]


def long_documents(corpus: Corpus, length: int, short_documents: str) -> NDArray[np.int64]:
    """Numbers of the documents that are as long as an example, or, where short ones are packed, of all.

    Raises:
      DataError: a document shorter than an example, where that is an error; none that is as long.
    """
    lengths = np.diff(corpus.encoded.starts)
    if short_documents == "pack":
        return np.arange(len(lengths))
    (short,) = np.nonzero(lengths < length)
    if short.size and short_documents == "error":
        raise DataError(
            f"{corpus.place(int(short[0]))}: a document of {int(lengths[short[0]])} tokens is "
            f"shorter than an example of {length}; {short.size} of {len(lengths)} documents are "
            "(Documents.short_documents = 'pack' joins them, 'skip' leaves them out)."
        )
    return np.flatnonzero(lengths >= length)


class DocumentExamples:
    """Examples of `Documents`: every window once an epoch, each as long as the reader's longest example.

    Attributes:
      corpus: where they come from.
    """

    def __init__(self, config: Documents, reading: Reading) -> None:
        """Opens the corpus; DataError as `open_corpus` and `Windows`."""
        self._loss_weight = config.loss_weight
        self.corpus = open_corpus(config, reading.split, reading.vocabulary)
        self._windows = Windows(self.corpus, reading.longest, config.short_documents)
        self.size = self._windows.size if reading.ends else None
        self.skipped = dict(collections.Counter(self.corpus.encoded.skipped) + self._windows.skipped)
        self._order = EpochOrder(self._windows.size, reading.shuffle, *reading.key)

    def __getitem__(self, index: int) -> Example:
        """See `famjax.data.examples.Examples`."""
        targets = self._windows[self._order[index]]
        weights = np.full(len(targets), self._loss_weight, np.float32)
        return Example(targets, weights, np.zeros(len(targets), np.bool_))


class StreamedDocuments:
    """The documents of `Documents`, whole; see `famjax.data.document_rows.Documents`."""

    def __init__(self, config: Documents, reading: Reading) -> None:
        """Opens the corpus.

        Args:
          config: the settings; what is shorter than the reader's longest example is a short document.
          reading: how the task is read.

        Raises:
          DataError: as `open_corpus`; no document is long enough, or one is too short where that is an error.
        """
        corpus = open_corpus(config, reading.split, reading.vocabulary)
        numbers = long_documents(corpus, reading.longest, config.short_documents)
        num_short = len(corpus.encoded.lines) - len(numbers)
        if not len(numbers):
            raise DataError(
                f"None of {num_short} documents has the {reading.longest} tokens of an example, the first is at "
                f"{corpus.place(0)} (Documents.short_documents = 'pack' takes short ones too)."
            )
        self._tokens, self._starts = corpus.encoded.tokens, corpus.encoded.starts[numbers]
        self._loss_weight = config.loss_weight
        self.lengths = np.diff(corpus.encoded.starts)[numbers]
        self.skipped = corpus.encoded.skipped | ({"short_document": num_short} if num_short else {})

    def part(self, document: int, turn: int, start: int, stop: int) -> Example:
        """See `document_rows.Documents`; nothing is drawn."""
        del turn
        first = int(self._starts[document])
        targets = self._tokens[first + start : first + stop]
        return Example(targets, np.full(len(targets), self._loss_weight, np.float32), np.zeros(len(targets), np.bool_))
