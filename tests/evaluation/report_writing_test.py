"""Tests of famjax.evaluation.report.writing and of the files it writes."""

import csv
import io
import os
import subprocess
import sys

import pytest

from famjax.errors import CheckpointError, ConfigError, DataError
from famjax.evaluation.report import writing as module
from famjax.evaluation.report.config import ReportJob
from famjax.evaluation.report.contents import Point
from famjax.evaluation.report.drawing import Picture
from famjax.evaluation.report.formatting import interval, mean, number, safe_name, with_interval, words
from famjax.evaluation.report.merging import read_scans
from famjax.evaluation.report.writing import report, write_report
from report_scans import bswa, cell, demo_cells, estimate, failed, rolling, write_scan

WRITE = """\
import sys
from famjax.evaluation.report.writing import write_report
write_report([sys.argv[1]], sys.argv[2])"""


@pytest.fixture
def undrawn(monkeypatch):
    """Pictures without content: drawing takes time."""

    def draw_all(contents):
        kinds = [("accuracy", ""), *(("heatmap", variant.label) for variant in contents.variants)]
        return tuple(
            Picture(kind, task.name, subject, f"alt of {kind}", "<svg></svg>", b"png", 10, 10)
            for task in contents.tasks
            for kind, subject in kinds
        )

    monkeypatch.setattr(module, "draw_all", draw_all)


@pytest.fixture
def scan(tmp_path):
    """The folder of the demo's scan."""
    return write_scan(tmp_path / "scan", demo_cells())


def test_the_same_results_give_the_same_bytes(tmp_path):
    """Guards against times, random ids and the order of sets in what is written."""
    scan = write_scan(tmp_path / "scan", [cell(depth=0.0), cell(depth=1.0, step=50), cell(depth=1.0), rolling()])
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", WRITE, str(scan), str(tmp_path / seed)], env=environment, check=True)
    first, second = (
        {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "1", tmp_path / "2")
    )
    assert first == second
    assert set(first) == {
        "report.html",
        "results.csv",
        "results.md",
        "pictures/accuracy-books.png",
        "pictures/accuracy-passkey.png",
        "pictures/heatmap-FAM-passkey.png",
        "pictures/positions-books.png",
        "pictures/steps-FAM-passkey.png",
    }


@pytest.mark.usefixtures("undrawn")
def test_the_run_mode_prints_what_it_found(scan, tmp_path, capsys):
    """Guards against values under the wrong length or name in the terminal."""
    report(ReportJob(results=(str(scan),), output_dir=str(tmp_path / "out"), trained_lengths=(100, 256)))
    output = capsys.readouterr().out
    rows = [line.replace("│", " ").split() for line in output.splitlines()]
    assert ["256,", "trained", "1.00", "1.00"] in rows
    assert ["512", "0.94", "0.06"] in rows
    assert ["1,024", "0.88", "0.00"] in rows
    assert "passkey: FAM holds up longest, to 1,024 tokens" in output
    assert "1 cell failed: see the report." in output
    assert f"report: {tmp_path / 'out/report.html'}" in output


@pytest.mark.usefixtures("undrawn")
def test_csv(scan, tmp_path):
    """Guards against columns that differ from row to row, and against a metric in the column of another."""
    paths = write_report([str(scan)], str(tmp_path / "out"))
    rows = list(csv.DictReader(io.StringIO(paths.csv.read_text(encoding="utf-8"))))
    assert len(rows) == len(demo_cells())
    first, (broken,), last = rows[0], [row for row in rows if row["status"] == "failed"], rows[-1]
    assert (first["model"], first["task"], first["length"], first["depth"]) == ("FAM", "passkey", "256", "0.0")
    assert (first["block_size"], first["num_segments"], first["fam_length"]) == ("64", "0", "8")
    assert (first["metric"], first["value"], first["n"], first["exact_match"]) == ("exact_match", "1.0", "16", "1.0")
    assert float(first["ci95_low"]) == float(first["exact_match_ci95_low"]) == pytest.approx(0.806, abs=1e-3)
    assert (first["loss"], last["exact_match"]) == ("", "")
    assert (last["metric"], last["value"], last["loss"]) == ("token_accuracy", "0.375", "2.5")
    assert (broken["error"], broken["value"], broken["prompt_tokens"]) == ("RuntimeError: out of memory", "", "")


