"""Tests of famjax.data.prefetching."""

import threading
import time

import numpy as np
import pytest

from famjax.data.prefetching import Prefetching
from famjax.errors import DataError


class Source:
    """Batches that hold their own number, until `end`, where `error` is raised."""

    def __init__(self, end=100, error=StopIteration):
        self.made, self.end, self.error, self.closed, self.skipped = 0, end, error, False, {"bad": 2}

    def __iter__(self):
        return self

    def __next__(self):
        if self.made == self.end:
            raise self.error
        self.made += 1
        return {"tokens": np.array([self.made])}

    def state(self):
        return {"made": self.made}

    def close(self):
        self.closed = True


def settled(source, made):
    """Waits until so many batches are made."""
    limit = time.monotonic() + 10
    while source.made < made and time.monotonic() < limit:
        time.sleep(0.001)


def test_batches_come_in_order_and_are_made_ahead():
    """Guards against lost or swapped batches, and a thread that waits to be asked."""
    source = Source()
    batches = Prefetching(source, 3)
    settled(source, 4)
    assert source.made >= 3
    assert [int(next(batches)["tokens"][0]) for _ in range(20)] == list(range(1, 21))
    assert batches.skipped == {"bad": 2}
    batches.close()


def test_state_is_that_of_what_was_handed_out():
    """Guards against prefetched batches that a resume loses."""
    source = Source()
    batches = Prefetching(source, 3)
    settled(source, 4)
    assert batches.state() == {"made": 0}
    next(batches), next(batches)
    settled(source, 6)
    assert batches.state() == {"made": 2} != source.state()
    batches.close()


def raised_by(batches):
    """What asking for a batch raises; it is asked in a thread, for it could wait for ever."""
    raised = []

    def ask():
        try:
            next(batches)
        except (StopIteration, DataError) as error:
            raised.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout=10)
    return raised[0] if raised else None


@pytest.mark.parametrize("error", [StopIteration(), DataError("a.txt:3: bad")])
def test_the_end_and_errors_come_in_their_place(error):
    """Guards against an error that dies with the thread, overtakes good batches, or hangs who asks again."""
    batches = Prefetching(Source(end=2, error=error), 5)
    assert [int(next(batches)["tokens"][0]) for _ in range(2)] == [1, 2]
    for _ in range(2):
        assert raised_by(batches) is error
    assert batches.state() == {"made": 2}
    batches.close()


def test_close_ends_the_thread():
    """Guards against threads that stay behind, waiting to hand over a batch."""
    source = Source()
    before = threading.active_count()
    batches = Prefetching(source, 1)
    settled(source, 2)
    batches.close()
    assert source.closed
    assert threading.active_count() == before
    assert isinstance(raised_by(batches), StopIteration)
