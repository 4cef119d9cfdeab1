"""Tests of what a report shows: contents, variants, summary and tables."""

import pytest

from famjax.errors import DataError
from famjax.evaluation.report.contents import collect, reach
from famjax.evaluation.report.flat_files import markdown_text
from famjax.evaluation.report.merging import read_scans
from famjax.evaluation.report.summary import answers, best, explanation, sentence
from famjax.evaluation.report.tables import cut_table, failure_table, length_table, model_table, step_table
from famjax.evaluation.report.variants import run_of
from report_scans import BSWA, FAM, bswa, cell, demo_cells, estimate, failed, rolling, write_scan


@pytest.fixture
def contents_of(tmp_path):
    """The contents of a report of one scan with these cells, or of several by name."""

    def make(cells, *, metric=None, trained_lengths=None, threshold=0.8):
        scans = cells if isinstance(cells, dict) else {"scan": cells}
        folders = {name: str(write_scan(tmp_path / name, entries)) for name, entries in scans.items()}
        results = folders if isinstance(cells, dict) else list(folders.values())
        options = {"trained_lengths": trained_lengths, "metric": metric, "threshold": threshold}
        return collect(read_scans(results), title="", **options)

    return make


def labels(contents):
    """The names of the variants."""
    return [variant.label for variant in contents.variants]


def test_a_length_is_the_mean_over_its_depths_and_seeds(contents_of):
    """Guards against one depth that stands for all, and against depths of other lengths in the mean."""
    rights = {(256, 0.0): 16, (256, 1.0): 8, (512, 0.0): 4, (512, 1.0): 0}
    contents = contents_of([cell(right, length=length, depth=depth) for (length, depth), right in rights.items()])
    (task,), (variant,) = contents.tasks, contents.variants
    curve = task.curve(variant, "exact_match")
    assert [(length, curve[length].estimate.value, curve[length].estimate.n) for length in curve] == [
        (256, 0.75, 32),
        (512, 0.125, 32),
    ]
    points = task.by_depth(variant, "exact_match")
    assert {key: point.estimate.value * 16 for key, point in points.items()} == rights
    assert "mean over 2 depths" in length_table(contents, task, "exact_match").caption


def test_the_latest_step_is_shown_and_the_others_are_a_history(contents_of):
    """Guards against a mean over training steps, and against an early checkpoint that passes for the model."""
    steps = [(50, 2), (200, 16), (100, 8)]
    named = [{"step": step, "checkpoint": f"runs/fam/checkpoint_{step}"} for step, _ in steps]
    cells = [
        cell(right, length=length, **at) for (_, right), at in zip(steps, named, strict=True) for length in (256, 512)
    ]
    contents = contents_of([*cells, failed("RuntimeError: x", step=300, checkpoint="runs/fam/checkpoint_300")])
    (task,), (variant,) = contents.tasks, contents.variants
    assert (variant.step, variant.steps, variant.checkpoint) == (200, (50, 100, 200), "runs/fam/checkpoint_200")
    assert task.curve(variant, "exact_match")[256].estimate.value == 1.0
    history = task.by_step(variant, "exact_match")[512]
    assert {step: point.estimate.value for step, point in history.items()} == {50: 0.125, 100: 0.5, 200: 1.0}
    table = step_table(task, variant)
    assert [label for label, _ in table.rows] == ["50", "100", "200", "300"]
    assert len(contents.failed) == 1


def test_positions_are_those_of_the_longest_documents(contents_of):
    """Guards against positions of documents of different lengths in one curve."""
    cells = [rolling(3.0, length=512), rolling(2.0), rolling(1.0, seed=1)]
    (task,) = (contents := contents_of(cells)).tasks
    parts = task.by_position(contents.variants[0])
    assert [(part.begin, part.end, part.loss, part.tokens) for part in parts] == [
        (0, 512, 2.0, 16384),
        (512, 1024, 1.0, 16384),
    ]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ({}, {"model": "BSWA"}, ["FAM", "BSWA"]),
        ({}, {"memory": {**FAM, "block_size": 128}}, ["FAM, M=0, C=64", "FAM, M=0, C=128"]),
        ({}, {"memory": {**FAM, "fam_length": 4}}, ["FAM, M=0, C=64, F=8", "FAM, M=0, C=64, F=4"]),
        ({}, {"checkpoint": "other/fam/checkpoint_100"}, ["FAM (runs/fam)", "FAM (other/fam)"]),
        ({}, {"checkpoint": "runs/pilot/checkpoint_100"}, ["FAM (fam)", "FAM (pilot)"]),
        ({}, {"checkpoint": "runs/fam/checkpoint_200", "step": 200}, ["FAM"]),
        ({"model": "A, B"}, {"model": "A, B", "memory": BSWA}, ["A, B, M=0, C=64, F=8", "A, B, M=1, C=64, F=0"]),
    ],
)
def test_names_tell_models_apart(contents_of, first, second, expected):
    """Guards against two lines of one name, and against names that are longer than it takes."""
    assert labels(contents_of([cell(**first), cell(length=512, **second)])) == expected


