"""What a report is of: frozen settings that check themselves. Imports neither jax nor tensorflow."""

import dataclasses
from collections.abc import Mapping

from famjax.errors import ConfigError
from famjax.validation import require_ascending, require_fraction

THRESHOLD = 0.8


@dataclasses.dataclass(frozen=True)
class ReportJob:
    """A report of one scan or of several: `--run_mode=report`.

    Attributes:
      results: output folders of scans, which are merged; or a dict of them by name, to compare scans of the same cells.
      output_dir: report.html, results.md, results.csv and the folder pictures go here.
      title: of the report; empty: it names the tasks.
      trained_lengths: shortest and longest example of the training, shaded in the pictures.
      metric: shown of each task that has it; None: of each task its first metric.
      threshold: a model holds up to the longest length at and below which its metric is this much or more.
    """

    results: tuple[str, ...] | Mapping[str, str]
    output_dir: str
    title: str = ""
    trained_lengths: tuple[int, int] | None = None
    metric: str | None = None
    threshold: float = THRESHOLD

    def __post_init__(self) -> None:
        if not self.results:
            raise ConfigError("ReportJob.results is empty; set it to output folders of scans, as ['runs/scan'].")
        if not self.output_dir:
            raise ConfigError("ReportJob.output_dir is empty; set it to the folder that the report goes to.")
        require_ascending(self, "trained_lengths")
        require_fraction(self, "threshold")
