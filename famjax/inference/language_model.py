"""A checkpoint that reads and answers. With `session` it is the Python interface (docs/inference.md).

model = LanguageModel.open("runs/fam")
session = model.session()
session.read_file("book.txt")
print(session.ask("Who did it?").text)
"""

import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import Any

from absl import logging

from famjax.configuration.job_checks import check_vocabulary
from famjax.data.config import ByteVocabulary, VocabularyConfig
from famjax.data.vocabularies import Vocabulary, make_vocabulary
from famjax.errors import ConfigError, DataError
from famjax.inference import context as contexts
from famjax.inference.adapters import adapt
from famjax.inference.config import MemoryOverrides, SamplingConfig
from famjax.inference.context import Context, Rows
from famjax.inference.decoding import Decoding, Generation
from famjax.inference.programs import Clock, Programs, make_programs
from famjax.inference.reading import RowTokens, TokenScores, read_rows, score_rows
from famjax.inference.session import Session
from famjax.inference.snapshots import load_context
from famjax.models.config import TransformerConfig
from famjax.pods.config import MeshConfig
from famjax.pods.mesh import make_mesh, num_batch_shards
from famjax.training.checkpoint_files import StepFolder
from famjax.training.fingerprint import params_fingerprint
from famjax.training.program import abstract_params
from famjax.training.restore import find_checkpoint, load_params, read_model_config, require_vocabulary

