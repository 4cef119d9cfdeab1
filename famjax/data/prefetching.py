"""Makes batches ahead, in a background thread, without disturbing where the stream stands."""

import queue
import threading
from collections.abc import Iterator

from famjax.data.batches import Batch, BatchIterator, State

_Item = tuple[Batch | None, State, BaseException | None]


class Prefetching:
    """A stream of batches made ahead. Its state is that of the batches handed out, not of those made."""

    def __init__(self, batches: BatchIterator, ahead: int) -> None:
        """Starts to make up to `ahead` batches before they are asked for; `batches` is this object's from now on."""
        self._batches, self._state = batches, batches.state()
        self._queue: queue.Queue[_Item] = queue.Queue(maxsize=ahead)
        self._closed = threading.Event()
        self._end: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="famjax-batches", daemon=True)
        self._thread.start()

    @property
    def skipped(self) -> dict[str, int]:
        """See `BatchIterator`."""
        return self._batches.skipped

    def __iter__(self) -> Iterator[Batch]:
        """See `BatchIterator`."""
        return self

    def __next__(self) -> Batch:
        """See `BatchIterator`. What went wrong in the thread is raised here, in its place in the stream."""
        if self._end is None:
            batch, self._state, self._end = self._queue.get()
            if batch is not None:
                return batch
        raise self._end or StopIteration

    def state(self) -> State:
        """See `BatchIterator`."""
        return self._state

    def close(self) -> None:
        """Ends the thread."""
        self._closed.set()
        self._end = self._end or StopIteration()
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=0.01)
            except queue.Empty:
                continue
        self._batches.close()

    def _work(self) -> None:
        while not self._closed.is_set():
            try:
                batch = next(self._batches)
            except BaseException as error:  # noqa: BLE001 - the consumer raises it
                self._queue.put((None, self._batches.state(), error))
                return
            self._queue.put((batch, self._batches.state(), None))
