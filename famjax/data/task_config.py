"""What each kind of task can be set to: frozen settings that check themselves. Imports nothing heavy.

Lengths are in tokens. A task's name is not one of its settings: `famjax.data.registry` gives names to settings.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal

from famjax.data.instructions_config import Instructions
from famjax.data.questions.babilong_config import Babilong
from famjax.data.questions.long_documents_config import LongDocuments
from famjax.data.questions.question_config import require_task_names
from famjax.data.questions.reading_config import ReadingComprehension
from famjax.data.questions.ruler_config import Ruler
from famjax.errors import ConfigError
from famjax.validation import require_at_least, require_choice, require_fraction

OnBadRecord = Literal["error", "skip"]
OnShortDocument = Literal["pack", "skip", "error"]
Wording = Literal["fam", "landmark"]


@dataclasses.dataclass(frozen=True)
class Documents:
    """Long documents from local files, as windows of consecutive tokens.

    A file is one document, unless its name ends in .jsonl or .ndjson: then each line is a record and one of its fields
    the document. A name that ends in .gz as well is decompressed. All text is UTF-8. A document is read whole, so each
    must fit in memory; the corpus need not. An epoch takes every window once.

    Attributes:
      paths: globs ("~" and "**" are understood) of the files. Empty: the running Python's standard library (its .py
        files, without tests and installed packages).
      validation_paths: globs of the validation split's files; `paths` are then all training. Empty: the files of
        `paths` are split by a hash of their path below the glob's first wildcard.
      validation_fraction: expected share of files in the validation split, where `validation_paths` is empty.
      field: the field of a JSON record that holds its text.
      short_documents: what happens to a document shorter than an example. "pack": documents are joined, with the
        vocabulary's end token between them, and windows cut anywhere; "skip": windows lie inside one document, and
        shorter documents are skipped and counted; "error": inside one document, and a shorter one is an error.
      bad_records: "error" stops at undecodable bytes, invalid JSON or a missing field; "skip" skips and counts them.
      loss_weight: of every target. In a mixture with a task that asks for answers of a few tokens, a small one keeps
        the documents from drowning them.
      cache_dir: where encoded corpora are kept from run to run; None encodes at each start, into a temporary file.
    """

    paths: tuple[str, ...] = ()
    validation_paths: tuple[str, ...] = ()
    validation_fraction: float = 0.1
    field: str = "text"
    short_documents: OnShortDocument = "pack"
    bad_records: OnBadRecord = "error"
    loss_weight: float = 1.0
    cache_dir: str | None = None

    def __post_init__(self) -> None:
        require_fraction(self, "validation_fraction")
        require_at_least(self, 0.0, "loss_weight")
        require_choice(self, "short_documents", OnShortDocument)
        require_choice(self, "bad_records", OnBadRecord)


@dataclasses.dataclass(frozen=True)
class KeyTask:
    """What the tasks that hide a key and ask for it have in common.

    Attributes:
      depth: where in the filler the key is hidden, 0 (before it) to 1 (after it); None draws it uniformly.
      digits: of the key.
      wording: "fam": the TransformerFAM paper's prompt, all in one line; "landmark": landmark attention's, with a line
        break between its parts, and repeated sentences that begin anew behind the key.
      introduction: whether the example starts with the sentences that announce the key.
      min_length: the shortest example, where whoever reads the task asks for no range (a curriculum does): lengths are
        drawn from here to the longest. None: all are as long as the longest.
      length_multiple: lengths are multiples of so many tokens. With a model's block size, the question and its answer
        always lie in one block.
      prompt_weight: loss weight of the tokens before the answer, whose own weight is 1.
      validation_examples: size of the validation split. The training split has no end.
    """

    depth: float | None = 0.0
    digits: int = 5
    wording: Wording = "fam"
    introduction: bool = True
    min_length: int | None = None
    length_multiple: int = 1
    prompt_weight: float = 0.0
    validation_examples: int = 256

    def __post_init__(self) -> None:
        require_fraction(self, "depth")
        require_choice(self, "wording", Wording)
        require_at_least(self, 1, "digits", "min_length", "length_multiple", "validation_examples")
        require_at_least(self, 0.0, "prompt_weight")


@dataclasses.dataclass(frozen=True)
class PassKey(KeyTask):
    """The paper's PassKey: a key hidden in repeated sentences (landmark attention, arXiv 2305.16300)."""


@dataclasses.dataclass(frozen=True)
class PassKeyDocuments(KeyTask):
    """A pass key hidden in real text, which does not repeat within an epoch over the documents.

    Attributes:
      documents: the task of type Documents that the text comes from.
    """

    introduction: bool = False
    documents: str = "documents"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_task_names(self, "documents", (self.documents,))


@dataclasses.dataclass(frozen=True)
class AssociativeRecall:
    """Pairs of a key and a value, "kuq=481; ...", and a question about one of the keys.

    Attributes:
      num_pairs: pairs in an example, replacements included; the landmark sentences fill the rest of its length. None:
        as many as fill it.
      replaced_fraction: share of the keys that get a second, different value later on; the last value is right.
      key_letters: of each key.
      value_digits: of each value.
      min_length: see `KeyTask`.
      length_multiple: see `KeyTask`.
      prompt_weight: see `KeyTask`.
      validation_examples: see `KeyTask`.
    """

    num_pairs: int | None = None
    replaced_fraction: float = 0.0
    key_letters: int = 3
    value_digits: int = 3
    min_length: int | None = None
    length_multiple: int = 1
    prompt_weight: float = 0.0
    validation_examples: int = 256

    def __post_init__(self) -> None:
        require_fraction(self, "replaced_fraction")
        require_at_least(
            self, 1, "num_pairs", "key_letters", "value_digits", "min_length", "length_multiple", "validation_examples"
        )
        require_at_least(self, 0.0, "prompt_weight")


def _documents_and_passkeys() -> Mapping[str, float]:
    return {"documents": 1.0, "passkey_documents": 1.0}


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Examples of several famjax tasks, in fixed proportion, in an order that the seed draws.

    Its validation split ends where that of its first exhausted task does.

    Attributes:
      rates: how often each task is taken, relative to the others.
    """

    rates: Mapping[str, float] = dataclasses.field(default_factory=_documents_and_passkeys)

    def __post_init__(self) -> None:
        if not self.rates:
            raise ConfigError(f'Mixture.rates = {self.rates!r}; allowed: rates by task, as {{"documents": 1.0}}.')
        require_task_names(self, "rates", tuple(self.rates))
        for name, rate in self.rates.items():
            if not rate > 0:
                raise ConfigError(f"Mixture.rates[{name!r}] = {rate!r}; allowed: above 0.")


TaskConfig = (
    Documents
    | PassKey
    | PassKeyDocuments
    | AssociativeRecall
    | Mixture
    | Instructions
    | Ruler
    | Babilong
    | ReadingComprehension
    | LongDocuments
)