def test_named_scans_are_told_apart(contents_of):
    """Guards against a model before and after a change in one line."""
    assert labels(contents_of({"before": [cell(8)], "after": [cell(16)]})) == ["FAM (before)", "FAM (after)"]


def test_the_folder_of_a_checkpoint():
    """Guards against steps of one training that pass for several models."""
    assert run_of("runs/fam/checkpoint_100") == run_of("runs/fam/checkpoint_2000/") == "runs/fam"
    assert run_of("runs/fam_final") == "runs/fam_final"


@pytest.mark.parametrize(
    ("rights", "expected"),
    [
        ({256: 64, 512: 64, 1024: 64}, (1024, 1024, 1024)),
        ({256: 64, 512: 54, 1024: 20}, (512, 256, 1024)),
        ({256: 64, 512: 20, 1024: 64}, (256, 256, 1024)),  # not 1024: it fails in between
        ({256: 20, 512: 64}, (None, None, 512)),
    ],
)
def test_how_long_a_text_may_be(contents_of, rights, expected):
    """Guards against a length that is held although a shorter one is not, and against certainty from few examples."""
    contents = contents_of([cell(right, n=64, length=length) for length, right in rights.items()])
    found = reach(contents.tasks[0].curve(contents.variants[0], "exact_match"), 0.8)
    assert (found.held, found.sure, found.longest) == expected


def test_a_failed_length_ends_what_is_held(contents_of):
    """Guards against a length that is held although a shorter one could not be evaluated."""
    cells = [cell(length=256), failed("RuntimeError: x", length=512), cell(length=1024)]
    contents = contents_of(cells)
    assert reach(contents.tasks[0].curve(contents.variants[0], "exact_match"), 0.8).held == 256


def test_sentences_say_who_does_best(contents_of):
    """Guards against a summary that names the wrong model, or a winner where there is none."""
    cells = [cell(length=256), cell(length=512), bswa(16, length=256), bswa(0, length=512)]
    contents = contents_of(cells, trained_lengths=(64, 128))
    (task,) = contents.tasks
    assert sentence(contents, task) == (
        "passkey: FAM holds up longest, to 512 tokens, the longest length evaluated, "
        "4 times the longest text of the training."
    )
    assert [variant.label for variant in best(answers(contents, task))] == ["FAM"]
    contents = contents_of([cell(), bswa(16)])
    assert sentence(contents, contents.tasks[0]).startswith("passkey: all models hold up to 256 tokens")
    assert best(answers(contents, contents.tasks[0])) == ()
    contents = contents_of([cell(1), bswa(0)])
    assert "no model reaches exact match 0.8 at its shortest length, 256 tokens" in sentence(
        contents, contents.tasks[0]
    )


def test_depths_that_differ_are_told_apart(contents_of):
    """Guards against a model that finds what lies at the beginning and is said to find nothing."""
    lengths = (256, 512, 1024)
    at_beginning = [cell(right, length=n, depth=0.0) for n, right in zip(lengths, (16, 15, 3), strict=True)]
    elsewhere = [cell(0, length=n, depth=depth) for n in lengths for depth in (0.5, 1.0)]
    nothing = [bswa(0, length=n, depth=depth) for n in lengths for depth in (0.0, 0.5, 1.0)]
    contents = contents_of([*at_beginning, *elsewhere, *nothing], trained_lengths=(64, 128))
    (task,) = contents.tasks
    assert sentence(contents, task) == (
        "passkey: no model reaches exact match 0.8 over all depths at its shortest length, 256 tokens; FAM does at "
        "depth 0, up to 512 tokens, 4 times the longest text of the training."
    )
    details = {variant.label: answer.detail for variant, answer in answers(contents, task).items()}
    assert details["FAM"].endswith("at 256; by depth: 512 at 0, none at 0.5 and 1")
    assert "by depth" not in details["BSWA"]


def test_a_smaller_loss_is_better(contents_of):
    """Guards against a summary that praises the worse model."""
    cells = [rolling(2.0), rolling(2.5, model="BSWA", checkpoint="runs/bswa", memory=BSWA)]
    contents = contents_of(cells, metric="loss")
    assert sentence(contents, contents.tasks[0]).startswith(
        "books: FAM has the lowest loss, 2.00 [1.98, 2.02] at 1,024"
    )
    contents = contents_of(cells, metric="perplexity")
    assert "FAM has the lowest perplexity" in sentence(contents, contents.tasks[0])


