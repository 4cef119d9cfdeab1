"""What `--run_mode=plan` is asked beside the job: flags of its own, not gin. Imports nothing heavy."""

import dataclasses

from famjax.validation import require_at_least


@dataclasses.dataclass(frozen=True)
class PlanSettings:
    """Where a job is to run, and what is to be found out.

    Attributes:
      slice: a TPU slice by its name ("v5e-256", "v5p-4x4x8"), or GPUs ("h100-64").
      num_slices: slices of this kind, joined over the data axis; None: as the job's mesh says.
      search: try batches, microbatches, rematerialisation and meshes, and say which is best.
      trials: other settings that are compiled at most, for the search or to find changes with which the job fits.
      json: the plan goes to this file as JSON too; "-": to the standard output, in place of the page.
      save: the compiled train steps go to this folder, for `TrainJob.compiled_steps`.
      rows: rows that the prefill and decode steps have [B]; None: one for each data-parallel chip.
    """

    slice: str
    num_slices: int | None = None
    search: bool = False
    trials: int = 12
    json: str | None = None
    save: str | None = None
    rows: int | None = None

    def __post_init__(self) -> None:
        require_at_least(self, 1, "num_slices", "rows", "trials")