@pytest.mark.usefixtures("undrawn")
def test_markdown(scan, tmp_path):
    """Guards against intervals of one depth beside the mean of all, and against pictures that are not there."""
    paths = write_report([str(scan)], str(tmp_path / "out"), trained_lengths=(100, 256))
    lines = paths.markdown.read_text(encoding="utf-8").splitlines()
    assert "| model | 256, trained | 512 | 1,024 |" in lines
    assert "| FAM | 1.00 [0.89, 1.00] | 0.94 [0.80, 0.98] | 0.88 [0.72, 0.95] |" in lines
    assert "| BSWA | 1.00 [0.89, 1.00] | 0.06 [0.02, 0.20] | 0.00 [0.00, 0.19] † |" in lines
    caption = "passkey: exact match by length in tokens, mean over 2 depths (their examples pooled)"
    assert f"{caption}, with 95 % confidence intervals:" in lines
    assert "| FAM | 2.00 [1.98, 2.02] |" in lines  # the loss of the books
    assert "| passkey | 256 | 12 of 32 prompts were cut by 3,100 tokens | FAM |" in lines
    assert any(line.startswith("| 50 | 0.12 [") for line in lines)
    assert "![alt of accuracy](pictures/accuracy-passkey.png)" in lines
    assert (tmp_path / "out/pictures/accuracy-passkey.png").is_file()


@pytest.mark.usefixtures("undrawn")
def test_markdown_shows_texts_as_they_are(tmp_path):
    """Guards against a name or an error that ends the cell of a table, or that is read as HTML."""
    entries = [cell(task="a|b"), failed("<b>\n| x | `y`", task="a|b", length=512)]
    text = write_report([str(write_scan(tmp_path / "s", entries))], str(tmp_path)).markdown.read_text(encoding="utf-8")
    assert r"\<b\>, \| x \| \`y\` |" in text
    assert r"## a\|b" in text


@pytest.mark.usefixtures("undrawn")
def test_several_scans_are_merged(tmp_path):
    """Guards against a report of the last scan alone."""
    folders = [write_scan(tmp_path / "a", [cell(8)]), write_scan(tmp_path / "b", [bswa(4)])]
    paths = write_report([str(folder) for folder in folders], str(tmp_path / "out"))
    text = paths.html.read_text(encoding="utf-8")
    assert "FAM 0.50" not in text
    assert all(value in paths.markdown.read_text(encoding="utf-8") for value in ("| FAM | 0.50 [", "| BSWA | 0.25 ["))
    assert "Scan 2 of 2" in text


@pytest.mark.usefixtures("undrawn")
def test_pictures_of_an_earlier_report_go(tmp_path):
    """Guards against pictures of models that the report no longer has, and against the loss of other files."""
    scan, out = tmp_path / "scan", tmp_path / "out"
    write_report([str(write_scan(scan, [cell(), bswa(task="gone")]))], str(out))
    (out / "pictures/mine.png").write_bytes(b"")
    paths = write_report([str(write_scan(scan, [cell()]))], str(out))
    left = {path.name for path in (out / "pictures").iterdir()}
    assert left == {"accuracy-passkey.png", "heatmap-FAM-passkey.png", "mine.png"}
    assert {path.name for path in paths.pictures} == left - {"mine.png"}


def test_a_folder_that_cannot_be_written(scan, tmp_path, monkeypatch):
    """Guards against a traceback, after the drawing, where the output folder is a file."""
    monkeypatch.setattr(module, "draw_all", lambda *arguments: pytest.fail("drawn before it is checked"))
    (tmp_path / "file").write_text("")
    (tmp_path / "taken" / "results.csv").mkdir(parents=True)
    for folder in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "taken"):
        with pytest.raises(CheckpointError, match=r"cannot be written.*--gin\.ReportJob\.output_dir") as error:
            write_report([str(scan)], str(folder))
        assert len(str(error.value).splitlines()) == 1


