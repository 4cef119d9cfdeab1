"""Evaluates a grid: `scan(job)` is `--run_mode=scan`.

Processes that share a scan work on their own cells, each on its own devices; the one that finds all cells in the
ledgers writes the results and the report.
"""

import contextlib
import dataclasses
import math
import os
from collections.abc import Sequence
from concurrent import futures
from pathlib import Path

import jax
from etils import epath
from rich.console import Console

from famjax.configuration import operative
from famjax.configuration.job_checks import check_vocabulary
from famjax.data.feeding import import_module
from famjax.data.vocabularies import Vocabulary
from famjax.errors import CellsFailed, Stopped
from famjax.evaluation.report.writing import Report, print_report, write_report
from famjax.evaluation.scan import manifest
from famjax.evaluation.scan.asking import Asked, QuestionMaker, made_ahead
from famjax.evaluation.scan.checkpoints import GridCheckpoint, find_checkpoints, followed
from famjax.evaluation.scan.config import ScanJob
from famjax.evaluation.scan.display import ScanDisplay, ScanProgress, open_scan_display
from famjax.evaluation.scan.evaluating import Evaluator
from famjax.evaluation.scan.grid import Cell
from famjax.evaluation.scan.ledger import DONE, FAILED, Entry, Ledger, prepare_output_dir, read_ledgers
from famjax.evaluation.scan.results import NAME, results_of, write_results
from famjax.evaluation.scan.shards import Shard, deal, find_shard, relative_costs
from famjax.evaluation.scan.watching import Watcher
from famjax.inference.compiling import COMPILING, compiling_within
from famjax.inference.language_model import check_same_vocabulary
from famjax.plurals import counted
from famjax.pods.mesh import make_mesh
from famjax.pods.watching import Watch
from famjax.training.stopping import StopSignal

REPORT_FOLDER = "report"


def scan(job: ScanJob) -> list[Entry]:
    """Evaluates this process's cells of a grid, goes on where an earlier process was stopped, and writes the results.

    Returns:
      The results of all cells that have one so far, in grid order, as in results.jsonl.

    Raises:
      ConfigError: settings that do not fit one another, the tasks, the devices or the results that are there.
      CheckpointError: a checkpoint of the grid does not exist, or the output folder cannot be written.
      DataError: a task's files cannot be read.
      CellsFailed: some of this process's cells failed; the others are evaluated and written.
      Stopped: SIGTERM or SIGINT arrived; what is finished stays.
    """
    output_dir = prepare_output_dir(job.output_dir)
    shard = find_shard(job.shard, os.environ, jax.process_index(), jax.process_count())
    if jax.process_count() > 1:
        job = dataclasses.replace(job, mesh=dataclasses.replace(job.mesh, own_process=True))
    with StopSignal() as stop, Watch(job.hosts, epath.Path(output_dir), stop) as watch:
        import_module(job.module, "ScanJob.module")
        make_mesh(job.mesh)
        questions = QuestionMaker(job)
        questions.check()
        progress = ScanProgress()
        with Ledger(output_dir, shard) as ledger, open_scan_display(progress) as display:
            run = _Run(job, output_dir, shard, questions, ledger, display, progress, stop, watch)
            cells = run.follow() if job.watch is not None else run.evaluate_all()
        return run.conclude(cells)


