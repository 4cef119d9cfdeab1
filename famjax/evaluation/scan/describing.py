"""What a scan would do: its cells, and the tokens and FLOPs that they need."""

import os
from collections.abc import Sequence

from famjax.data.feeding import import_module
from famjax.evaluation.scan import manifest
from famjax.evaluation.scan.asking import QuestionMaker
from famjax.evaluation.scan.checkpoints import GridCheckpoint, find_checkpoints, find_new, followed
from famjax.evaluation.scan.config import ScanJob
from famjax.evaluation.scan.grid import Cell
from famjax.evaluation.scan.ledger import Entry, output_path, read_ledgers
from famjax.evaluation.scan.shards import Shard, deal, find_shard
from famjax.training.display import format_count


def describe_scan(job: ScanJob) -> str:
    """Returns every cell with its tokens and FLOPs, and what is evaluated already; reads no parameters.

    Raises:
      ConfigError: what the scan itself would refuse: settings that do not fit the tasks, or the results that are there.
      CheckpointError: a checkpoint that does not exist.
      DataError: a task's files cannot be read.
    """
    import_module(job.module, "ScanJob.module")
    questions = QuestionMaker(job)
    questions.check()
    shard = find_shard(job.shard, os.environ)
    output_dir, vocabulary = output_path(job.output_dir), questions.vocabulary.fingerprint
    cells = manifest.plan(output_dir, job, vocabulary, lambda: _found(job)).cells
    entries = read_ledgers(output_dir)
    mine = {cell.key for cell in deal(cells, shard)}
    rows = [_row(cell, entries, mine) for cell in cells]
    lines = _aligned([("cell", "examples", "tokens", "FLOPs", ""), *rows])
    return "\n".join([*lines, "", *_totals(job, cells, shard, mine, entries)])


def _found(job: ScanJob) -> list[GridCheckpoint]:
    if job.watch is not None:
        return find_new(followed(job.checkpoints), (), lambda _: None)
    return find_checkpoints(job.checkpoints, job.every)


_Row = tuple[str, str, str, str, str]


def _row(cell: Cell, entries: dict[str, Entry], mine: set[str]) -> _Row:
    known = not cell.is_harness
    status = entries[cell.key]["status"] if cell.key in entries else "" if cell.key in mine else "another process's"
    return (
        str(cell),
        str(cell.examples) if known else "?",
        str(format_count(cell.tokens)) if known else "?",
        f"{cell.flops:.1e}" if known else "?",
        status,
    )


def _aligned(rows: Sequence[_Row]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            text.rjust(width) if 0 < column < 4 else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _totals(job: ScanJob, cells: Sequence[Cell], shard: Shard, mine: set[str], entries: dict[str, Entry]) -> list[str]:
    def total(some: Sequence[Cell]) -> str:
        return (
            f"{format_count(sum(cell.tokens for cell in some))} tokens and {sum(cell.flops for cell in some):.1e} FLOPs"
        )

    lines = [f"Cells: {len(cells)}, of {total(cells)} at most"]
    if shard.count > 1:
        own = [cell for cell in cells if cell.key in mine]
        lines.append(f"  this process, shard {shard}: {len(own)}, of {total(own)}")
    if done := [cell for cell in cells if cell.key in entries]:
        lines.append(f"  in the ledger: {len(done)}, of {total(done)}")
    if job.watch is not None:
        lines.append("  and the same for each checkpoint that appears")
    return lines