def test_a_metric_that_no_cell_has(scan, tmp_path):
    """Guards against an empty report, and against one that shows another metric than was asked for."""
    with pytest.raises(
        DataError, match=r"No cell has the metric 'rouge' \(--gin\.ReportJob\.metric\); there are exact_match"
    ):
        report(ReportJob(results=(str(scan),), output_dir=str(tmp_path / "out"), metric="rouge"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"results": ()}, r"ReportJob\.results is empty"),
        ({"results": {}}, r"ReportJob\.results is empty"),
        ({"output_dir": ""}, r"ReportJob\.output_dir is empty"),
        ({"trained_lengths": (512, 256)}, r"trained_lengths = \(512, 256\); allowed: \(shortest, longest\)"),
        ({"trained_lengths": (0, 256)}, "trained_lengths"),
        ({"threshold": 1.5}, r"ReportJob\.threshold = 1\.5; allowed: 0 to 1"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    """Guards against an empty report and an empty picture."""
    with pytest.raises(ConfigError, match=message):
        ReportJob(**{"results": ("scan",), "output_dir": "out", **settings})


def test_a_report_needs_no_jax(scan, tmp_path):
    """Guards against a report that takes half a minute to begin, or that cannot be written where there is no jax."""
    heavy = "print([name for name in ('jax', 'tensorflow', 'orbax', 'matplotlib.pyplot') if name in sys.modules])"
    write_scan(scan, [cell()])
    command = [sys.executable, "-c", f"{WRITE}; {heavy}", str(scan), str(tmp_path / "out")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("value", "half_width", "expected"),
    [
        (0.9375, 0.1, "0.94"),
        (0.9375, 0.004, "0.938"),
        (0.9375, 0.0004, "0.9375"),
        (1.0, 0.1, "1.00"),
        (0.9996, 0.1, "0.9996"),
        (0.0004, 0.1, "0.0004"),
        (float("nan"), float("nan"), "NaN"),
        (float("inf"), float("nan"), "infinite"),
    ],
)
def test_numbers(value, half_width, expected):
    """Guards against a 1.00 that is not perfect, and against digits that an interval does not bear out."""
    assert number(value, half_width) == expected


def test_values_without_an_interval(tmp_path):
    """Guards against "[NaN, NaN]" in a table."""
    metrics = {"score": {"value": 0.5, "stderr": "NaN", "ci95": ["NaN", "NaN"], "n": 1}}
    (scan,) = read_scans([str(write_scan(tmp_path, [cell(metric="score", metrics=metrics)]))])
    estimate = scan.cells[0].metrics["score"]
    assert (mean(estimate), interval(estimate)) == ("0.50", "")
    assert with_interval(Point(estimate, done=1, failed=0)) == "0.50"


def test_file_names():
    """Guards against a picture that overwrites another, leaves the folder, or that some file system refuses."""
    taken = set()
    names = [safe_name(text, taken) for text in ("a-FAM, M=0, C=64", "a/b", "a:b", "A b", "../../x", "§", "x" * 300)]
    assert names == ["a-FAM-M0-C64", "a-b", "a-b-2", "A-b-3", "x", "picture", "x" * 100]


def test_names_in_words():
    """Guards against metrics of lm-evaluation-harness with their commas."""
    assert [words(name) for name in ("exact_match", "acc_norm,none", "exact_match,strict")] == [
        "exact match",
        "acc norm",
        "exact match (strict)",
    ]


@pytest.mark.usefixtures("undrawn")
def test_tasks_of_the_harness(tmp_path):
    """Guards against tasks without lengths that no table has."""
    metrics = {"acc,none": estimate(12, 16)}
    entries = [cell(task="arc", length=None, seed=None, metric="acc,none", metrics=metrics), cell(), rolling()]
    paths = write_report([str(write_scan(tmp_path / "s", entries))], str(tmp_path / "out"))
    assert "| arc: acc | 0.75 [0.51, 0.90] |" in paths.markdown.read_text(encoding="utf-8")
    assert "arc: acc" in paths.html.read_text(encoding="utf-8")
