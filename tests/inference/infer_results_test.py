"""famjax.inference.results: what is on disk after each result, after a crash, and what is not continued."""

import io
import json
import sys
from pathlib import Path

import pytest

from famjax.errors import DataError
from famjax.inference.results import ResultsFile, open_results

SETTINGS = {"prompts": "digest", "sampling.temperature": 0.5, "model": {"emb_dim": 8}, "sampling.stop_strings": ("x",)}


def write(path, indices, settings=None, total=5):
    """One run that writes the results of these prompts; returns how many were there before."""
    with open_results(str(path)) as results:
        done = results.resume(settings or SETTINGS, total)
        for index in indices:
            results.write({"index": index, "text": "d\u00eda\u2028\n"})
    return done


def test_a_run_goes_on_behind_another(tmp_path):
    """Guards against results that are overwritten, doubled, or not counted."""
    path = tmp_path / "new" / "results.jsonl"
    assert write(path, [0, 1]) == 0
    assert write(path, [2, 3, 4]) == 2
    assert write(path, []) == 5
    lines = path.read_bytes().splitlines()
    assert [json.loads(line) for line in lines] == [{"index": i, "text": "d\u00eda\u2028\n"} for i in range(5)]


def test_each_result_is_on_disk_at_once(tmp_path):
    """Guards against results that a kill takes along, because they were in a buffer."""
    path = tmp_path / "results.jsonl"
    with open_results(str(path)) as results:
        results.resume(SETTINGS, 2)
        results.write({"index": 0})
        assert path.read_bytes() == b'{"index": 0}\n'


@pytest.mark.parametrize("torn", [b"{", b'{"index": 2, "text": "d', b'{"index": 2}'])
def test_a_torn_line_is_dropped(tmp_path, torn):
    """Guards against a line of two halves behind a kill in the middle of one."""
    path = tmp_path / "results.jsonl"
    write(path, [0, 1])
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert write(path, [2]) == 2
    assert path.read_bytes().startswith(whole + b'{"index": 2, "text"')
    assert path.read_bytes().count(b"\n") == 3


def test_results_of_something_else_are_not_continued(tmp_path):
    """Guards against a file whose halves are of different prompts, checkpoints or settings."""
    path = tmp_path / "results.jsonl"
    write(path, [0])
    before = path.read_bytes()
    other = SETTINGS | {"sampling.temperature": 1.0, "prompts": "other"}
    message = (
        r'of another run: prompts "digest" there, "other" here; sampling\.temperature 0\.5 there, 1\.0 here\.'
        r"\n  Set --gin\.OUTPUT_FILE to another, or remove it"
    )
    with pytest.raises(DataError, match=message):
        write(path, [1], other)
    lacking = {name: value for name, value in SETTINGS.items() if name != "model"}
    with pytest.raises(DataError, match=r'model {"emb_dim": 8} there, null here'):
        write(path, [1], lacking)
    assert path.read_bytes() == before
    path.write_bytes(b"")
    assert write(path, [0], other) == 0, "an empty file has results of nothing"


@pytest.mark.parametrize("settings", [None, "", "5", "{"])
def test_a_file_of_unknown_origin(tmp_path, settings):
    """Guards against results written behind a file that famjax did not write."""
    path = tmp_path / "results.jsonl"
    path.write_text('{"index": 0}\n')
    if settings is not None:
        (tmp_path / "results.jsonl.settings.json").write_text(settings)
    with pytest.raises(DataError, match="is not empty, and "):
        write(path, [1])
    assert path.read_text() == '{"index": 0}\n'


@pytest.mark.parametrize(
    "lines", [b'{"index": 1}\n', b"no JSON\n", b"[]\n", b'{"index": 0}\n{"index": 1}\n{"index": 2}\n']
)
def test_a_file_that_was_changed(tmp_path, lines):
    """Guards against results that stand at other lines than their prompts, or of more prompts than there are."""
    path = tmp_path / "results.jsonl"
    write(path, [0], total=2)
    path.write_bytes(lines)
    with pytest.raises(DataError, match=r"results\.jsonl:\d is not result \d of 2"):
        write(path, [], total=2)
    assert path.read_bytes() == lines


def test_places_that_cannot_be_written(tmp_path):
    """Guards against a run whose results go nowhere, found at the first of them."""
    (tmp_path / "file").write_text("")
    for path, message in (
        (tmp_path, r"is a folder, not a file\. Set --gin\.OUTPUT_FILE to a file, as"),
        (tmp_path / ("n" * 300), r"cannot be written \(File name too long\)\. Set --gin\.OUTPUT_FILE to another"),
        (tmp_path / "a\0b", r"cannot be written \(embedded null byte\)"),
        (tmp_path / "file" / "results.jsonl", r"cannot be written \(.*\)\. Set --gin\.OUTPUT_FILE to another"),
    ):
        with pytest.raises(DataError, match=message) as error, open_results(str(path)):
            pytest.fail("opened")
        assert error.value.exit_code == 3


def test_a_disk_that_takes_no_more():
    """Guards against a traceback, or a result that is counted and not written."""
    with Path("/dev/full").open("wb", buffering=0) as full:
        results = ResultsFile(Path("results.jsonl"), full)
        with pytest.raises(DataError, match=r"results\.jsonl cannot be written \(No space left on device\)"):
            results.write({"index": 0})


def test_one_run_at_a_time(tmp_path):
    """Guards against two runs whose lines mingle."""
    path = tmp_path / "results.jsonl"
    with (
        open_results(str(path)),
        pytest.raises(DataError, match="another run is writing there"),
        open_results(str(path)),
    ):
        pytest.fail("opened")
    write(path, [0])


def test_standard_output(monkeypatch):
    """Guards against results that stay in a buffer while the next is drawn, and a resume that skips prompts."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw))
    with open_results("-") as results:
        assert results.resume(SETTINGS, 5) == 0
        results.write({"index": 0, "text": "\u00ed"})
        assert json.loads(raw.getvalue()) == {"index": 0, "text": "\u00ed"}