FLAG = "--gin.CHECKPOINT_PATH"


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A model with its parameters and its vocabulary, ready to read and to answer.

    Attributes:
      config: of the model, its memory's overrides applied.
      params: parameters, on the devices.
      vocabulary: text to tokens and back.
      checkpoint: where the parameters are from.
      trained: the settings that the checkpoint was trained with.
      mesh: the device mesh.
      batch_size: rows that `famjax.inference.requests` reads together.
      chunk_blocks: blocks that one compiled step reads.
    """

    config: TransformerConfig
    params: Any = dataclasses.field(repr=False)
    vocabulary: Vocabulary
    checkpoint: StepFolder
    trained: TransformerConfig
    mesh: MeshConfig
    batch_size: int
    chunk_blocks: int

    @classmethod
    def open(
        cls,
        checkpoint: str | os.PathLike[str] | StepFolder,
        vocabulary: VocabularyConfig | None = None,
        *,
        memory: MemoryOverrides | None = None,
        mesh: MeshConfig | None = None,
        batch_size: int = 1,
        chunk_blocks: int = 8,
        base: str | os.PathLike[str] | None = None,
    ) -> "LanguageModel":
        """Restores a checkpoint; that of a finetuning over a frozen base together with the base.

        Args:
          checkpoint: a MODEL_DIR (its latest whole checkpoint) or one checkpoint folder.
          vocabulary: that the checkpoint was trained with; None: bytes.
          memory: another memory than in training; None: the same.
          mesh: the device mesh; None: all devices, each with a copy of the parameters.
          batch_size: rows that `famjax.inference.requests` reads together.
          chunk_blocks: blocks that one compiled step reads.
          base: where a finetuning's base is now (a MODEL_DIR or a checkpoint folder); None: where it was in training.

        Raises:
          CheckpointError: there is no such checkpoint, it is damaged, or its base is gone or another one.
          ConfigError: another vocabulary than in training, or a mesh that the devices cannot form.
          DataError: the vocabulary's file cannot be read.
        """
        vocabulary, mesh = vocabulary or ByteVocabulary(), mesh or MeshConfig()
        folder = find_checkpoint(checkpoint, setting=FLAG)
        trained = read_model_config(folder)
        opened = make_vocabulary(vocabulary)
        check_same_vocabulary(folder, vocabulary)
        check_vocabulary(trained, opened.vocab_size)
        devices = make_mesh(mesh)
        _warn_of_copies(batch_size, num_batch_shards(devices))
        abstract, _ = abstract_params(trained, devices, mesh)
        model = cls(
            config=trained,
            params=load_params(folder, abstract, base=base),
            vocabulary=opened,
            checkpoint=folder,
            trained=trained,
            mesh=mesh,
            batch_size=batch_size,
            chunk_blocks=chunk_blocks,
        )
        return model.with_memory(memory or MemoryOverrides())

    def with_memory(self, memory: MemoryOverrides) -> "LanguageModel":
        """The same parameters with another memory than in training; nothing is restored again."""
        return dataclasses.replace(self, config=memory.apply(self.trained))

    def with_adapter(
        self, checkpoint: str | os.PathLike[str], *, memory: MemoryOverrides | None = None
    ) -> "LanguageModel":
        """The same base with what a finetuning trained: LoRA's adapters, a FAM prompt. The base is not read again.

        Models that are made so share the base's arrays (unless the finetuning kept its base in bfloat16, which rounds
        them). What one of them has read, the others cannot go on from.

        Args:
          checkpoint: of the finetuning: a MODEL_DIR (its latest whole checkpoint) or one checkpoint folder.
          memory: another memory than in the finetuning; None: the same.

        Raises:
          CheckpointError: there is no such checkpoint, it holds all its parameters, or its base is another one.
          ConfigError: it was trained with another vocabulary.
        """
        adapted = adapt(self.params, str(self.checkpoint.path), checkpoint, self.mesh, "the adapter")
        require_vocabulary(adapted.checkpoint, self.vocabulary.fingerprint)
        return dataclasses.replace(
            self,
            config=(memory or MemoryOverrides()).apply(adapted.config),
            params=adapted.params,
            checkpoint=adapted.checkpoint,
            trained=adapted.config,
        )

    def with_batch_size(self, batch_size: int) -> "LanguageModel":
        """The same model for requests in batches of another size."""
        return dataclasses.replace(self, batch_size=batch_size)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Changes with any parameter; the same on every mesh."""
        return params_fingerprint(self.params)

    @property
    def clock(self) -> Clock:
        """Seconds spent in compiled steps, shared by the models with equal settings."""
        return self._programs.clock

    def start(self, num_rows: int = 1) -> Context:
        """Rows that have read the beginning token only."""
        rows = self._programs.begin(self.params, num_rows, self.vocabulary.bos_id)
        return Context(rows=rows, num_tokens=contexts.ones(num_rows))

    def empty_rows(self, num_rows: int) -> Rows:
        """Shapes and dtypes of what `num_rows` rows take on the devices, however long their texts are."""
        return self._programs.empty_rows(self.params, num_rows)

    def read(self, context: Context, rows: Sequence[RowTokens]) -> Context:
        """Reads on in each row.

        Args:
          context: what was read before.
          rows: ids for each row, or an iterable of arrays of ids; rows may differ in length, and be empty.

        Raises:
          DataError: an id outside the vocabulary.
        """
        return read_rows(self._programs, self.params, context, rows)

    def score(self, context: Context, rows: Sequence[RowTokens]) -> tuple[Context, list[TokenScores]]:
        """Reads on in each row, and gives each token's log-probability; see `read`."""
        return score_rows(self._programs, self.params, context, rows)

    def decoding(
        self,
        context: Context,
        samplings: SamplingConfig | Sequence[SamplingConfig],
        sample_indices: Sequence[int] | None = None,
        *,
        keep_context: bool = True,
    ) -> Decoding:
        """Starts an answer in each row, to be advanced by the caller.

        Args:
          context: what was read.
          samplings: how each row draws, or all.
          sample_indices: which of the answers to its prompt each row is; None: each is the only one.
          keep_context: whether what was read then will be asked for.

        Raises:
          ConfigError: a stop token that the vocabulary lacks, or several samples where each row is the only one.
        """
        each = [samplings] * context.num_rows if isinstance(samplings, SamplingConfig) else samplings
        if sample_indices is None and any(sampling.num_samples > 1 for sampling in each):
            raise ConfigError("SamplingConfig.num_samples is above 1, and each row has one answer; allowed here: 1.")
        indices = [0] * context.num_rows if sample_indices is None else sample_indices
        return Decoding(self._programs, self.params, self.vocabulary, context, each, indices, keep_context)

    def generate(
        self,
        context: Context,
        samplings: SamplingConfig | Sequence[SamplingConfig],
        sample_indices: Sequence[int] | None = None,
    ) -> tuple[Context, list[Generation]]:
        """Answers in each row; see `decoding`.

        Returns:
          What has been read then, the answers' tokens included (not the token that one stopped at), and the answers.
        """
        decoding = self.decoding(context, samplings, sample_indices)
        while decoding.active:
            decoding.advance()
        return decoding.context(), [answer.finished() for answer in decoding.answers]

    def select(self, context: Context, indices: Sequence[int]) -> Context:
        """Rows of a context, in this order; a row may come several times."""
        return contexts.select(context, list(indices))

    def join(self, several: Sequence[Context]) -> Context:
        """The rows of all contexts, one behind the other."""
        return contexts.join(list(several))

    def ask_all(
        self, sessions: Sequence[Session], prompts: Sequence[str], sampling: SamplingConfig | None = None
    ) -> list[Generation]:
        """Asks each session its question, all in one batch; see `Session.ask`."""
        if len(sessions) != len(prompts):
            raise DataError(f"{len(sessions)} sessions and {len(prompts)} prompts; each session is asked one.")
        if "" in prompts:
            raise DataError("There is nothing to read: an empty text.")
        if not sessions:
            return []
        pairs = zip(sessions, prompts, strict=True)
        asked = [session.asked(prompt) for session, prompt in pairs]
        context = self.read(self.join([each.context for each in sessions]), asked)
        return self.generate(context, sampling or SamplingConfig())[1]

    def session(self) -> Session:
        """A text to be read, and questions about it."""
        return Session(self, self.start())

    def load(self, path: str | os.PathLike[str]) -> Session:
        """Opens a session that `Session.save` saved, with this model.

        Raises:
          CheckpointError: it cannot be read, or is of a model with other settings or other parameters.
        """
        return Session(self, load_context(self, path))

    @property
    def _programs(self) -> Programs:
        return make_programs(self.config, self.mesh, self.chunk_blocks)


def _warn_of_copies(batch_size: int, num_data_shards: int) -> None:
    """Says it where devices do the same work; a single row has no other way."""
    if batch_size > 1 and batch_size % num_data_shards:
        logging.warning(
            "Batches of %d rows do not divide over %d data-parallel devices: each of these computes all rows. Set "
            "--gin.BATCH_SIZE to a multiple of %d, or --gin.MeshConfig.num_devices=1.",
            batch_size,
            num_data_shards,
            num_data_shards,
        )


def check_same_vocabulary(checkpoint: StepFolder, vocabulary: VocabularyConfig) -> None:
    """Refuses to read a checkpoint's ids as those of another vocabulary: the answers would look plausible.

    Raises:
      ConfigError: the checkpoint was trained with another one.
    """
    require_vocabulary(checkpoint, make_vocabulary(vocabulary).fingerprint, f" than {vocabulary!r}")
