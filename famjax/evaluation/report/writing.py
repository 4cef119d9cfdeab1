"""Writes the report of scans: `report(job)` is `--run_mode=report`."""

import dataclasses
from collections.abc import Mapping, Sequence

from etils import epath
from rich.console import Console
from rich.table import Table
from rich.text import Text

from famjax.errors import CheckpointError
from famjax.evaluation.report.config import THRESHOLD, ReportJob
from famjax.evaluation.report.contents import Contents, collect
from famjax.evaluation.report.drawing import KINDS, Picture
from famjax.evaluation.report.flat_files import csv_text, markdown_text
from famjax.evaluation.report.formatting import safe_name, with_interval
from famjax.evaluation.report.merging import Folder, read_scans
from famjax.evaluation.report.page import page
from famjax.evaluation.report.pictures import draw_all
from famjax.evaluation.report.summary import sentence
from famjax.evaluation.report.tables import PointTable, length_table
from famjax.plurals import counted

HTML_NAME, MARKDOWN_NAME, CSV_NAME, PICTURES_NAME = "report.html", "results.md", "results.csv", "pictures"


@dataclasses.dataclass(frozen=True)
class Report:
    """A report, and where it was written.

    Attributes:
      contents: what it shows.
      html: the page with everything in it; it opens offline.
      markdown: tables with confidence intervals.
      csv: one row a cell.
      pictures: PNG files.
    """

    contents: Contents
    html: epath.Path
    markdown: epath.Path
    csv: epath.Path
    pictures: tuple[epath.Path, ...]


def report(job: ReportJob) -> None:
    """Writes the report of one scan or of several, and prints its summary.

    Raises:
      DataError: results are missing or broken, two scans disagree, or no cell has the metric.
      CheckpointError: the output folder cannot be written.
    """
    written = write_report(
        job.results,
        job.output_dir,
        title=job.title,
        trained_lengths=job.trained_lengths,
        metric=job.metric,
        threshold=job.threshold,
    )
    print_report(written)


def print_report(written: Report) -> None:
    """Prints tables by length, a sentence for each task, and where the report is."""
    contents, console = written.contents, Console()
    for task in contents.tasks:
        if task.lengths:
            table = length_table(contents, task, task.metric)
            console.print(f"\n{table.caption}", highlight=False, soft_wrap=True, markup=False)
            console.print(_terminal_table(table))
    lines = [sentence(contents, task) for task in contents.tasks]
    if contents.failed:
        lines.append(f"{counted(len(contents.failed), 'cell')} failed: see the report.")
    lines.append(f"report: {written.html}")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def write_report(
    results_dirs: Sequence[Folder] | Mapping[str, Folder],
    output_dir: Folder,
    *,
    title: str = "",
    trained_lengths: tuple[int, int] | None = None,
    metric: str | None = None,
    threshold: float = THRESHOLD,
) -> Report:
    """Writes report.html, results.md, results.csv and pictures/*.png; the same results give the same bytes.

    Args:
      results_dirs: output folders of scans, merged; or by the names that tell apart the same cells of several scans.
      output_dir: made where it does not exist. Pictures of an earlier report in it that this one lacks are deleted.
      title: of the report; empty: it names the tasks.
      trained_lengths: shortest and longest example of the training, shaded in the pictures.
      metric: shown of each task that has it; None: of each task its first one.
      threshold: a model holds up to the longest length at and below which its metric is this much or more.

    Raises:
      DataError: results are missing or broken, two scans disagree, or no cell has the metric.
      CheckpointError: the output folder cannot be written.
    """
    contents = collect(
        read_scans(results_dirs), title=title, trained_lengths=trained_lengths, metric=metric, threshold=threshold
    )
    folder = epath.Path(output_dir).expanduser()
    try:
        # What takes no time comes first: a folder that cannot be written is told before the pictures are drawn.
        pictures_dir = folder / PICTURES_NAME
        pictures_dir.mkdir(parents=True, exist_ok=True)
        (folder / CSV_NAME).write_text(csv_text(contents), encoding="utf-8")
        pictures = draw_all(contents)
        names = _file_names(pictures)
        for name, picture in zip(names, pictures, strict=True):
            (pictures_dir / name).write_bytes(picture.png)
        _delete_others(pictures_dir, names)
        links = _links(names, pictures)
        (folder / MARKDOWN_NAME).write_text(markdown_text(contents, links), encoding="utf-8")
        (folder / HTML_NAME).write_text(page(contents, pictures), encoding="utf-8")
    except OSError as error:
        raise CheckpointError(
            f"{output_dir} cannot be written ({error.strerror or error}). Set --gin.ReportJob.output_dir to another."
        ) from error
    return Report(
        contents=contents,
        html=folder / HTML_NAME,
        markdown=folder / MARKDOWN_NAME,
        csv=folder / CSV_NAME,
        pictures=tuple(pictures_dir / name for name in names),
    )


def _file_names(pictures: Sequence[Picture]) -> tuple[str, ...]:
    """accuracy-<task>.png, heatmap-<model>-<task>.png, ..., all different."""
    taken: set[str] = set()
    stems = ("-".join(filter(None, (picture.kind, picture.subject, picture.task))) for picture in pictures)
    return tuple(f"{safe_name(stem, taken)}.png" for stem in stems)


def _delete_others(pictures_dir: epath.Path, names: Sequence[str]) -> None:
    """Deletes the pictures of an earlier report, which would pass for pictures of this one."""
    for kind in KINDS:
        for path in pictures_dir.glob(f"{kind}-*.png"):
            if path.name not in names:
                path.unlink()


def _links(names: Sequence[str], pictures: Sequence[Picture]) -> dict[str, list[tuple[str, str]]]:
    """Of each task, (alternative text, path from the Markdown file) of its pictures."""
    links: dict[str, list[tuple[str, str]]] = {}
    for name, picture in zip(names, pictures, strict=True):
        links.setdefault(picture.task, []).append((picture.alt, f"{PICTURES_NAME}/{name}"))
    return links


def _terminal_table(table: PointTable) -> Table:
    """The other way round, as terminals are narrow: one row for each length, one column for each model."""
    shown = Table("length")
    for label, _ in table.rows:
        shown.add_column(Text(label), justify="right")
    for index, length in enumerate(table.columns):
        points = (points[index] for _, points in table.rows)
        shown.add_row(length.replace("\n", ", "), *(with_interval(point).partition(" ")[0] for point in points))
    return shown
