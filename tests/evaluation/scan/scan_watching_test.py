"""Following runs: what is new, and when no more will come."""

import pytest

from command_line import FILES, REQUIRED_FLAGS
from famjax.configuration.loading import load
from famjax.configuration.operative import to_text
from famjax.errors import CheckpointError
from famjax.evaluation.scan.config import WatchConfig
from famjax.evaluation.scan.watching import Watcher, last_step
from famjax.training.config import TrainJob
from famjax.training.stopping import StopSignal
from scan_folders import write_checkpoint


class Time:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def time():
    """A clock that stands."""
    return Time()


def watcher(folder, time, **settings):
    """Follows the run `fam`."""
    config = WatchConfig(poll_seconds=10, idle_seconds=100, **settings)
    return Watcher(config, {"FAM": str(folder / "fam")}, lambda line: None, time)


def test_ends_with_the_last_step(tmp_path, time):
    """Guards against a scan that waits for a run that has ended, or that ends before its last checkpoint."""
    watch = watcher(tmp_path, time, last_step=20)
    write_checkpoint(tmp_path / "fam", 10)
    known = watch.look([])
    assert [checkpoint.step for checkpoint in known] == [10]
    assert not watch.has_ended
    write_checkpoint(tmp_path / "fam", 20)
    known += watch.look(known)
    assert len(known) == 2
    assert watch.has_ended


def test_a_last_step_that_another_process_has_seen(tmp_path, time):
    """Guards against a scan that waits for a checkpoint which was deleted before this process looked."""
    first, second = watcher(tmp_path, time, last_step=20), watcher(tmp_path, time, last_step=20)
    write_checkpoint(tmp_path / "fam", 20)
    known = first.look([])
    (tmp_path / "fam" / "checkpoint_20").rename(tmp_path / "elsewhere")
    assert second.look(known) == []
    assert second.has_ended


def test_ends_when_idle(tmp_path, time):
    """Guards against a scan that waits for ever for a run that was killed."""
    watch = watcher(tmp_path, time)
    time.now = 60
    write_checkpoint(tmp_path / "fam", 10)
    known = watch.look([])
    time.now = 159
    assert watch.look(known) == []
    assert not watch.is_idle
    time.now = 160
    assert watch.is_idle
    watch.rest()
    assert not watch.is_idle, "evaluating is not idling"
    assert watch.seconds_left() == 100
    assert not watch.has_ended, "the last step is not known"


def test_no_checkpoint_ever(tmp_path, time):
    """Guards against a scan of nothing that ends with success, as where MODEL_DIR is misspelled."""
    watch = watcher(tmp_path, time)
    watch.look([])
    with pytest.raises(CheckpointError, match=r"No checkpoint has appeared in .*fam \(--gin\.CHECKPOINTS\)"):
        watch.require_any()


def test_waiting_ends_with_a_signal(tmp_path):
    """Guards against a scan that a scheduler kills because it sleeps through SIGTERM."""
    stop = StopSignal()
    stop._handle(15, None)
    watch = Watcher(WatchConfig(poll_seconds=1000), {}, lambda line: None)
    watch.wait(stop)


def test_the_last_step_of_a_training(tmp_path):
    """Guards against a config.gin that changes its form, and against a training without one."""
    flags = [tuple(flag.removeprefix("--gin.").split("=", 1)) for flag in REQUIRED_FLAGS]
    configuration = load(TrainJob, [file.removeprefix("--gin_file=") for file in FILES], flags)
    (tmp_path / "config.gin").write_text(to_text(configuration))
    assert last_step(str(tmp_path)) == 10
    (tmp_path / "config.gin").write_text("TRAIN_STEPS = ")
    assert last_step(str(tmp_path)) is None
    assert last_step(str(tmp_path / "nowhere")) is None
