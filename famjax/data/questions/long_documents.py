"""The tasks `pg19`, `isabelle` and `whole_documents`: documents from their beginning, every token predicted."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from famjax.data.corpus import Corpus, open_corpus
from famjax.data.examples import Example, Reading
from famjax.data.questions.dataset_files import renamed
from famjax.data.questions.long_documents_config import PG19, Isabelle, LongDocuments, WholeDocuments
from famjax.data.questions.published_data import Dataset, encode_document, open_dataset
from famjax.data.questions.question import OutputType, Question, Questions
from famjax.data.shuffling import EpochOrder
from famjax.data.task_config import Documents
from famjax.data.vocabularies import Vocabulary
from famjax.errors import ConfigError, FamjaxError


def open_long_documents(config: LongDocuments, reading: Reading) -> Questions:
    """Opens one of these tasks.

    Raises:
      ConfigError: no files are named, or a task that has none.
      DataError: as `open_corpus` and `open_dataset`.
    """
    match config:
        case PG19() if not (config.paths or config.validation_paths):
            documents: _Documents = _DatasetDocuments(open_dataset(config, reading.split), reading.vocabulary)
        case PG19():
            documents = _CorpusDocuments(_open_local(config, _local_books(config, reading.split), reading))
        case Isabelle():
            documents = _CorpusDocuments(_open_local(config, _theories(config), reading))
        case WholeDocuments():
            documents = _CorpusDocuments(_open_task(config, reading))
    return LongDocumentQuestions(documents, reading)


@runtime_checkable
class _Documents(Protocol):
    """Encoded documents, each closed by the end token where the vocabulary has one."""

    size: int
    skipped: dict[str, int]

    def __getitem__(self, number: int) -> NDArray[np.integer]: ...


class _CorpusDocuments:
    """The documents of an encoded corpus."""

    def __init__(self, corpus: Corpus) -> None:
        self._encoded = corpus.encoded
        self.size = len(corpus.encoded.starts) - 1
        self.skipped = corpus.encoded.skipped

    def __getitem__(self, number: int) -> NDArray[np.unsignedinteger]:
        return self._encoded.tokens[self._encoded.starts[number] : self._encoded.starts[number + 1]]


class _DatasetDocuments:
    """The documents of a published data set, each encoded when it is asked for."""

    def __init__(self, dataset: Dataset, vocabulary: Vocabulary) -> None:
        self._dataset, self._vocabulary = dataset, vocabulary
        self._end = np.array([] if vocabulary.eos_id is None else [vocabulary.eos_id], np.int32)
        self.size = len(dataset.entries)
        self.skipped = dataset.skipped

    def __getitem__(self, number: int) -> NDArray[np.int32]:
        document = self._dataset.entries[number].document
        return np.concatenate([encode_document(self._dataset, document, self._vocabulary), self._end])


class LongDocumentQuestions:
    """Whole documents, for their own sake: nothing is asked, and every token is a target.

    A document longer than the length asked for is cut at its end, and a shorter one is left as it is.
    """

    output_type: OutputType = "loglikelihood_rolling"
    metrics: tuple[str, ...] = ("token_accuracy", "perplexity", "loss")

    def __init__(self, documents: _Documents, reading: Reading) -> None:
        self._documents, self._longest = documents, reading.longest
        self._order = EpochOrder(documents.size, reading.shuffle, *reading.key)
        self.size = documents.size if reading.ends else None
        self.skipped = documents.skipped

    def question(self, index: int) -> Question:
        """The document as a prompt without an answer; `num_cut` says how many of its tokens had no room."""
        document = self._documents[self._order[index]]
        kept = document[: self._longest].astype(np.int32)
        return Question(kept, references=(), max_new_tokens=0, num_cut=len(document) - len(kept))

    def __getitem__(self, index: int) -> Example:
        """See `famjax.data.examples.Examples`."""
        targets = self.question(index).prompt
        return Example(targets, np.ones(len(targets), np.float32), np.zeros(len(targets), np.bool_))


def _open_local(config: PG19 | Isabelle, documents: Documents, reading: Reading) -> Corpus:
    """Opens a corpus whose errors name the settings of `config`."""
    try:
        return open_corpus(documents, reading.split, reading.vocabulary)
    except FamjaxError as error:
        raise renamed(error, config) from error


def _local_books(config: PG19, split: str) -> Documents:
    """Local files of PG-19 as a corpus; the published splits are kept."""
    paths = config.split_paths(split)
    if not paths:
        raise ConfigError(
            f"PG19 has no files for the {split} split: set --gin.PG19.{config.paths_setting(split)}="
            f"\"['pg19/{split}/*.txt']\", or neither of the two to read TFDS's."
        )
    # Both of the same files: no file is split off by its hash.
    return Documents(paths, paths, bad_records=config.bad_records, cache_dir=config.cache_dir)


def _theories(config: Isabelle) -> Documents:
    if not config.paths:
        raise ConfigError("Isabelle.paths is empty; set it, as --gin.Isabelle.paths=\"['afp/thys']\".")
    settings = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    globs = {name: _theory_globs(settings[name]) for name in ("paths", "validation_paths")}
    return Documents(**settings | globs)


def _theory_globs(paths: Sequence[str]) -> tuple[str, ...]:
    """Globs of theory files: a folder stands for those in it."""
    return tuple(f"{path}/**/*.thy" if Path(path).expanduser().is_dir() else path for path in paths)


def _open_task(config: WholeDocuments, reading: Reading) -> Corpus:
    documents = reading.task_config(config.documents)
    if not isinstance(documents, Documents):
        raise ConfigError(f"WholeDocuments.documents = {config.documents!r} is no task of type Documents.")
    return open_corpus(documents, reading.split, reading.vocabulary)
