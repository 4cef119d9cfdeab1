"""What attention maps are drawn of: frozen settings that check themselves. Imports neither jax nor tensorflow."""

import dataclasses

from famjax.data.config import ByteVocabulary, VocabularyConfig
from famjax.errors import ConfigError
from famjax.inference.config import MemoryOverrides
from famjax.pods.config import MeshConfig


@dataclasses.dataclass(frozen=True)
class AttentionJob:
    """Pictures of what tokens and FAM look at in a text: `--run_mode=attention`.

    Attributes:
      checkpoint: a MODEL_DIR (its latest checkpoint) or one checkpoint folder in it.
      text_file: the text (UTF-8; .gz is decompressed).
      output_dir: the pictures go here.
      base: where the base of a finetuning is now, a MODEL_DIR or one checkpoint folder; None: where it was.
      layers: layers, from 0; None: all.
      heads: heads of each of these layers, from 0; None: all.
      blocks: blocks of the text, from 0, or from the last one, -1, backwards.
      memory: another memory than in training.
      vocabulary: that the checkpoint was trained with.
      mesh: the device mesh.
    """

    checkpoint: str
    text_file: str
    output_dir: str
    base: str | None = None
    layers: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None
    blocks: tuple[int, ...] = (-1,)
    memory: MemoryOverrides = dataclasses.field(default_factory=MemoryOverrides)
    vocabulary: VocabularyConfig = ByteVocabulary()
    mesh: MeshConfig = MeshConfig()

    def __post_init__(self) -> None:
        for name in ("checkpoint", "text_file", "output_dir"):
            if not getattr(self, name):
                raise ConfigError(f"AttentionJob.{name} is empty; set it to a path.")
        for name in ("layers", "heads", "blocks"):
            chosen = getattr(self, name)
            if chosen is not None and not chosen:
                raise ConfigError(f"AttentionJob.{name} is empty; name one at least, as [0].")