def test_another_metric_is_shown(contents_of):
    """Guards against an override that changes nothing, and against tasks that vanish in silence."""
    contents = contents_of([cell(), rolling()], metric="loss")
    assert [(task.name, task.metric) for task in contents.tasks] == [("books", "loss")]
    assert contents.left_out == {"passkey": ("exact_match",)}
    message = (
        r"No cell has the metric 'rouge_l' \(--gin\.ReportJob\.metric\); there are exact_match, token_accuracy, loss"
    )
    with pytest.raises(DataError, match=message):
        contents_of([cell(), rolling()], metric="rouge_l")


def test_one_document_has_no_intervals(contents_of):
    """Guards against words on intervals where there is none, and a best one of a single model."""
    alone = {"exact_match": {**estimate(1, 1), "ci95": ["NaN", "NaN"]}}
    contents = contents_of([cell(metrics=alone, length=length) for length in (256, 512)])
    (task,), (variant,) = contents.tasks, contents.variants
    found = answers(contents, task)
    assert (found[variant].headline, found[variant].detail) == ("≥ 512", "")
    assert best(found) == ()
    texts = [explanation(contents), sentence(contents, task), markdown_text(contents, {})]
    assert not any(word in text for text in texts for word in ("interval", "surely", "**"))
    several = contents_of([cell(length=length) for length in (256, 512)])
    assert "surely" in explanation(several)
    assert "with 95 % confidence intervals" in markdown_text(several, {})


def test_failures_of_one_kind_stand_together(contents_of):
    """Guards against a list of failures that nobody reads, and against one that leaves cells out."""
    cells = [
        failed("RuntimeError: out of memory", length=length, depth=depth)
        for length in (256, 512)
        for depth in (0.0, 1.0)
    ]
    contents = contents_of([cell(length=128), *cells, failed("DataError: short", length=1024)])
    assert failure_table(contents).rows == (
        (
            "FAM",
            "passkey",
            "4 cells: length 256, 512; depth 0.0, 1.0; seed 0; step 100",
            "RuntimeError: out of memory",
        ),
        ("FAM", "passkey", "1 cell: length 1,024; seed 0; step 100", "DataError: short"),
    )


def test_a_report_of_failures_alone(contents_of):
    """Guards against a traceback where not one cell finished."""
    contents = contents_of([failed("RuntimeError: x", memory=None, step=None, parameters=None, checkpoint=None)])
    assert contents.tasks == ()
    assert contents.title == "Evaluation on passkey"
    assert failure_table(contents).rows == (("FAM", "passkey", "1 cell: length 256; seed 0", "RuntimeError: x"),)


def test_cut_prompts_are_told(contents_of):
    """Guards against prompts that were cut in silence."""
    cut = {"cut_examples": 12, "cut_tokens": 3100}
    contents = contents_of([cell(n=64, **cut), cell(length=512), bswa(n=64, **cut), bswa(length=512)])
    expected = ("passkey", "256", "12 of 64 prompts were cut by 3,100 tokens", "every model")
    assert cut_table(contents).rows == (expected,)
    contents = contents_of([cell(n=64, **cut), bswa(n=64)])
    assert cut_table(contents).rows == ((*expected[:3], "FAM"),)


def test_settings_of_the_models(contents_of):
    """Guards against a report that does not say what was evaluated."""
    table = model_table(contents_of(demo_cells()))
    assert table.columns == ("model", "checkpoint", "steps", "parameters", "block size", "num segments", "fam length")
    assert table.rows[0] == ("FAM", "runs/fam/checkpoint_100", "50, 100", "123,456", "64", "0", "8")
    assert table.rows[1] == ("BSWA", "runs/bswa/checkpoint_100", "100", "123,456", "64", "1", "0")


def test_tasks_without_lengths(contents_of):
    """Guards against a traceback for tasks of lm-evaluation-harness, which have neither length nor depth."""
    metrics = {"acc,none": estimate(12, 16), "acc_norm,none": estimate(10, 16)}
    cells = [cell(task="arc", length=None, seed=None, metric="acc,none", metrics=metrics)]
    contents = contents_of(cells)
    (task,) = contents.tasks
    assert task.lengths == ()
    assert task.overall(contents.variants[0], "acc,none").estimate.value == 0.75
    assert sentence(contents, task) == "arc: FAM 0.75 (acc)."
