"""Tests of famjax.evaluation.compare."""

import dataclasses
import json

import pytest

from famjax.errors import CheckpointError, ConfigError, DataError
from famjax.evaluation import compare as module
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
        ('{"length": 3, "exact_match": "high"}\n', "line 1: not a result"),
        (b"\xff\xfe{", r"results\.jsonl: not the results.*utf-8"),
    ],
)
def test_results_that_cannot_be_read(text, message, tmp_path):
    """Guards against a traceback, or an empty picture, where an evaluation is missing or broken."""
    (tmp_path / "run").mkdir()
    if text is not None:
        (tmp_path / "run" / RESULTS_NAME).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message):
        compare(CompareJob(results={"run": str(tmp_path / "run")}, output_dir=str(tmp_path)))


def test_nothing_to_compare():
    """Guards against an empty picture."""
    with pytest.raises(ConfigError, match=r"CompareJob\.results is empty"):
        CompareJob(results={}, output_dir="c")


@pytest.fixture
def axes(monkeypatch):
    """The axes of the pictures that are drawn."""
    from matplotlib.figure import Figure

    drawn = []
    subplots = Figure.subplots

    def kept(figure):
        drawn.append(subplots(figure))
        return drawn[-1]

    monkeypatch.setattr(Figure, "subplots", kept)
    return drawn


def test_a_loss_lies_within_the_axis(job, axes):
    """Guards against a picture of losses that seems empty because its axis ends at 1, as that of a fraction."""
    compare(job)
    compare(dataclasses.replace(job, metric="loss"))
    (fractions, losses) = (each.get_ylim() for each in axes)
    assert fractions == (0, 1.02)
    assert losses[0] < 1.5 < losses[1]


@pytest.mark.parametrize(("count", "rotation"), [(8, 0), (9, 30)])
def test_few_lengths_stand_level(tmp_path, axes, count, rotation):
    """Guards against labels that are turned without need, or that meet."""
    folder = write_results(tmp_path / "run", {2**power: 0.5 for power in range(count)})
    compare(CompareJob(results={"run": folder}, output_dir=str(tmp_path / "out")))
    assert {label.get_rotation() for label in axes[0].get_xticklabels()} == {rotation}


def test_a_number_that_is_not_finite(tmp_path, capsys):
    """Guards against a traceback for a diverged run, whose loss is the string "NaN"."""
    folder = write_results(tmp_path / "run", {256: 0.5})
    (tmp_path / "run" / RESULTS_NAME).write_text('{"length": 256, "loss": "NaN"}\n')
    compare(CompareJob(results={"run": folder}, output_dir=str(tmp_path / "out"), metric="loss"))
    assert "nan" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written(job, tmp_path, monkeypatch):
    """Guards against a traceback, after the drawing, where the output folder is a file."""
    monkeypatch.setattr(module, "draw", lambda *arguments: pytest.fail("drawn before it is checked"))
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(CheckpointError, match=r"cannot be written.*--gin\.CompareJob\.output_dir"):
            compare(dataclasses.replace(job, output_dir=str(folder)))
