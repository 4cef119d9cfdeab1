"""Batches of a famjax task: the host's rows of the global batch, padded to one length."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from famjax.data.examples import Example, Examples
from famjax.errors import ConfigError

Batch = dict[str, NDArray[Any]]
"""All [B, T]: tokens int32 (model inputs: tokens[t] predicts targets[t]), targets int32, weights float32 (in the loss),
answers bool (targets that exact match is counted on), valid bool (False is padding)."""

State = dict[str, Any]
"""JSON-able: where a stream of batches stands."""


LENGTH, CORPUS = "length", "corpus"
# What is said of a difference besides, by its name in a state.
_REMEDIES = {
    LENGTH: " (--gin.TASK_FEATURE_LENGTHS). At another length the corpus is cut into other examples: some text "
    "would come again, and some not at all.",
    CORPUS: " (the files). Other text moves the examples: some would come again, and some not at all.",
}


@runtime_checkable
class BatchIterator(Protocol):
    """A stream of batches whose place can be saved."""

    @property
    def skipped(self) -> dict[str, int]:
        """Bad records that were left out, counted by reason."""

    def __iter__(self) -> Iterator[Batch]:
        """Itself."""

    def __next__(self) -> Batch:
        """The next batch: this host's rows of it. StopIteration at the end of a split that has one."""

    def state(self) -> State:
        """The place behind the batches handed out so far."""

    def close(self) -> None:
        """Ends the stream and what works for it."""


@dataclasses.dataclass(frozen=True)
class Rows:
    """Which rows of the global batch a host makes.

    Attributes:
      batch_size: rows of the global batch.
      own: the host's rows, as numbers in the global batch, ascending; None: all.
    """

    batch_size: int
    own: tuple[int, ...] | None = None

    @property
    def local(self) -> Sequence[int]:
        """The host's rows, as numbers in the global batch."""
        return range(self.batch_size) if self.own is None else self.own


def assemble(examples: list[Example], num_rows: int, length: int, bos_id: int, pad_id: int) -> Batch:
    """Pads examples on the right into a batch.

    Args:
      examples: at most `num_rows`, none longer than `length`; missing rows are padding throughout.
      num_rows: B.
      length: T.
      bos_id: the first input token of every example.
      pad_id: stands where there is no token.

    Returns:
      A batch; see `Batch`.
    """
    shape = num_rows, length
    targets = np.full(shape, pad_id, np.int32)
    tokens = np.full(shape, pad_id, np.int32)
    weights, answers, valid = np.zeros(shape, np.float32), np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    for row, example in enumerate(examples):
        end = len(example.targets)
        targets[row, :end] = example.targets
        tokens[row, 0] = bos_id
        tokens[row, 1:end] = example.targets[:-1]
        weights[row, :end] = example.weights
        answers[row, :end] = example.answers
        valid[row, :end] = True
    return {"tokens": tokens, "targets": targets, "weights": weights, "answers": answers, "valid": valid}


class ExampleBatches:
    """Batches of a famjax task.

    The global batch does not depend on the number of hosts: row r of the batch behind n examples is example n + r.
    """

    def __init__(
        self,
        examples: Examples,
        rows: Rows,
        length: int,
        bos_id: int,
        pad_id: int,
        identity: State,
        state: State | None,
    ) -> None:
        """Begins at the start, or at `state`.

        Args:
          examples: of the task.
          rows: of the global batch.
          length: T.
          bos_id: see `assemble`.
          pad_id: see `assemble`.
          identity: what is read; a state of something else is refused.
          state: see `BatchIterator.state`; another batch size or length than it was made with is allowed.
        """
        self._examples, self._rows, self._length = examples, rows, length
        self._bos_id, self._pad_id, self._identity = bos_id, pad_id, identity
        self._count = 0
        if state is not None:
            check_identity(identity, state)
            self._count = int(state["examples"])

    @property
    def skipped(self) -> dict[str, int]:
        """See `BatchIterator`."""
        return dict(self._examples.skipped)

    def __iter__(self) -> Iterator[Batch]:
        """See `BatchIterator`."""
        return self

    def __next__(self) -> Batch:
        """See `BatchIterator`."""
        size = self._examples.size
        if size is not None and self._count >= size:
            raise StopIteration
        numbers = [self._count + row for row in self._rows.local]
        examples = [self._examples[number] for number in numbers if size is None or number < size]
        self._count += self._rows.batch_size
        return assemble(examples, len(numbers), self._length, self._bos_id, self._pad_id)

    def state(self) -> State:
        """See `BatchIterator`."""
        return {**self._identity, "examples": self._count}

    def close(self) -> None:
        """See `BatchIterator`; there is nothing to end."""


def check_identity(identity: State, state: State) -> None:
    """Refuses a state of another stream: ConfigError says which setting differs."""
    for name, value in identity.items():
        if state.get(name) != value:
            raise ConfigError(
                f"The saved place in the data has {name} = {state.get(name)!r}, the settings have {value!r}"
                f"{_REMEDIES.get(name, '.')} Set it back, or start in another --gin.MODEL_DIR from this run's "
                "parameters (--gin.INITIAL_CHECKPOINT_PATH)."
            )
