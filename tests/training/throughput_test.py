import pytest

from famjax.training.throughput import ThroughputClock


class Time:
    """Seconds that pass only when told."""

    def __init__(self):
        self.seconds = 1000.0

    def __call__(self):
        return self.seconds

    def passes(self, seconds):
        """Lets so many seconds pass."""
        self.seconds += seconds


@pytest.fixture
def now():
    """The clock's time."""
    return Time()


@pytest.fixture
def clock(now):
    """Of 4 devices with a peak of 1 TFLOP/s."""
    return ThroughputClock(4, 1e12, now)


def run(clock, now, steps, seconds=2.0, tokens=100, valid=80):
    """Steps that are finished before the next is dispatched."""
    for _ in range(steps):
        clock.step_dispatched()
        now.passes(seconds)
        clock.step_finished(tokens, valid, int(4e12))


def test_rates_by_hand(clock, now):
    """Guards against a wrong unit, a rate of one device given for the job, or padding counted as tokens."""
    run(clock, now, 1)
    run(clock, now, 3)
    rates = clock.take_rates()
    assert rates.as_metrics() == {
        "steps_per_second": 0.5,
        "tokens_per_second": 50.0,
        "valid_tokens_per_second": 40.0,
        "teraflops_per_device": 0.5,
        "mfu": 0.5,
    }


def test_an_unknown_peak_gives_no_mfu(now):
    """Guards against an MFU of a device whose peak nobody knows."""
    clock = ThroughputClock(1, None, now)
    run(clock, now, 2)
    rates = clock.take_rates()
    assert rates.mfu is None
    assert "mfu" not in rates.as_metrics()
    assert rates.teraflops_per_device == 2.0


def test_the_first_step_is_warm_up(clock, now):
    """Guards against rates that contain whatever happened before and during the first step."""
    now.passes(500)
    run(clock, now, 1, seconds=100)
    assert clock.take_rates() is None
    run(clock, now, 2)
    assert clock.take_rates().steps_per_second == 0.5


def test_each_window_counts_its_own_steps(clock, now):
    """Guards against averages over the whole run, in which a slowdown hardly shows."""
    run(clock, now, 5)
    clock.take_rates()
    run(clock, now, 2, seconds=10.0, tokens=1000)
    assert clock.take_rates().steps_per_second == 0.1
    assert clock.take_rates() is None


def test_steps_of_different_length_are_weighed_by_time(clock, now):
    """Guards against a mean of the steps' rates in place of tokens over seconds."""
    run(clock, now, 1)
    run(clock, now, 1, seconds=1.0, tokens=100)
    run(clock, now, 1, seconds=9.0, tokens=400)
    assert clock.take_rates().tokens_per_second == 50.0


def test_a_compilation_and_the_first_step_after_it_do_not_count(clock, now):
    """Guards against a dip at each new stage."""
    run(clock, now, 3)
    now.passes(60)
    clock.compiled()
    run(clock, now, 1, seconds=20)
    run(clock, now, 2)
    clock.compiled()
    assert clock.take_rates().steps_per_second == 0.5


def test_a_compilation_with_a_step_in_flight(clock, now):
    """Guards against the step that finished unnoticed during a compilation: its interval contains the compilation."""
    run(clock, now, 2)
    clock.step_dispatched()
    now.passes(60)
    clock.compiled()
    clock.step_dispatched()
    clock.step_finished(100, 80, 1)
    now.passes(20)
    clock.step_dispatched()
    clock.step_finished(100, 80, 1)
    now.passes(2)
    clock.step_finished(100, 80, 1)
    # Counted: step 2, before the compilation, and step 5, the second of the new program; 2 seconds each.
    assert clock.take_rates().steps_per_second == 0.5


def test_excluded_time_does_not_count(clock, now):
    """Guards against rates that fall with every evaluation and checkpoint."""
    run(clock, now, 2)
    with clock.exclude():
        now.passes(300)
    run(clock, now, 2)
    assert clock.take_rates().steps_per_second == 0.5


def test_steps_that_finished_during_an_exclusion_do_not_count(clock, now):
    """Guards against steps that seem to take no time because they ran during an evaluation."""
    run(clock, now, 2)
    clock.step_dispatched()
    clock.step_dispatched()
    with clock.exclude():
        now.passes(300)
    clock.step_finished(100, 80, 1)
    clock.step_finished(100, 80, 1)
    assert clock.take_rates().steps_per_second == 0.5
    run(clock, now, 1)
    assert clock.take_rates().steps_per_second == 0.5


def test_time_is_excluded_also_when_an_evaluation_fails(clock, now):
    """Guards against a clock that goes on counting after an error that the loop survives."""
    run(clock, now, 2)

    def evaluate():
        with clock.exclude():
            now.passes(300)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        evaluate()
    run(clock, now, 1)
    assert clock.take_rates().steps_per_second == 0.5


def test_a_step_that_was_not_dispatched_is_refused(clock, now):
    """Guards against a loop that forgets a call and so reports rates that mean nothing."""
    run(clock, now, 1)
    with pytest.raises(ValueError, match="step_dispatched"):
        clock.step_finished(1, 1, 1)
