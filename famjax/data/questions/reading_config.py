"""Settings of the tasks that read published data sets: reading comprehension and summaries. Imports nothing heavy."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

from famjax.errors import ConfigError
from famjax.validation import require_at_least, require_choice

OnBadRecord = Literal["error", "skip"]
NarrativeQAContext = Literal["document", "summary"]


@dataclasses.dataclass(frozen=True)
class PublishedData:
    """Where a published data set is read from: local files, or TFDS where no file is named.

    Attributes:
      paths: globs ("~" and "**" are understood) of the training split's files.
      validation_paths: globs of the validation split's files; those of a published test split, to evaluate on that.
      tfds_name: the data set in TFDS, as "name/config", read where neither `paths` nor `validation_paths` is set; None:
        none.
      tfds_data_dir: where TFDS has prepared it; None: the environment's TFDS_DATA_DIR, or ~/tensorflow_datasets.
      tfds_train_split: what the training split is there, in TFDS's notation ("train[:90%]").
      tfds_validation_split: what the validation split is there ("validation", "test").
      bad_records: "error" stops at a record that is no such question or document; "skip" skips and counts it.
    """

    paths: tuple[str, ...] = ()
    validation_paths: tuple[str, ...] = ()
    tfds_name: str | None = None
    tfds_data_dir: str | None = None
    tfds_train_split: str = "train"
    tfds_validation_split: str = "validation"
    bad_records: OnBadRecord = "error"

    def __post_init__(self) -> None:
        require_choice(self, "bad_records", OnBadRecord)
        for name in ("tfds_name", "tfds_train_split", "tfds_validation_split"):
            value = getattr(self, name)
            if value == "" or (value or "").startswith("huggingface:"):
                raise ConfigError(
                    f"{type(self).__name__}.{name} = {value!r}; allowed: what TFDS itself prepares. A data set of the "
                    f"Hugging Face Hub is read from its files: {type(self).__name__}.paths and validation_paths."
                )

    @staticmethod
    def paths_setting(split: str) -> str:
        """The setting that names the files of a split, "train" or "validation"."""
        return "paths" if split == "train" else "validation_paths"

    def split_paths(self, split: str) -> tuple[str, ...]:
        """The globs of a split."""
        return self.paths if split == "train" else self.validation_paths

    def tfds_split(self, split: str) -> str:
        """What a split is in TFDS."""
        return self.tfds_train_split if split == "train" else self.tfds_validation_split


@dataclasses.dataclass(frozen=True)
class ReadingTask(PublishedData):
    """What the tasks that ask about a document have in common.

    A prompt is the document, then the question. A document without room is cut at its end, and the tokens cut are
    counted; question and budget are never cut.

    Attributes:
      question_first: put the question before the document, as SCROLLS does (arXiv 2201.03533). Behind it, the default,
        a memory must keep what will be asked without knowing it.
      prompt_weight: where the task is trained on: loss weight of the tokens before the answer, whose own weight is 1.
    """

    question_first: bool = False
    prompt_weight: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 0.0, "prompt_weight")


@dataclasses.dataclass(frozen=True)
class NarrativeQA(ReadingTask):
    """Questions about whole books and film scripts (NarrativeQA, arXiv 1712.07040).

    Attributes:
      tfds_name: SCROLLS's form of it.
      context: what is read: "document", the story, or "summary" (which SCROLLS's form has not).
      max_new_tokens: budget of an answer, in tokens; an answer that is trained on is cut there, too.
    """

    tfds_name: str | None = "scrolls/narrative_qa"
    context: NarrativeQAContext = "document"
    max_new_tokens: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice(self, "context", NarrativeQAContext)
        require_at_least(self, 1, "max_new_tokens")


@dataclasses.dataclass(frozen=True)
class Qasper(ReadingTask):
    """Questions about scientific papers (Qasper, arXiv 2105.03011), in SCROLLS's form.

    Attributes:
      max_new_tokens: budget of an answer, in tokens; an answer that is trained on is cut there, too.
    """

    tfds_name: str | None = "scrolls/qasper"
    max_new_tokens: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 1, "max_new_tokens")


@dataclasses.dataclass(frozen=True)
class Quality(ReadingTask):
    """Questions with four options each about stories and articles (QuALITY, arXiv 2112.08608), in SCROLLS's form."""

    tfds_name: str | None = "scrolls/quality"


@dataclasses.dataclass(frozen=True)
class XLSum(PublishedData):
    """One-sentence summaries of news in 44 languages (XL-Sum, arXiv 2106.13822); a file has one language.

    A prompt is the article, then the instruction. An article without room is cut at its end, and the tokens cut are
    counted.

    Attributes:
      instruction: stands behind the article; the summary follows it.
      max_new_tokens: budget of a summary, in tokens; a summary that is trained on is cut there, too.
      prompt_weight: where the task is trained on: loss weight of the tokens before the summary, whose own weight is 1.
    """

    instruction: str = "Summarize the article above in one sentence.\nSummary:"
    max_new_tokens: int = 128
    prompt_weight: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 1, "max_new_tokens")
        require_at_least(self, 0.0, "prompt_weight")


ReadingComprehension = NarrativeQA | Qasper | Quality | XLSum

BUILT_IN_TASKS: Mapping[str, ReadingComprehension] = {
    "narrative_qa": NarrativeQA(),
    "qasper": Qasper(),
    "quality": Quality(),
    "xlsum": XLSum(),
}
