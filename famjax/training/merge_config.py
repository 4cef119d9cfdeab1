"""What is merged: settings that check themselves. Imports no jax."""

import dataclasses

from famjax.errors import ConfigError
from famjax.pods.config import MeshConfig


@dataclasses.dataclass(frozen=True)
class MergeJob:
    """One whole checkpoint from that of a finetuning and its base: `--run_mode=merge`.

    Attributes:
      checkpoint: of the finetuning: a MODEL_DIR (its latest checkpoint) or one checkpoint folder in it.
      output_dir: the MODEL_DIR that the whole checkpoint is written to, with the finetuning's step.
      base: where the base of the finetuning is now, a MODEL_DIR or one checkpoint folder; None: where it was.
      mesh: the device mesh.
    """

    checkpoint: str
    output_dir: str
    base: str | None = None
    mesh: MeshConfig = MeshConfig()

    def __post_init__(self) -> None:
        for name in ("checkpoint", "output_dir"):
            if not getattr(self, name):
                raise ConfigError(f"MergeJob.{name} is empty; set it to a path.")
