"""How fast a run is, with everything that is no training step kept out of the rates.

The loop runs ahead of the devices: it dispatches step k + 1 before it learns that step k is finished (which it does
when it fetches step k's metrics). So a step's time is the interval between two such moments, and an interval counts
only if nothing but steps went on in it:

- the first step, and the first step of each compiled program, are warm-up: the interval that ends with them is dropped;
- after an evaluation or a checkpoint, the steps that were in flight meanwhile were noticed late: their intervals are
  dropped as well.

Usage:

    clock.compiled(seconds)                        before the first step of a new program is dispatched
    clock.step_dispatched()
    clock.step_finished(num_tokens, num_valid_tokens, flops)
    with clock.exclude():                          evaluation, checkpoint, whatever keeps the loop from its steps
        ...
    metrics = clock.take_rates()                   since the last call
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@dataclasses.dataclass(frozen=True)
class Rates:
    """Rates over some steps of the whole job.

    Attributes:
      steps_per_second: steps.
      tokens_per_second: tokens, padding included.
      valid_tokens_per_second: tokens, padding not counted.
      teraflops_per_device: analytic model TFLOP/s of one device (`famjax.training.flops`).
      mfu: that over the device's peak, 0 to 1; None where the peak is not known.
    """

    steps_per_second: float
    tokens_per_second: float
    valid_tokens_per_second: float
    teraflops_per_device: float
    mfu: float | None

    def as_metrics(self) -> dict[str, float]:
        """The known rates by name."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


@dataclasses.dataclass
class _Sums:
    """What the counted intervals add up to."""

    seconds: float = 0.0
    steps: int = 0
    tokens: int = 0
    valid_tokens: int = 0
    flops: int = 0


class ThroughputClock:
    """Counts steps and their time. Steps finish in the order in which they are dispatched."""

    def __init__(
        self, num_devices: int, peak_flops: float | None, now: Callable[[], float] = time.perf_counter
    ) -> None:
        """Starts the clock.

        Args:
          num_devices: devices of the whole job.
          peak_flops: FLOP/s of one device; None where not known.
          now: seconds that never run back.
        """
        self._num_devices, self._peak_flops, self._now = num_devices, peak_flops, now
        self._dispatched, self._finished = 0, 0
        self._dropped_through = 1
        self._interval_start = now()
        self._sums = _Sums()

    def compiled(self) -> None:
        """Notes a compilation; the next step dispatched is the first of its program."""
        self._dropped_through = self._dispatched + 1

    def step_dispatched(self) -> None:
        """Notes that a step was handed to the devices."""
        self._dispatched += 1

    def step_finished(self, num_tokens: int, num_valid_tokens: int, flops: int) -> None:
        """Notes that the earliest step in flight was found to be finished.

        Args:
          num_tokens: of the global batch, padding included.
          num_valid_tokens: of the global batch, without padding.
          flops: of the step (`famjax.training.flops.train_step_flops`).
        """
        if self._finished == self._dispatched:
            raise ValueError("A step finished that was not dispatched: call step_dispatched() for each step.")
        self._finished += 1
        now = self._now()
        if self._finished > self._dropped_through:
            self._sums.seconds += now - self._interval_start
            self._sums.steps += 1
            self._sums.tokens += num_tokens
            self._sums.valid_tokens += num_valid_tokens
            self._sums.flops += flops
        self._interval_start = now

    @contextmanager
    def exclude(self) -> Iterator[None]:
        """Keeps the time within out of the rates."""
        try:
            yield
        finally:
            end = self._now()
            # Steps still in flight may have finished long before the loop comes to ask for them.
            self._dropped_through = max(self._dropped_through, self._dispatched)
            # Where none is in flight, the next step's interval begins here.
            self._interval_start = end

    def take_rates(self) -> Rates | None:
        """The rates of the steps that finished since the last call; None if no interval of theirs counts."""
        sums, self._sums = self._sums, _Sums()
        if not sums.steps or sums.seconds <= 0.0:
            return None
        flops_per_device = sums.flops / sums.seconds / self._num_devices
        return Rates(
            steps_per_second=sums.steps / sums.seconds,
            tokens_per_second=sums.tokens / sums.seconds,
            valid_tokens_per_second=sums.valid_tokens / sums.seconds,
            teraflops_per_device=flops_per_device / 1e12,
            mfu=flops_per_device / self._peak_flops if self._peak_flops else None,
        )
