"""Tests of famjax.data.questions.published_data."""

import os

import pytest

from famjax.data.questions import published_data
from famjax.data.questions.published_data import encode_document, open_dataset
from famjax.data.questions.reading_config import NarrativeQA, Qasper, XLSum
from famjax.data.vocabularies import Bytes
from famjax.errors import ConfigError, DataError
from published_fixtures import STORIES, narrative_qa_rows, prepare_scrolls, qasper_rows, write_rows, xlsum_rows


def test_a_document_is_kept_once(tmp_path):
    """Guards against a copy of a book for each question about it, and against questions about another book."""
    path = write_rows(tmp_path / "a.parquet", narrative_qa_rows())
    dataset = open_dataset(NarrativeQA(validation_paths=(path,)), "validation")
    assert [entry.document for entry in dataset.entries] == [0, 0, 1, 1]
    assert len(dataset.text) == len((STORIES[0] + STORIES[1]).encode())
    for entry, row in zip(dataset.entries, narrative_qa_rows(), strict=True):
        assert dataset.document(entry.document) == row["document"]["text"]
        assert entry.question == row["question"]["text"]


def test_records_of_one_question_are_its_references(tmp_path):
    """Guards against a question asked once for each of its answers, as SCROLLS's evaluator does not."""
    rows = qasper_rows()
    path = write_rows(tmp_path / "a.jsonl", [rows[0], rows[2], rows[1], rows[3], rows[0]])
    dataset = open_dataset(Qasper(paths=(path,)), "train")
    assert [entry.references for entry in dataset.entries] == [
        ("The accuracy of the model", "accuracy"),
        ("Yes",),
        ("Unanswerable",),
    ]


def test_texts_of_any_script_come_back(tmp_path):
    """Guards against documents that begin or end within a character."""
    path = write_rows(tmp_path / "a.jsonl.gz", xlsum_rows())
    dataset = open_dataset(XLSum(paths=(path,)), "train")
    assert [dataset.document(entry.document) for entry in dataset.entries] == [row["text"] for row in xlsum_rows()]


def test_tfds_is_read_where_no_file_is_named(tmp_path):
    """Guards against settings of TFDS without effect."""
    rows = qasper_rows()
    prepare_scrolls(tmp_path, "qasper", {"train": rows, "validation": rows[2:], "test": rows[3:]})
    config = Qasper(tfds_data_dir=str(tmp_path), tfds_validation_split="test")
    assert len(open_dataset(config, "train").entries) == 3
    (entry,) = open_dataset(config, "validation").entries
    assert entry.question == "Which corpus is used?"
    misspelled = Qasper(tfds_data_dir=str(tmp_path), tfds_train_split="tran")
    assert len(open_dataset(misspelled, "validation").entries) == 2
    with pytest.raises(DataError, match=r"Unknown split 'tran'(.|\n)*tfds_train_split"):
        open_dataset(misspelled, "train")


def test_bad_records_stop_or_are_counted(tmp_path):
    """Guards against a bad record without its place, and against one skipped without a count."""
    rows = [*qasper_rows(), {"id": "x", "pid": "x", "input": "?", "output": "y"}, {**qasper_rows()[0], "output": None}]
    path = write_rows(tmp_path / "a.jsonl", rows)
    with pytest.raises(DataError, match=r"a\.jsonl:5: field 'input' is no question.*Qasper\.bad_records=.'skip'"):
        open_dataset(Qasper(paths=(path,)), "train")
    dataset = open_dataset(Qasper(paths=(path,), bad_records="skip"), "train")
    assert dataset.skipped == {"no_question": 1, "no_answer": 1}
    assert len(dataset.entries) == 3


def test_an_empty_split_is_an_error(tmp_path):
    """Guards against an evaluation over nothing."""
    path = write_rows(tmp_path / "a.jsonl", [{"text": "no summary"}])
    with pytest.raises(DataError, match=r"train split of XLSum has no record, in 1 file .*'missing_field': 1"):
        open_dataset(XLSum(paths=(path,), bad_records="skip"), "train")


@pytest.mark.parametrize(
    ("config", "split", "message"),
    [
        (XLSum(), "validation", r"XLSum has no files for the validation split.*--gin\.XLSum\.validation_paths"),
        (Qasper(paths=("a.jsonl",)), "validation", r"--gin\.Qasper\.validation_paths"),
        (Qasper(validation_paths=("a.jsonl",)), "train", r"--gin\.Qasper\.paths="),
    ],
)
def test_a_split_without_a_source_is_a_wrong_setting(config, split, message):
    """Guards against local files for one split and TFDS's, perhaps of another version, for the other."""
    with pytest.raises(ConfigError, match=message):
        open_dataset(config, split)


def test_what_is_not_prepared_says_what_to_set(tmp_path):
    """Guards against an error that leaves a user without a way on."""
    with pytest.raises(DataError) as caught:
        open_dataset(NarrativeQA(tfds_data_dir=str(tmp_path)), "train")
    message = str(caught.value)
    assert all(word in message for word in ("tfds build scrolls/narrative_qa", "NarrativeQA.paths", "tfds_data_dir"))
    (tmp_path / "a.zip").touch()
    with pytest.raises(DataError, match=r"a\.zip: allowed(.|\n)*Qasper\.paths"):
        open_dataset(Qasper(paths=(f"{tmp_path}/*.zip",)), "train")


def test_a_split_is_read_once(tmp_path, monkeypatch):
    """Guards against gigabytes read again for each length of a scan, and against files that changed going unnoticed."""
    reads = []
    read_file = published_data.read_file
    monkeypatch.setattr(published_data, "read_file", lambda *given: reads.append(given) or read_file(*given))
    path = write_rows(tmp_path / "a.jsonl", qasper_rows())
    config = Qasper(paths=(path,))
    assert open_dataset(config, "train") is open_dataset(config, "train")
    assert len(reads) == 1
    write_rows(tmp_path / "a.jsonl", qasper_rows()[2:])
    os.utime(path, ns=(1, 1))
    assert len(open_dataset(config, "train").entries) == 2


def test_a_document_is_encoded_once(tmp_path):
    """Guards against a book that is encoded for each question about it."""
    encoded = []

    class Counting(Bytes):
        def encode(self, text):
            encoded.append(text)
            return super().encode(text)

    vocabulary = Counting()
    dataset = open_dataset(NarrativeQA(paths=(write_rows(tmp_path / "a.jsonl", narrative_qa_rows()),)), "train")
    for entry in dataset.entries * 2:
        ids = encode_document(dataset, entry.document, vocabulary)
        assert vocabulary.decode(ids) == dataset.document(entry.document)
    assert encoded == list(STORIES[:2])


def test_no_room_for_the_documents_is_told(tmp_path, monkeypatch):
    """Guards against a traceback where the disk of temporary files is full."""

    def full(**_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(published_data.tempfile, "TemporaryFile", full)
    path = write_rows(tmp_path / "a.jsonl", qasper_rows())
    with pytest.raises(DataError, match=r"No space left on device \(set TMPDIR\)"):
        open_dataset(Qasper(paths=(path,)), "train")
