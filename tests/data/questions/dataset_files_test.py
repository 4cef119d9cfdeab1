"""Tests of famjax.data.questions.dataset_files."""

import json

import pytest

from famjax.data.json_objects import BadRecordError, json_object
from famjax.data.questions.dataset_files import (
    UnreadableError,
    local_files,
    read_file,
    text_field,
)
from famjax.data.questions.reading_config import XLSum
from famjax.errors import ConfigError, DataError
from published_fixtures import narrative_qa_rows, write_rows


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.jsonl.gz", "a.parquet"])
def test_records_are_read_in_order(tmp_path, name):
    """Guards against lost records, another order, and places that do not lead to the record."""
    path = write_rows(tmp_path / name, narrative_qa_rows())
    records = list(read_file(path, ("document.text", "question.text", "answers")))
    questions = [record.decode()["question"]["text"] for record in records]
    assert questions == [row["question"]["text"] for row in narrative_qa_rows()]
    assert records[2].place == (f"{path}, row 3" if name.endswith("parquet") else f"{path}:3")


def test_a_parquet_file_is_read_for_what_is_wanted(tmp_path):
    """Guards against lists of tokens, most of NarrativeQA's bytes, that are read for nothing."""
    path = write_rows(tmp_path / "a.parquet", narrative_qa_rows())
    (record, *_) = read_file(path, ("document.text", "question.text", "output"))
    row = narrative_qa_rows()[0]
    assert record.decode() == {
        "document": {"text": row["document"]["text"]},
        "question": {"text": row["question"]["text"]},
    }


def test_blank_lines_are_no_records(tmp_path):
    """Guards against an error at the empty line that ends many files."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n\n  \n{"a": 2}\n\n')
    assert [record.place for record in read_file(str(path), ())] == [f"{path}:1", f"{path}:4"]


@pytest.mark.parametrize(
    ("raw", "message", "kind"),
    [
        (b'{"a": "\xff"}', "0xff, is not UTF-8", "undecodable"),
        (b'{"a": ', "invalid JSON", "invalid_json"),
        (b'["a"]', "a JSON list, not an object", "invalid_json"),
        (b'{"a": ' + b"9" * 5000 + b"}", "4300 digits", "undecodable"),
        (b"[" * 100_000, "recursion", "undecodable"),
    ],
)
def test_a_line_that_is_no_object(raw, message, kind):
    """Guards against a traceback of the decoder, and against a count under another name."""
    with pytest.raises(BadRecordError, match=message) as caught:
        json_object(raw)
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("fields", "message", "kind"),
    [
        ({"b": 1}, r"no field 'a\.c'; what should have 'a' has 'b'", "missing_field"),
        ({}, "what should have 'a' has none", "missing_field"),
        ({"a": None}, "what should have 'c' has none", "missing_field"),
        ({"a": {"c": 3}}, r"'a\.c' is not a string", "missing_field"),
        ({"a": {"c": " \n"}}, r"'a\.c' is empty", "missing_field"),
        (json.loads('{"a": {"c": "x\\ud800"}}'), "half of a surrogate pair, character 1", "undecodable"),
    ],
)
def test_a_field_that_is_no_text(fields, message, kind):
    """Guards against a question of the wrong field, or one that cannot be encoded."""
    with pytest.raises(BadRecordError, match=message) as caught:
        text_field(fields, "a", "c")
    assert caught.value.kind == kind


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.parquet"])
def test_a_file_that_is_broken_off_is_an_error(tmp_path, name):
    """Guards against the rest of a download that was cut off being taken for all of it."""
    path = write_rows(tmp_path / name, narrative_qa_rows())
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadableError, match=f"{name}: cannot be read"):
        list(read_file(path, ("document.text",)))


def test_a_text_of_parquet_that_is_not_utf8_is_one_bad_record(tmp_path):
    """Guards against one broken text that ends its whole file."""
    import pyarrow as pa
    from pyarrow import parquet

    texts = pa.array([b"fine", b"\xff\xfe", b"fine too"], pa.binary()).view(pa.string())
    parquet.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    first, second, third = read_file(str(tmp_path / "a.parquet"), ("text",))
    assert (first.decode(), third.decode()) == ({"text": "fine"}, {"text": "fine too"})
    with pytest.raises(BadRecordError, match="not UTF-8") as caught:
        second.decode()
    assert caught.value.kind == "undecodable"


def test_a_file_of_another_form_is_an_error(tmp_path):
    """Guards against a zip, as SCROLLS is downloaded, that is read as text."""
    (tmp_path / "qasper.zip").write_bytes(b"PK")
    with pytest.raises(UnreadableError, match=r"qasper\.zip: allowed: .*\.jsonl.*\.parquet"):
        list(read_file(str(tmp_path / "qasper.zip"), ()))


def test_errors_of_globs_name_the_task(tmp_path):
    """Guards against a message that sends the user to settings of another task."""
    with pytest.raises(DataError, match=r"nothing.*\(XLSum\.paths, XLSum\.validation_paths\)"):
        local_files((f"{tmp_path}/nothing*.jsonl",), XLSum())
    with pytest.raises(ConfigError, match=r"XLSum\.paths"):
        local_files(("",), XLSum())
    for name in ("b.jsonl", "a.jsonl"):
        write_rows(tmp_path / name, [])
    files = local_files((f"{tmp_path}/*.jsonl", f"{tmp_path}/a*"), XLSum())
    assert [file.path for file in files] == [f"{tmp_path}/a.jsonl", f"{tmp_path}/b.jsonl"]
