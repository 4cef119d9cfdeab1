"""Tests of famjax.evaluation.report.merging and of the cells that it reads."""

import math

import pytest

from famjax.errors import DataError
from famjax.evaluation.report.merging import merge, read_scans
from report_scans import bswa, cell, estimate, failed, rolling, write_scan


def merged(*scans):
    """The cells of the scans in these folders."""
    return [one for _, one in merge(read_scans([str(scan) for scan in scans]))]


def test_a_cell_is_read_as_it_is_written(tmp_path):
    """Guards against a field that ends up in another, or is lost."""
    (one, two) = merged(write_scan(tmp_path / "a", [cell(15, depth=0.5, cut_examples=12, cut_tokens=3100), rolling()]))
    assert (one.model, one.task, one.length, one.depth, one.seed) == ("FAM", "passkey", 256, 0.5, 0)
    assert dict(one.memory) == {"block_size": 64, "num_segments": 0, "fam_length": 8}
    found = one.metrics["exact_match"]
    assert (found.value, found.n) == (0.9375, 16)
    assert (found.low, found.high) == pytest.approx((0.7167, 0.9889), abs=1e-4)
    assert (one.cut_examples, one.cut_tokens, one.prompt_tokens, one.generated_tokens) == (12, 3100, 4000, 80)
    assert [(part.begin, part.end, part.loss) for part in two.by_position] == [(0, 512, 2.5), (512, 1024, 1.5)]


def test_numbers_that_are_not_finite_or_not_known(tmp_path):
    """Guards against a traceback for a diverged model, one example, or a harness metric without standard error."""
    metrics = {
        "loss": {"value": "Infinity", "stderr": "NaN", "ci95": ["NaN", "NaN"], "n": 1},
        "other": {"value": 3, "stderr": None, "ci95": None, "n": 1},
    }
    (one,) = merged(write_scan(tmp_path / "a", [cell(metric="loss", metrics=metrics, length=None, seed=None)]))
    assert one.metrics["loss"].value == math.inf
    assert math.isnan(one.metrics["loss"].low)
    assert math.isnan(one.metrics["other"].stderr)
    assert not one.metrics["other"].has_interval
    assert one.length is None


def test_cells_of_two_scans_are_put_together(tmp_path):
    """Guards against a cell that counts twice, and against one that is lost."""
    first = write_scan(tmp_path / "a", [cell(15), bswa(1)])
    second = write_scan(tmp_path / "b", [bswa(1), bswa(2, length=512)])
    found = merged(first, second)
    assert [(one.model, one.length) for one in found] == [("FAM", 256), ("BSWA", 256), ("BSWA", 512)]
    assert merged(first, first) == merged(first)


def test_a_finished_cell_stands_for_a_failed_one(tmp_path):
    """Guards against a failure in the report that a later scan has mended, whichever comes first."""
    broken = write_scan(tmp_path / "a", [failed("RuntimeError: out of memory")])
    whole = write_scan(tmp_path / "b", [cell(15)])
    for order in ((broken, whole), (whole, broken)):
        (one,) = merged(*order)
        assert one.is_done
    (one,) = merged(broken, broken)
    assert one.error == "RuntimeError: out of memory"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"metrics": {"exact_match": estimate(14, 16)}},
            r"exact_match is 0\.9375 at .*a/results\.jsonl, line 2, 0\.875",
        ),
        ({"cut_examples": 3}, "cut_examples is 0 at"),
        ({"examples": 17}, "examples is 16 at"),
    ],
)
def test_scans_that_disagree(tmp_path, change, message):
    """Guards against a mean over results of different code or data."""
    first = write_scan(tmp_path / "a", [bswa(0), cell(15, depth=0.5)])
    second = write_scan(tmp_path / "b", [{**cell(15, depth=0.5), **change}])
    with pytest.raises(DataError, match=rf"disagree on FAM \(runs/fam.*depth 0\.5, seed 0: {message}") as error:
        merged(first, second)
    assert len(str(error.value).splitlines()) == 2


def test_named_scans_may_disagree(tmp_path):
    """Guards against two scans that cannot be compared because they have the same cells."""
    folders = {"before": write_scan(tmp_path / "a", [cell(8)]), "after": write_scan(tmp_path / "b", [cell(16)])}
    found = merge(read_scans({name: str(folder) for name, folder in folders.items()}))
    assert [(name, one.metrics["exact_match"].value) for name, one in found] == [("before", 0.5), ("after", 1.0)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"there is no results\.jsonl; scan first"),
        ("", "is empty; scan first"),
        ("\n\n", "is empty; scan first"),
        ("{broken\n", r"results\.jsonl, line 1: not JSON"),
        ("[1]\n", "line 1: the line is not a JSON object"),
        ('{"length": 3, "loss": 1.0}\n', "line 1: not a cell of a scan: status is missing"),
        (b"\xff\xfe{", "not the results of a scan.*utf-8"),
    ],
)
def test_results_that_cannot_be_read(text, message, tmp_path):
    """Guards against a traceback, or an empty report, where a scan is missing or broken."""
    (tmp_path / "run").mkdir()
    if text is not None:
        (tmp_path / "run/results.jsonl").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message) as error:
        read_scans([str(tmp_path / "run")])
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": None}, "model = None; expected a string"),
        ({"length": "long"}, "length = 'long'; expected a whole number"),
        ({"length": True}, "length = True; expected a whole number"),
        ({"depth": "deep"}, "depth = 'deep'; expected a number"),
        ({"status": "running"}, "status = 'running'; expected 'done' or 'failed'"),
        ({"metric": "rouge_l"}, "metric = 'rouge_l'; expected one of its metrics, exact_match"),
        ({"metrics": {"exact_match": {"value": 1.0}}}, r"metrics\['exact_match'\]\.n is missing"),
        ({"metrics": {"exact_match": {**estimate(1, 2), "ci95": [0.5]}}}, "ci95 = .*expected two numbers"),
        ({"metrics": {"exact_match": {**estimate(1, 2), "ci95": [0.5, "x"]}}}, r"ci95\.high = 'x'; expected a number"),
        ({"metrics": {"exact_match": {**estimate(1, 2), "n": 0}}}, "n = 0; expected 1 or more"),
        ({"metrics": {"exact_match": 1.0}}, r"metrics\['exact_match'\] is not a JSON object"),
        ({"by_position": [{"begin": 0}]}, r"by_position\[0\]\.end is missing"),
        ({"examples": 1.5}, "examples = 1.5; expected a whole number"),
    ],
)
def test_a_field_that_is_wrong(change, message, tmp_path):
    """Guards against a traceback, and against a wrong number in the report, for results that somebody has edited."""
    folder = write_scan(tmp_path / "run", [cell(), {**cell(length=512), **change}])
    with pytest.raises(DataError, match=rf"results\.jsonl, line 2: .*{message}") as error:
        read_scans([str(folder)])
    assert len(str(error.value).splitlines()) == 1