@dataclasses.dataclass
class _Run:
    """One process's part of a scan."""

    job: ScanJob
    output_dir: Path
    shard: Shard
    questions: QuestionMaker
    ledger: Ledger
    display: ScanDisplay
    progress: ScanProgress
    stop: StopSignal
    watch: Watch

    def __post_init__(self) -> None:
        self._evaluator = Evaluator(self.job, self.output_dir)
        self._mine: dict[str, Cell] = {}
        self._tried: set[str] = set()

    @property
    def _vocabulary(self) -> Vocabulary:
        return self.questions.vocabulary

    def evaluate_all(self) -> list[Cell]:
        """Evaluates this process's cells of a grid that does not grow; returns all cells of the grid."""
        job = self.job

        def find() -> list[GridCheckpoint]:
            return find_checkpoints(job.checkpoints, job.every)

        cells = manifest.agree(self.output_dir, job, self._vocabulary.fingerprint, find)
        self._begin(cells)
        self._evaluate(cells, deal(cells, self.shard))
        return cells

    def follow(self) -> list[Cell]:
        """Evaluates this process's cells of each new checkpoint; returns all cells of the grid."""
        job, fingerprint = self.job, self._vocabulary.fingerprint
        assert job.watch is not None
        runs = followed(job.checkpoints)
        watcher = Watcher(job.watch, runs, self.display.warn)
        cells = manifest.agree(self.output_dir, job, fingerprint, lambda: watcher.look([]))
        self._begin(cells)
        while True:
            known = list(dict.fromkeys(cell.checkpoint for cell in cells))
            cells = manifest.add_checkpoints(self.output_dir, job, fingerprint, watcher.look(known))
            if self._evaluate(cells, _dealt_by_checkpoint(cells, self.shard)):
                finish(self.output_dir, cells, job)
                watcher.rest()
            elif watcher.has_ended or watcher.is_idle:
                watcher.require_any()
                return cells
            else:
                self.display.waiting(f"waiting for checkpoints in {', '.join(runs.values())}", watcher.seconds_left)
                watcher.wait(self.stop)
                self.watch.step_finished(self.progress.finished)
                self._require_going_on()

    def conclude(self, cells: Sequence[Cell]) -> list[Entry]:
        """Writes the results where all cells have one, and says what came of the scan; see `scan`."""
        console = Console()
        entries, report = finish(self.output_dir, cells, self.job)
        missing = sum(cell.key not in entries for cell in cells)
        line = f"results: {self.output_dir / NAME}"
        if missing:
            line = (
                f"{missing} of {counted(len(cells), 'cell')} are with other processes; the last one writes the results."
            )
        console.print(line, highlight=False, soft_wrap=True, markup=False)
        if report is not None:
            print_report(report)
        self._require_success(entries)
        return results_of(cells, entries)

    def _begin(self, cells: Sequence[Cell]) -> None:
        """Checks what only the checkpoints tell, and keeps the settings beside the results."""
        for checkpoint in dict.fromkeys(cell.checkpoint for cell in cells):
            check_vocabulary(checkpoint.config, self._vocabulary.vocab_size)
            if checkpoint.exists:
                check_same_vocabulary(checkpoint.folder, self.job.vocabulary)
        if self.shard.index == 0:
            operative.write(self.output_dir)
        if self.shard.count > 1:
            self.display.report(f"shard {self.shard}")

    def _evaluate(self, cells: Sequence[Cell], mine: Sequence[Cell]) -> int:
        """Evaluates the cells that are this process's and have no result; returns how many there were."""
        self._mine |= {cell.key: cell for cell in mine}
        entries = read_ledgers(self.output_dir)
        left = list({cell.key: cell for cell in mine if self._is_to_do(cell, entries)}.values())
        if not left:
            return 0
        if len(left) < len(mine) and not self.progress.cells:
            self.display.report(f"{len(mine) - len(left)} of {counted(len(mine), 'cell')} are evaluated already")
        costs = dict(zip((cell.key for cell in cells), relative_costs(cells), strict=True))
        self.progress.cells += len(left)
        self.progress.cost += sum(costs[cell.key] for cell in left)
        with contextlib.closing(made_ahead(left, self._make)) as pairs:
            for cell, asked in pairs:
                self._require_going_on()
                self.display.working(str(cell))
                entry = self._evaluate_one(cell, asked)
                self.ledger.append(entry)
                self._tried.add(cell.key)
                self.watch.step_finished(self.progress.finished + 1)
                self._show(cell, entry, costs[cell.key])
        return len(left)

    def _evaluate_one(self, cell: Cell, asked: "futures.Future[Asked | None]") -> Entry:
        try:
            with compiling_within(lambda: self.display.report(f"{cell}: {COMPILING}"), self.stop):
                return self._evaluator.evaluate(cell, asked)
        except Stopped:
            self._require_going_on()
            raise

    def _show(self, cell: Cell, entry: Entry, cost: int) -> None:
        tokens = entry.get("prompt_tokens", 0) + entry.get("generated_tokens", 0)
        self.progress.finish(cost, tokens, entry["seconds"] - entry["seconds_compiling"])
        if entry["status"] == DONE:
            self.display.finished(_line(cell, entry))
        else:
            self.display.failed(f"{cell}: {entry['error']}")

    def _is_to_do(self, cell: Cell, entries: dict[str, Entry]) -> bool:
        """Whether a cell has no result, or failed in an earlier process for a reason that may be gone."""
        if cell.key not in entries:
            return True
        return entries[cell.key]["status"] == FAILED and cell.key not in self._tried and cell.checkpoint.exists

    def _make(self, cell: Cell) -> Asked | None:
        return None if cell.is_harness else self.questions.make(cell)

    def _require_going_on(self) -> None:
        if self.stop.requested:
            raise Stopped(
                f"{self.stop.name}: stopped after {self.progress.finished} of {counted(self.progress.cells, 'cell')}; "
                "the same command goes on from there."
            )

    def _require_success(self, entries: dict[str, Entry]) -> None:
        failed = [cell for key, cell in self._mine.items() if key in entries and entries[key]["status"] == FAILED]
        if self.job.watch is not None:
            failed = [cell for cell in failed if cell.checkpoint.exists]  # the training deletes what it does not keep
        if failed:
            first = failed[0]
            raise CellsFailed(
                f"{len(failed)} of {counted(len(self._mine), 'cell')} failed; the same command tries them again. "
                f"The first: {first}: {entries[first.key]['error']}"
            )


def finish(output_dir: Path, cells: Sequence[Cell], job: ScanJob) -> tuple[dict[str, Entry], Report | None]:
    """Writes results and report where every cell of the grid has a result; one process at a time.

    Returns:
      What the ledgers say, and the report; None where there is none: cells without a result, or none that is done.
    """
    report = None
    with manifest.locked(output_dir):
        entries = read_ledgers(output_dir)
        if cells and all(cell.key in entries for cell in cells):
            results = results_of(cells, entries)
            write_results(output_dir, results, job)
            if any(result["status"] == DONE for result in results):
                folder = output_dir / REPORT_FOLDER
                report = write_report([output_dir], folder, title=job.title, trained_lengths=job.trained_lengths)
    return entries, report


def _dealt_by_checkpoint(cells: Sequence[Cell], shard: Shard) -> list[Cell]:
    """The cells of one shard where checkpoints keep appearing: each of them is dealt out by itself."""
    checkpoints = dict.fromkeys(cell.checkpoint for cell in cells)
    return [
        cell
        for checkpoint in checkpoints
        for cell in deal([cell for cell in cells if cell.checkpoint == checkpoint], shard)
    ]


def _line(cell: Cell, entry: Entry) -> str:
    metric = entry["metric"]
    estimate = entry["metrics"][metric]
    low, high = (float(end) for end in estimate["ci95"])
    interval = f" ({low:.3f} to {high:.3f})" if math.isfinite(low) and math.isfinite(high) else ""
    return f"{cell}: {metric} {float(estimate['value']):.3f}{interval} {entry['seconds']:.1f} s"
