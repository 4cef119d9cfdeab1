"""Settings of the tasks that predict whole documents, from their beginning. Imports nothing heavy."""

import dataclasses
from collections.abc import Mapping

from famjax.data.questions.question_config import require_task_names
from famjax.data.questions.reading_config import OnBadRecord, PublishedData
from famjax.validation import require_choice, require_fraction


@dataclasses.dataclass(frozen=True)
class PG19(PublishedData):
    """Books of Project Gutenberg (PG-19, arXiv 1911.05507), each from its beginning, cut at the length asked for.

    Local files are DeepMind's: a plain text file a book, a folder a split.

    Attributes:
      tfds_name: TFDS's PG-19.
      cache_dir: where encoded local files are kept from run to run; None encodes at each start, into a temporary file.
    """

    tfds_name: str | None = "pg19"
    cache_dir: str | None = None


@dataclasses.dataclass(frozen=True)
class Isabelle:
    """Theories of Isabelle, a .thy file each, from their beginning, cut at the length asked for (as arXiv 2203.08913).

    Attributes:
      paths: folders, searched for .thy files at any depth, or globs of files.
      validation_paths: those of the validation split; `paths` are then all training. Empty: the files of `paths` are
        split by a hash of their path.
      validation_fraction: expected share of files in the validation split, where `validation_paths` is empty; 1: all.
      bad_records: "error" stops at undecodable bytes; "skip" skips and counts such files.
      cache_dir: where encoded theories are kept from run to run; None encodes at each start, into a temporary file.
    """

    paths: tuple[str, ...] = ()
    validation_paths: tuple[str, ...] = ()
    validation_fraction: float = 0.1
    bad_records: OnBadRecord = "error"
    cache_dir: str | None = None

    def __post_init__(self) -> None:
        require_fraction(self, "validation_fraction")
        require_choice(self, "bad_records", OnBadRecord)


@dataclasses.dataclass(frozen=True)
class WholeDocuments:
    """The documents of a corpus, each from its beginning, cut at the length asked for.

    Attributes:
      documents: the task of type Documents whose files they are.
    """

    documents: str = "documents"

    def __post_init__(self) -> None:
        require_task_names(self, "documents", (self.documents,))


LongDocuments = PG19 | Isabelle | WholeDocuments

BUILT_IN_TASKS: Mapping[str, LongDocuments] = {
    "pg19": PG19(),
    "isabelle": Isabelle(),
    "whole_documents": WholeDocuments(),
}
