"""What an inference run is: frozen settings that check themselves. Imports neither jax nor tensorflow."""

import dataclasses
from typing import Literal

from famjax.data.config import ByteVocabulary, VocabularyConfig
from famjax.errors import ConfigError
from famjax.inference.config import MemoryOverrides, SamplingConfig
from famjax.pods.config import MeshConfig
from famjax.validation import require_at_least, require_choice

PromptFormat = Literal["json_lines", "text"]
STANDARD_STREAM = "-"
QUESTION = "{question}"


@dataclasses.dataclass(frozen=True)
class InferJob:
    """Answers to prompts: `--run_mode=infer`.

    Attributes:
      checkpoint: a MODEL_DIR (its latest checkpoint) or one checkpoint folder in it.
      base: where the base of a finetuning is now, a MODEL_DIR or one checkpoint folder; None: where it was.
      prompts: files of prompts: a glob or several; "-" is the standard input.
      prompt_format: "json_lines", an object a line with "prompt" or "tokens", or "text", where each file is one prompt.
      output: results go to this file, a JSON line for each prompt; a file that is there is continued. "-" is the
        standard output.
      document: a text file that is read before every prompt, once; a record's own "document" or "snapshot" comes first.
      snapshot: a saved session that every prompt goes on from, in place of a document.
      interactive: in place of prompts from files, a terminal session: questions are typed in.
      question_format: what the model reads of a question in an interactive session; {question} is what was typed. None:
        what the vocabulary's chat template makes of it, where there is one; otherwise the question as it is.
      sampling: how answers are drawn, and where they end.
      memory: another memory than in training.
      vocabulary: that the checkpoint was trained with.
      batch_size: prompts that are read together, and answers that are drawn together [B].
      chunk_blocks: blocks that one compiled step reads: more are faster, and take more of the device's memory.
      mesh: the device mesh.
    """

    checkpoint: str
    prompts: str | tuple[str, ...] = STANDARD_STREAM
    prompt_format: PromptFormat = "json_lines"
    output: str = STANDARD_STREAM
    document: str | None = None
    snapshot: str | None = None
    interactive: bool = False
    question_format: str | None = None
    sampling: SamplingConfig = dataclasses.field(default_factory=SamplingConfig)
    memory: MemoryOverrides = dataclasses.field(default_factory=MemoryOverrides)
    vocabulary: VocabularyConfig = ByteVocabulary()
    batch_size: int = 8
    chunk_blocks: int = 8
    base: str | None = None
    mesh: MeshConfig = MeshConfig()

    def __post_init__(self) -> None:
        require_choice(self, "prompt_format", PromptFormat)
        require_at_least(self, 1, "batch_size", "chunk_blocks")
        if not self.patterns or "" in (*self.patterns, self.output):
            raise ConfigError("InferJob.prompts or output is empty; allowed: paths, or '-'.")
        if STANDARD_STREAM in self.patterns and len(self.patterns) > 1:
            raise ConfigError(f"InferJob.prompts = {self.prompts!r}; allowed: '-' alone, or paths.")
        if self.document is not None and self.snapshot is not None:
            raise ConfigError("InferJob.document and snapshot are both set; allowed: one of them, or none.")
        if self.question_format is not None and QUESTION not in self.question_format:
            raise ConfigError(f"InferJob.question_format = {self.question_format!r} lacks {QUESTION}.")
        for name in _without_effect(self):
            raise ConfigError(f"{name} has no effect with InferJob.interactive = {self.interactive}.")

    @property
    def patterns(self) -> tuple[str, ...]:
        """`prompts` as a tuple."""
        return (self.prompts,) if isinstance(self.prompts, str) else self.prompts


def _without_effect(job: InferJob) -> list[str]:
    """Settings that the kind of run does not look at, and that somebody has set."""
    if not job.interactive:
        return ["InferJob.question_format"] if job.question_format is not None else []
    changed = {
        "InferJob.prompts": job.prompts != STANDARD_STREAM,
        "InferJob.prompt_format": job.prompt_format != "json_lines",
        "InferJob.output": job.output != STANDARD_STREAM,
        "InferJob.batch_size": job.batch_size != InferJob.batch_size,
        "SamplingConfig.num_samples": job.sampling.num_samples != 1,
        "SamplingConfig.logprobs": job.sampling.logprobs,
    }
    return [name for name, is_changed in changed.items() if is_changed]
