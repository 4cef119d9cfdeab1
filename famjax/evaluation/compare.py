"""Puts evaluations side by side, in a table and in a picture: `compare(job)` is `--run_mode=compare`."""

import json
from typing import Any

from etils import epath
from rich.console import Console
from rich.table import Table

from famjax.errors import CheckpointError, DataError
from famjax.evaluation.config import CompareJob
from famjax.evaluation.evaluate import RESULTS_NAME
from famjax.training.checkpoint_files import absolute_path

PICTURE_NAME = "comparison.png"
_MOST_LEVEL_TICKS = 8  # more labels than these are turned, so that they do not meet
Results = dict[str, dict[int, dict[str, Any]]]


def compare(job: CompareJob) -> None:
    """Reads the results of several evaluations, prints them as one table, and draws the metric against the length.

    Raises:
      DataError: a folder has no results, or they lack the metric.
      CheckpointError: the output folder cannot be written.
    """
    results = {name: _read(name, folder, job.metric) for name, folder in job.results.items()}
    path = _prepare(job.output_dir)
    console = Console()
    console.print(comparison_table(results, job))
    draw(results, job, path)
    console.print(f"picture: {path}", highlight=False, soft_wrap=True)


def comparison_table(results: Results, job: CompareJob) -> Table:
    """One row for each length, one column for each evaluation."""
    table = Table("length", *results, title=f"{_words(job.metric)} by length in tokens")
    for length in _lengths(results):
        row = [by_length.get(length) for by_length in results.values()]
        trained = " (trained)" if _was_trained(length, job) else ""
        table.add_row(f"{length}{trained}", *("" if entry is None else f"{entry[job.metric]:.3f}" for entry in row))
    return table


def draw(results: Results, job: CompareJob, path: epath.Path) -> None:
    """Draws the metric against the length, on a logarithmic axis, the lengths of the training shaded."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.2), dpi=150)
    axes = figure.subplots()
    if job.trained_lengths is not None:
        axes.axvspan(*job.trained_lengths, color="0.92", label="lengths in training", zorder=0)
    colors = ("#0b6e99", "#d1495b", "#edae49", "#66a182", "#7d5ba6")
    for index, (name, by_length) in enumerate(results.items()):
        lengths = sorted(by_length)
        values = [by_length[length][job.metric] for length in lengths]
        color = colors[index % len(colors)]
        axes.plot(lengths, values, marker="o", markersize=5, linewidth=2, color=color, label=name, clip_on=False)
    ticks = _lengths(results)
    axes.set_xscale("log", base=2)
    turned: dict[str, Any] = {"rotation": 30, "ha": "right"} if len(ticks) > _MOST_LEVEL_TICKS else {}
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks], **turned)
    axes.minorticks_off()
    if job.metric != "loss":  # the others are fractions
        axes.set_ylim(0, 1.02)
    axes.set_xlabel("length of the text (tokens)")
    axes.set_ylabel(_words(job.metric))
    if job.title:
        axes.set_title(job.title, loc="left", fontsize=11)
    axes.grid(axis="y", color="0.88")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=True, framealpha=1, facecolor="white", edgecolor="white", loc="center left")
    figure.tight_layout()
    # Without the version of matplotlib in the file, the same results give the same bytes.
    figure.savefig(path, metadata={"Software": None})


def _read(name: str, folder: str, metric: str) -> dict[int, dict[str, Any]]:
    """The results of one evaluation by length; of a length evaluated twice, the last."""
    path = absolute_path(folder) / RESULTS_NAME
    if not path.is_file():
        raise DataError(f"CompareJob.results[{name!r}]: there is no {path}; evaluate first (--run_mode=eval).")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not the results of an evaluation ({error}); evaluate again.") from error
    by_length = {}
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            by_length[int(entry["length"])] = entry
            if metric in entry:
                entry[metric] = float(entry[metric])  # a number that is not finite is written as its name
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}, line {number}: not a result of an evaluation ({error!r}).") from error
        if metric not in entry:
            raise DataError(
                f"{path}, line {number}: no {metric!r} (--gin.CompareJob.metric); it has {', '.join(entry)}."
            )
    if not by_length:
        raise DataError(f"{path} is empty; evaluate first (--run_mode=eval).")
    return by_length


def _prepare(output_dir: str) -> epath.Path:
    """Where the picture goes, made sure that it can be written; one that is there stays until it is drawn anew."""
    path = absolute_path(output_dir) / PICTURE_NAME
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()
    except OSError as error:
        raise CheckpointError(
            f"{output_dir} cannot be written ({error.strerror or error}). Set --gin.CompareJob.output_dir to another."
        ) from error
    return path


def _lengths(results: Results) -> list[int]:
    return sorted({length for by_length in results.values() for length in by_length})


def _was_trained(length: int, job: CompareJob) -> bool:
    return job.trained_lengths is not None and job.trained_lengths[0] <= length <= job.trained_lengths[1]


def _words(metric: str) -> str:
    return metric.replace("_", " ")
