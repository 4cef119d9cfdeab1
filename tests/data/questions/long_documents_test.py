"""Tests of famjax.data.questions.long_documents."""

from pathlib import Path

import numpy as np
import pytest

from famjax.data.config import HuggingFaceVocabulary
from famjax.data.questions.long_documents import open_long_documents
from famjax.data.questions.long_documents_config import PG19, Isabelle, WholeDocuments
from famjax.data.questions.question import Questions
from famjax.data.task_config import Documents, PassKey
from famjax.data.vocabularies import make_vocabulary
from famjax.errors import ConfigError, DataError
from published_fixtures import prepare_pg19

BOOKS = {"train": {1: "First book.", 2: "Second book, é."}, "validation": {3: "Third."}, "test": {4: "Fourth."}}


def decoded(example):
    """An example's bytes, the end token as "|"."""
    return b"".join(b"|" if token == 1 else bytes([token - 3]) for token in example.targets)


@pytest.fixture
def theories(tmp_path):
    """A folder of theories, and files that are none."""
    for number in range(10):
        path = tmp_path / "afp" / f"Entry{number}" / f"Theory{number}.thy"
        path.parent.mkdir(parents=True)
        path.write_text(f"theory Theory{number} imports Main begin end")
        (path.parent / "ROOT").write_text("session")
    return str(tmp_path / "afp")


def test_documents_from_their_beginning(corpus_dir, reading):
    """Guards against windows from the middle, joined documents, lost short ones, and cuts that are not counted."""
    tasks = {"mine": Documents(paths=("nowhere",), validation_paths=(f"{corpus_dir}/*/*",))}
    given = reading(longest=450, split="validation", shuffle=False, tasks=tasks)
    questions = open_long_documents(WholeDocuments("mine"), given)
    assert isinstance(questions, Questions)
    expected = [path.read_bytes() + b"|" for path in sorted(corpus_dir.glob("*/*"))]
    assert questions.size == len(expected) == 12
    for index, document in enumerate(expected):
        question, example = questions.question(index), questions[index]
        assert decoded(example) == document[:450]
        assert np.array_equal(question.prompt, example.targets)
        assert question.num_cut == max(0, len(document) - 450)
        assert (question.references, question.max_new_tokens) == ((), 0)
        assert example.weights.tolist() == [1.0] * len(example.targets)
        assert not example.answers.any()
    assert sum(questions.question(i).num_cut > 0 for i in range(12)) == 8


def test_what_is_asked_of_a_model(corpus_dir, reading):
    """Guards against answers generated where every token is to be scored."""
    tasks = {"documents": Documents(paths=(f"{corpus_dir}/*/*",))}
    questions = open_long_documents(WholeDocuments(), reading(tasks=tasks))
    assert questions.output_type == "loglikelihood_rolling"
    assert questions.metrics == ("token_accuracy", "perplexity", "loss")
    assert questions.size is None


def test_the_task_must_have_documents(reading):
    """Guards against a traceback for a task of another kind."""
    with pytest.raises(ConfigError, match=r"WholeDocuments\.documents = 'keys' is no task of type Documents"):
        open_long_documents(WholeDocuments("keys"), reading(tasks={"keys": PassKey()}))


@pytest.mark.parametrize("pattern", ["", "/**/*.thy", "/Entry?/*.thy"])
def test_theories_of_a_folder_or_a_glob(theories, reading, pattern):
    """Guards against files that are no theories, theories that are not found, and splits that share one."""
    paths = (theories + pattern,)
    everything = {f"theory Theory{i} imports Main begin end|".encode() for i in range(10)}
    questions = open_long_documents(Isabelle(paths, validation_fraction=1.0), reading(100, split="validation"))
    assert sorted(decoded(questions[i]) for i in range(questions.size)) == sorted(everything)
    held_out = open_long_documents(Isabelle(paths, validation_fraction=0.3), reading(100, split="validation"))
    validation = {decoded(held_out[i]) for i in range(held_out.size)}
    training = open_long_documents(Isabelle(paths, validation_fraction=0.3), reading(100))
    assert {decoded(training[i]) for i in range(10 - held_out.size)} == everything - validation
    assert 0 < held_out.size < 10


