"""Where examples come from: frozen settings that check themselves. Imports neither tensorflow nor seqio."""

import dataclasses
from collections.abc import Mapping
from typing import get_args

from famjax.data.task_config import TaskConfig
from famjax.errors import ConfigError
from famjax.validation import require_at_least


@dataclasses.dataclass(frozen=True)
class ByteVocabulary:
    """UTF-8 bytes, with seqio's (and ByT5's) ids: 0 pads and begins, 1 ends, byte b is b + 3; 259 ids."""


@dataclasses.dataclass(frozen=True)
class SentencePieceVocabulary:
    """A SentencePiece model.

    Its special and added tokens, and its chat template, are those of Hugging Face's files beside it
    (tokenizer_config.json and so on), where there are any; otherwise the model's own.

    Attributes:
      path: its .model file.
      chat_template: a file with a chat template (Jinja), in place of the one beside it.
      table_size: rows of the embedding table of a model that lacks the last added tokens: those with ids from there on
        are left out, and text that spells them is ordinary text; None: all tokens are kept.
    """

    path: str
    chat_template: str | None = None
    table_size: int | None = None

    def __post_init__(self) -> None:
        require_at_least(self, 1, "table_size")


@dataclasses.dataclass(frozen=True)
class HuggingFaceVocabulary:
    """A Hugging Face tokenizer.

    Attributes:
      path: its tokenizer.json.
      pad_token, bos_token, eos_token: its special tokens, as written there; None: as tokenizer_config.json or
        special_tokens_map.json beside it says, and without one there it has none (padding and the beginning are then
        id 0).
      chat_template: a file with a chat template (Jinja), in place of the one beside it (chat_template.jinja, or in
        tokenizer_config.json).
      table_size: rows of the embedding table of a model that lacks the last added tokens: those with ids from there on
        are left out, and text that spells them is ordinary text; None: all tokens are kept.
    """

    path: str
    pad_token: str | None = None
    bos_token: str | None = None
    eos_token: str | None = None
    chat_template: str | None = None
    table_size: int | None = None

    def __post_init__(self) -> None:
        require_at_least(self, 1, "table_size")


VocabularyConfig = ByteVocabulary | SentencePieceVocabulary | HuggingFaceVocabulary


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """One stream of batches.

    Attributes:
      mixture_or_task_name: a famjax task, or any mixture or task of the seqio registry.
      task_feature_lengths: tokens an example, by feature ("targets", and "inputs" where a seqio task has them); a
        batch is as long as their sum. famjax tasks have targets only.
      batch_size: examples in the global batch [B].
      split: "train", "validation", or any split that a seqio task has.
      shuffle: whether examples come in an order drawn from `seed`.
      seed: of the shuffling, the mixing and whatever a task draws.
      vocabulary: what famjax tasks are encoded with (a seqio task brings its own).
      tasks: settings of further famjax tasks by name; they come before the built-in tasks of the same names.
      prefetch: batches that a famjax task makes ahead, in the background; 0 makes each when it is asked for. (seqio
        prefetches by itself.)
      use_cached: take a seqio task's cached examples.
      module: a Python module imported first, which may register seqio tasks (t5x's MIXTURE_OR_TASK_MODULE).
    """

    mixture_or_task_name: str
    task_feature_lengths: Mapping[str, int]
    batch_size: int
    split: str = "train"
    shuffle: bool = True
    seed: int = 0
    vocabulary: VocabularyConfig = ByteVocabulary()
    tasks: Mapping[str, TaskConfig] = dataclasses.field(default_factory=dict)
    prefetch: int = 2
    use_cached: bool = False
    module: str | None = None

    def __post_init__(self) -> None:
        require_at_least(self, 1, "batch_size")
        require_at_least(self, 0, "seed", "prefetch")
        if not self.task_feature_lengths:
            raise ConfigError(
                "DataConfig.task_feature_lengths is empty; set it, as --gin.TASK_FEATURE_LENGTHS=\"{'targets': 2048}\"."
            )
        for feature, length in self.task_feature_lengths.items():
            if length < 1:
                raise ConfigError(f"DataConfig.task_feature_lengths[{feature!r}] = {length}; allowed: 1 or more.")
        if not isinstance(self.vocabulary, VocabularyConfig):
            raise ConfigError(
                f"DataConfig.vocabulary = {self.vocabulary!r}; allowed: @ByteVocabulary(), @SentencePieceVocabulary(), "
                "@HuggingFaceVocabulary()."
            )
        for name, task in self.tasks.items():
            if not isinstance(task, TaskConfig):
                kinds = ", ".join(f"@{kind.__name__}()" for kind in TASK_CONFIGURABLES)
                raise ConfigError(f"DataConfig.tasks[{name!r}] = {task!r}; allowed: {kinds}.")

    @property
    def length(self) -> int:
        """Tokens of an example in a batch [T]."""
        return sum(self.task_feature_lengths.values())


def require_end(data: DataConfig, steps: int | None, setting: str) -> None:
    """Checks that an evaluation ends: after so many batches, or with its split."""
    if steps is None and data.split == "train":
        raise ConfigError(
            f"{setting} is None, which reads to the end of the split, and 'train' has none; set --gin.EVAL_STEPS."
        )


TASK_CONFIGURABLES: tuple[type[TaskConfig], ...] = get_args(TaskConfig)
CONFIGURABLES = (DataConfig, ByteVocabulary, SentencePieceVocabulary, HuggingFaceVocabulary, *TASK_CONFIGURABLES)
