"""How long the processes of a job wait for each other: settings. Imports no jax."""

import dataclasses

from famjax.validation import require_above


@dataclasses.dataclass(frozen=True)
class HostsConfig:
    """Time limits of a job's processes, all in seconds.

    Attributes:
      connect_seconds: within which all processes must have started and found each other, and then their devices.
      heartbeat_seconds: between two writes of a process's heartbeat file.
      lost_seconds: a process that the others have not heard of for so long is lost, and the job ends.
      step_seconds: the longest that a training step may take; the job then ends; None: no limit.
      phase_seconds: the longest that anything else may take: compiling, restoring, saving, a batch of an
        evaluation; None: no limit.
    """

    connect_seconds: float = 600.0
    heartbeat_seconds: float = 10.0
    lost_seconds: float = 60.0
    step_seconds: float | None = 1800.0
    phase_seconds: float | None = 7200.0

    def __post_init__(self) -> None:
        require_above(self, 0, *(field.name for field in dataclasses.fields(self)))