def test_theories_of_their_own_validation(theories, reading):
    """Guards against a folder for validation without effect, and against a cache that is not kept."""
    cache = Path(theories, "cache")
    config = Isabelle((f"{theories}/Entry0",), validation_paths=(f"{theories}/Entry1",), cache_dir=str(cache))
    questions = open_long_documents(config, reading(split="validation"))
    assert decoded(questions[0]).startswith(b"theory Theory1")
    assert questions.size == 1
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (Isabelle(), ConfigError, r"Isabelle\.paths is empty.*--gin\.Isabelle\.paths"),
        (
            Isabelle(paths=("nowhere/*.thy",)),
            DataError,
            r"nowhere/\*\.thy.*Isabelle\.paths, Isabelle\.validation_paths",
        ),
        (PG19(paths=("nowhere/*.txt",)), ConfigError, r"--gin\.PG19\.validation_paths"),
        (PG19(validation_paths=("nowhere/*.txt",)), DataError, r"nowhere/\*\.txt.*PG19\.paths, PG19\.validation_paths"),
    ],
)
def test_errors_name_the_task(reading, config, error, message):
    """Guards against messages that send the user to settings of another task."""
    with pytest.raises(error, match=message):
        open_long_documents(config, reading(split="validation"))


def test_an_undecodable_theory(theories, reading, tmp_path):
    """Guards against a bad file without its place, and against one that is skipped without a count."""
    (tmp_path / "afp" / "Bad.thy").write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"Bad\.thy:1: .*Isabelle\.bad_records=.'skip'"):
        open_long_documents(Isabelle(paths=(theories,), validation_fraction=1.0), reading(split="validation"))
    skipping = Isabelle(paths=(theories,), validation_fraction=1.0, bad_records="skip")
    assert open_long_documents(skipping, reading(split="validation")).skipped == {"undecodable": 1}


def test_local_books_keep_their_splits(tmp_path, reading):
    """Guards against books of one published split in the other."""
    for split, books in BOOKS.items():
        for number, text in books.items():
            path = tmp_path / split / f"{number}.txt"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
    config = PG19(paths=(f"{tmp_path}/train/*.txt",), validation_paths=(f"{tmp_path}/test/*.txt",))
    questions = open_long_documents(config, reading(longest=100, split="validation"))
    assert [decoded(questions[i]) for i in range(questions.size)] == [b"Fourth.|"]
    training = open_long_documents(config, reading(longest=100, shuffle=False))
    assert [decoded(training[i]) for i in range(3)] == [b"First book.|", "Second book, é.|".encode(), b"First book.|"]


def test_books_of_tfds(tmp_path, reading, tokenizer_path):
    """Guards against books of TFDS that are not those that it prepared, or that lack the end that local ones have."""
    prepare_pg19(tmp_path, BOOKS)
    config = PG19(tfds_data_dir=str(tmp_path), tfds_validation_split="test")
    questions = open_long_documents(config, reading(longest=100, split="validation"))
    assert [decoded(questions[i]) for i in range(questions.size)] == [b"Fourth.|"]
    short = open_long_documents(config, reading(longest=5, split="validation"))
    assert decoded(short[0]) == b"Fourt"
    assert short.question(0).num_cut == 3
    training = open_long_documents(config, reading(longest=100))
    assert {decoded(training[i]) for i in range(2)} == {b"First book.|", "Second book, é.|".encode()}
    endless = make_vocabulary(HuggingFaceVocabulary(tokenizer_path))
    targets = open_long_documents(config, reading(100, split="validation", vocabulary=endless))[0].targets
    assert targets.tolist() == endless.encode("Fourth.").tolist()
    assert targets.dtype == np.int32


def test_epochs(corpus_dir, reading):
    """Guards against documents that an epoch repeats or loses, and an order that the seed does not choose."""
    tasks = {"documents": Documents(paths=("none",), validation_paths=(f"{corpus_dir}/*/*",))}
    orders = []
    for seed in (0, 0, 1):
        questions = open_long_documents(WholeDocuments(), reading(20, split="validation", seed=seed, tasks=tasks))
        orders.append([decoded(questions[i]) for i in range(questions.size)])
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])
    assert len(set(orders[0])) == 12
