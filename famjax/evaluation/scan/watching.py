"""Following runs that are still training: which checkpoints are new, and when no more will come."""

import time
from collections.abc import Callable, Mapping

from famjax.configuration import operative
from famjax.configuration.loading import load
from famjax.errors import CheckpointError, FamjaxError
from famjax.evaluation.scan.checkpoints import SETTING, GridCheckpoint, find_new
from famjax.evaluation.scan.config import WatchConfig
from famjax.training.checkpoint_files import absolute_path
from famjax.training.config import TrainJob
from famjax.training.stopping import StopSignal

_TICK_SECONDS = 0.2


class Watcher:
    """Looks for new checkpoints of runs.

    A run has ended when the checkpoint of its last step is there, whether or not it goes on to be deleted.
    """

    def __init__(
        self,
        config: WatchConfig,
        runs: Mapping[str, str],
        report: Callable[[str], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Looks at nothing yet.

        Args:
          config: how often, and how long.
          runs: MODEL_DIRs by name (`followed`).
          report: called once with each line on a checkpoint that cannot be read.
          now: seconds.
        """
        self._config, self._runs, self._report, self._now = config, runs, report, now
        self._reported: set[str] = set()
        self._latest: dict[str, int] = {}
        self._idle_since = now()

    def look(self, known: list[GridCheckpoint]) -> list[GridCheckpoint]:
        """The checkpoints that have appeared.

        Args:
          known: those of the grid, other processes' finds included.
        """
        new = find_new(self._runs, known, self._report_once)
        for checkpoint in [*known, *new]:
            if checkpoint.step > self._latest.get(checkpoint.name, -1):
                self._latest[checkpoint.name] = checkpoint.step
                self._idle_since = self._now()
        return new

    def rest(self) -> None:
        """Begins to count the idle time anew: the cells of a round, which may take long, are no idleness."""
        self._idle_since = self._now()

    @property
    def has_ended(self) -> bool:
        """Whether each run has saved its last step."""
        return all(
            (last := self._last_step(model_dir)) is not None and self._latest.get(name, -1) >= last
            for name, model_dir in self._runs.items()
        )

    @property
    def is_idle(self) -> bool:
        """Whether no checkpoint has appeared for too long."""
        return self.seconds_left() <= 0

    def seconds_left(self) -> float:
        """Until it is idle."""
        return self._idle_since + self._config.idle_seconds - self._now()

    def wait(self, stop: StopSignal) -> None:
        """Sleeps until the next look, or until a signal arrives."""
        end = self._now() + min(self._config.poll_seconds, max(0.0, self.seconds_left()))
        while not stop.requested and (left := end - self._now()) > 0:
            time.sleep(min(_TICK_SECONDS, left))

    def require_any(self) -> None:
        """CheckpointError where no run has ever saved a checkpoint."""
        if not self._latest:
            folders = ", ".join(self._runs.values())
            raise CheckpointError(
                f"No checkpoint has appeared in {folders} ({SETTING}) for {self._config.idle_seconds:g} seconds "
                "(--gin.WatchConfig.idle_seconds)."
            )

    def _report_once(self, line: str) -> None:
        if line not in self._reported:
            self._reported.add(line)
            self._report(line)

    def _last_step(self, model_dir: str) -> int | None:
        return self._config.last_step or last_step(model_dir)


def last_step(model_dir: str) -> int | None:
    """The step that the training in a MODEL_DIR ends with, as its config.gin says; None where that cannot be read."""
    path = absolute_path(model_dir) / operative.FILE_NAME
    if not path.is_file():
        return None
    try:
        job: TrainJob = load(TrainJob, [str(path)], []).job
    except FamjaxError:
        return None
    return job.total_steps
