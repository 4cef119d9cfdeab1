"""Tests of famjax.evaluation.compare."""

import json

import pytest

from famjax.errors import ConfigError, DataError
from famjax.evaluation.compare import PICTURE_NAME, compare
from famjax.evaluation.config import CompareJob
from famjax.evaluation.evaluate import RESULTS_NAME


def write_results(folder, values) -> str:
    """Results of an evaluation: exact match by length."""
    folder.mkdir()
    lines = [json.dumps({"length": length, "exact_match": value, "loss": 1.5}) for length, value in values.items()]
    (folder / RESULTS_NAME).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return str(folder)


@pytest.fixture
def job(tmp_path):
    """FAM and BSWA, evaluated at lengths that differ in part."""
    fam = write_results(tmp_path / "fam", {256: 1.0, 512: 0.9375, 1024: 0.5})
    bswa = write_results(tmp_path / "bswa", {256: 0.25, 512: 0.0})
    return CompareJob(results={"FAM": fam, "BSWA": bswa}, output_dir=str(tmp_path / "out"), trained_lengths=(100, 512))


def test_table_and_picture(job, tmp_path, capsys):
    """Guards against values under the wrong length or name, and against a picture that is not written."""
    compare(job)
    rows = [line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines()]
    assert ["256", "(trained)", "1.000", "0.250"] in rows
    assert ["512", "(trained)", "0.938", "0.000"] in rows
    assert ["1024", "0.500"] in rows
    picture = (tmp_path / "out" / PICTURE_NAME).read_bytes()
    assert picture.startswith(b"\x89PNG")
    compare(job)
    assert (tmp_path / "out" / PICTURE_NAME).read_bytes() == picture


def test_other_results_give_another_picture(job, tmp_path):
    """Guards against a picture that does not show the results."""
    compare(job)
    before = (tmp_path / "out" / PICTURE_NAME).read_bytes()
    write_results(tmp_path / "better", {256: 1.0, 512: 1.0})
    better = {**job.results, "BSWA": str(tmp_path / "better")}
    compare(CompareJob(results=better, output_dir=job.output_dir, trained_lengths=job.trained_lengths))
    assert (tmp_path / "out" / PICTURE_NAME).read_bytes() != before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "evaluate first"),
        ("", "is empty"),
        ("{broken\n", "line 1: not a result"),
        ('{"length": 3, "loss": 1.0}\n', "no 'exact_match'"),
    ],
)
def test_results_that_cannot_be_read(text, message, tmp_path):
    """Guards against a traceback, or an empty picture, where an evaluation is missing or broken."""
    (tmp_path / "run").mkdir()
    if text is not None:
        (tmp_path / "run" / RESULTS_NAME).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        compare(CompareJob(results={"run": str(tmp_path / "run")}, output_dir=str(tmp_path)))


def test_nothing_to_compare():
    """Guards against an empty picture."""
    with pytest.raises(ConfigError, match=r"CompareJob\.results is empty"):
        CompareJob(results={}, output_dir="c")
