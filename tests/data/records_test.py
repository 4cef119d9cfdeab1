"""Tests of famjax.data.records."""

import collections
import gzip
import json

import pytest

from famjax.data.corpus_files import CorpusFile
from famjax.data.records import read_documents
from famjax.data.task_config import Documents
from famjax.errors import DataError


def read(path, **settings):
    """The (text, line) of each document, and what was skipped."""
    skipped = collections.Counter()
    documents = list(read_documents(CorpusFile(path.name, str(path)), Documents(**settings), skipped))
    return [(document.text, document.line) for document in documents], dict(skipped)


def test_a_text_file_is_one_document(tmp_path):
    """Guards against files cut at lines, or line ends that change."""
    path = tmp_path / "a.txt"
    path.write_bytes("one\r\ntwo\n\n\U0001f600".encode())
    assert read(path) == ([("one\r\ntwo\n\n\U0001f600", 1)], {})


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.jsonl.gz"])
def test_json_lines(tmp_path, name):
    """Guards against records of another field, lost records, and blank lines taken for records."""
    path = tmp_path / name
    raw = b"\n".join([json.dumps({"id": i, "body": f"text\n{i}"}).encode() for i in range(3)] + [b"", b"  "])
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    assert read(path, field="body") == ([("text\n0", 1), ("text\n1", 2), ("text\n2", 3)], {})


def test_gzipped_text(tmp_path):
    """Guards against compressed bytes as text."""
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"hello"))
    assert read(path) == ([("hello", 1)], {})


BAD = [
    ("a.txt", b"fine\nbad \xff byte", "a.txt:2: .*0xff.*not UTF-8", "undecodable"),
    ("a.jsonl", b'{"text": "x"}\n{"text": "\xff"}\n', "a.jsonl:2: .*0xff.*not UTF-8", "undecodable"),
    ("a.jsonl", b'{"text": "x"}\n{"text": \n', "a.jsonl:2: invalid JSON", "invalid_json"),
    ("a.jsonl", b'{"text": "x"}\n\n["text"]\n', "a.jsonl:3: a JSON list", "invalid_json"),
    (
        "a.jsonl",
        b'{"text": "x"}\n{"body": "y"}\n',
        r"a.jsonl:2: no field 'text' \(Documents.field\).*'body'",
        "missing_field",
    ),
    ("a.jsonl", b'{"text": "x"}\n{"id": ' + b"9" * 5000 + b"}\n", "a.jsonl:2: JSON that .*4300 digits", "undecodable"),
    ("a.jsonl", b'{"text": "x"}\n' + b"[" * 100_000 + b"\n", "a.jsonl:2: JSON that .*recursion", "undecodable"),
    ("a.jsonl", b'{"text": "x"}\n{"text": 3}\n', "a.jsonl:2: field 'text' is not a string", "missing_field"),
]


@pytest.mark.parametrize(("name", "raw", "message", "kind"), BAD)
def test_bad_records(tmp_path, name, raw, message, kind):
    """Guards against a bad record that is not found, is told without file and line, or is skipped without a count."""
    path = tmp_path / name
    path.write_bytes(raw)
    with pytest.raises(DataError, match=message):
        read(path)
    documents, skipped = read(path, bad_records="skip")
    assert skipped == {kind: 1}
    assert documents == ([] if name.endswith(".txt") else [("x", 1)])


def test_a_broken_archive_is_an_error(tmp_path):
    """Guards against a traceback for a download that was cut off, and against its loss being skipped as one record."""
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"hello" * 1000)[:-20])
    with pytest.raises(DataError, match=r"a\.txt\.gz: cannot be read"):
        read(path, bad_records="skip")
