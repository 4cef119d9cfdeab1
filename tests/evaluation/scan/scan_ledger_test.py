"""The ledger: whole lines, whatever happens to the process that writes them."""

import json
import os
import threading

import pytest

from famjax.errors import CheckpointError, ConfigError, DataError
from famjax.evaluation.scan.ledger import Ledger, prepare_output_dir, read_ledgers, write_atomically
from famjax.evaluation.scan.shards import Shard


def entry(key, status="done", **values):
    """A line."""
    return {"key": key, "status": status, **values}


def test_lines_are_read_back(tmp_path):
    """Guards against a number that JSON does not have, and against a ledger of one shard alone."""
    for index in range(2):
        with Ledger(tmp_path, Shard(index, 2)) as ledger:
            ledger.append(entry(f"cell{index}", loss=float("nan"), parts=[{"loss": float("inf")}], text="ä\nb"))
    entries = read_ledgers(tmp_path)
    assert set(entries) == {"cell0", "cell1"}
    assert entries["cell1"]["loss"] == "NaN"
    assert entries["cell1"]["parts"] == [{"loss": "Infinity"}]
    assert entries["cell1"]["text"] == "ä\nb"


def test_an_unfinished_line_is_dropped(tmp_path):
    """Guards against a process killed while it writes: what it had finished stays, and the next line is whole."""
    with Ledger(tmp_path, Shard()) as ledger:
        ledger.append(entry("first", text="x" * 100_000))
    (path,) = (tmp_path / "ledger").iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"key": "second", "sta' + b"y" * 70_000)
    assert set(read_ledgers(tmp_path)) == {"first"}
    with Ledger(tmp_path, Shard()) as ledger:
        assert path.read_bytes() == whole
        ledger.append(entry("third"))
    assert set(read_ledgers(tmp_path)) == {"first", "third"}


def test_a_first_line_that_is_unfinished(tmp_path):
    """Guards against a ledger that begins with half a line for good."""
    (tmp_path / "ledger").mkdir()
    path = tmp_path / "ledger" / "shard-0-of-1.jsonl"
    path.write_text('{"key": "first"')
    with Ledger(tmp_path, Shard()):
        assert path.read_bytes() == b""


def test_a_cell_twice(tmp_path):
    """Guards against a failure of one process that hides the success of another, or of a later trial."""
    with Ledger(tmp_path, Shard(0, 2)) as ledger:
        ledger.append(entry("a", "failed", error="first"))
        ledger.append(entry("a", value=1))
        ledger.append(entry("b", value=1))
        ledger.append(entry("c", "failed", error="first"))
        ledger.append(entry("c", "failed", error="second"))
    with Ledger(tmp_path, Shard(1, 2)) as ledger:
        ledger.append(entry("b", "failed", error="late"))
    entries = read_ledgers(tmp_path)
    assert (entries["a"]["value"], entries["b"]["value"], entries["c"]["error"]) == (1, 1, "second")


@pytest.mark.parametrize("line", ["no json", "[]", '{"key": "a"}', '{"key": "a", "status": "half"}'])
def test_a_line_of_something_else(tmp_path, line):
    """Guards against a KeyError; the message says where the line is."""
    with Ledger(tmp_path, Shard()) as ledger:
        ledger.append(entry("a"))
    (path,) = (tmp_path / "ledger").iterdir()
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(DataError, match=r"shard-0-of-1\.jsonl, line 2: not a line of a scan's ledger"):
        read_ledgers(tmp_path)


def test_one_process_for_each_shard(tmp_path):
    """Guards against two processes that evaluate the same cells, as where all of a cluster's are shard 0."""
    with Ledger(tmp_path, Shard(0, 2)):
        with pytest.raises(ConfigError, match="another process evaluates shard 0/2"):
            Ledger(tmp_path, Shard(0, 2))
        Ledger(tmp_path, Shard(1, 2)).close()
    Ledger(tmp_path, Shard(0, 2)).close()


def test_a_folder_that_cannot_be_written(tmp_path):
    """Guards against hours of evaluation whose results go nowhere."""
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "results"):
        with pytest.raises(CheckpointError, match=r"cannot be written.*--gin\.SCAN_OUTPUT_DIR"):
            prepare_output_dir(str(folder))
    with pytest.raises(ConfigError, match="a bucket does not allow"):
        prepare_output_dir("gs://bucket/scan")
    assert list(prepare_output_dir(str(tmp_path / "new" / "folder")).iterdir()) == []


def test_a_disk_that_is_full(tmp_path, monkeypatch):
    """Guards against a line of which the beginning alone is written, and against a traceback."""
    with Ledger(tmp_path, Shard()) as ledger:
        ledger.append(entry("a"))
        with monkeypatch.context() as patch:
            real = os.write
            patch.setattr(os, "write", lambda file, line: real(file, line[:5]))
            with pytest.raises(CheckpointError, match="cannot be written"):
                ledger.append(entry("b"))
    with Ledger(tmp_path, Shard()) as ledger:
        ledger.append(entry("c"))
    assert set(read_ledgers(tmp_path)) == {"a", "c"}


def test_a_file_is_replaced_whole(tmp_path):
    """Guards against results that a reader finds half written."""
    path = tmp_path / "results.jsonl"
    texts = {json.dumps({"number": number, "filler": "x" * 200_000}) for number in range(2)}
    write_atomically(path, min(texts))
    done = threading.Event()

    def write():
        for _ in range(20):
            for text in texts:
                write_atomically(path, text)
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not done.is_set():
        assert path.read_text() in texts
    thread.join()
    assert [file.name for file in tmp_path.iterdir()] == ["results.jsonl"]
