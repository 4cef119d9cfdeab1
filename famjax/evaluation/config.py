"""What an evaluation is: frozen settings that check themselves. Imports neither jax nor tensorflow."""

import dataclasses

from famjax.data.config import DataConfig, require_end
from famjax.errors import ConfigError
from famjax.models.config import TransformerConfig
from famjax.pods.config import MeshConfig
from famjax.pods.hosts_config import HostsConfig
from famjax.validation import require_at_least


@dataclasses.dataclass(frozen=True)
class EvalJob:
    """An evaluation: `--run_mode=eval`.

    Attributes:
      checkpoint: a MODEL_DIR (its latest checkpoint) or one checkpoint folder in it.
      base: where the base of a finetuning is now, a MODEL_DIR or one checkpoint folder; None: where it was.
      model: the model; None takes the settings that the checkpoint was trained with.
      data: what is evaluated; each length of `lengths` replaces the length in it.
      output_dir: results go here, as results.jsonl.
      lengths: lengths of examples, in tokens; empty: the data's own length.
      steps: batches read at each length; None reads one whole epoch, where the data has an end.
      position_buckets: in so many equal parts of the longest example loss and accuracy are also reported by position.
      mesh: the device mesh.
      hosts: time limits of the job's processes.
    """

    checkpoint: str
    data: DataConfig
    output_dir: str
    base: str | None = None
    model: TransformerConfig | None = None
    lengths: tuple[int, ...] = ()
    steps: int | None = None
    position_buckets: int = 8
    mesh: MeshConfig = MeshConfig()
    hosts: HostsConfig = HostsConfig()

    def __post_init__(self) -> None:
        require_at_least(self, 1, "steps", "position_buckets")
        require_end(self.data, self.steps, "EvalJob.steps")
        if any(length < 1 for length in self.lengths):
            raise ConfigError(f"EvalJob.lengths = {self.lengths}; allowed: 1 or more each.")
