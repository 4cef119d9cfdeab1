"""The jobs that one process and two processes do alike: `pair_jobs.py FOLDER PORT INDEX` is one of two."""

import dataclasses
import shutil
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent)]

from etils import epath  # noqa: E402 (the path comes first)

from famjax.data.task_config import AssociativeRecall  # noqa: E402 (the path comes first)
from famjax.evaluation.config import EvalJob  # noqa: E402 (the path comes first)
from famjax.evaluation.scan.config import ScanJob  # noqa: E402 (the path comes first)
from famjax.pods.hosts_config import HostsConfig  # noqa: E402 (the path comes first)
from famjax.training.config import CheckpointConfig, Curriculum, TrainJob  # noqa: E402 (the path comes first)
from tiny_job import make_job  # noqa: E402 (the path comes first)

STEPS, MIDDLE = 6, 3
TASKS = {"recall": AssociativeRecall(num_pairs=1, key_letters=1, value_digits=1)}


def training(folder: Path, name: str) -> TrainJob:
    """Six steps with dropout, state passing and accumulation; saved and evaluated in the middle and at the end."""
    job = make_job(folder, name)
    evaluated = dataclasses.replace(
        job.data, mixture_or_task_name="recall", split="validation", shuffle=False, prefetch=0
    )
    return dataclasses.replace(
        job,
        total_steps=STEPS,
        curriculum=Curriculum(),
        checkpoint=CheckpointConfig(period=MIDDLE),
        eval_data=evaluated,
        eval_period=MIDDLE,
        eval_steps=1,
    )


def evaluation(folder: Path, output: str) -> EvalJob:
    """Of the checkpoint that one process has saved."""
    data = training(folder, "one").eval_data
    assert data is not None
    return EvalJob(str(folder / "one"), data, str(folder / output), position_buckets=2)


def scan_job(folder: Path, output: str) -> ScanJob:
    """Two cells of the same checkpoint, one for each process."""
    return ScanJob(
        checkpoints=str(folder / "one"),
        tasks=("recall",),
        lengths=(40, 48),
        output_dir=str(folder / output),
        examples=8,
        batch_size=8,
        chunk_blocks=2,
        task_configs=TASKS,
    )


def half(folder: Path, name: str, of: str) -> TrainJob:
    """A run that has come to its middle: a copy of another one, without what followed."""
    shutil.copytree(folder / of, folder / name)
    shutil.rmtree(folder / name / f"checkpoint_{STEPS}")
    return training(folder, name)


def main(folder: Path, port: int, index: int) -> None:
    """Trains, resumes what one process has saved, evaluates and scans."""
    from famjax.evaluation.evaluate import evaluate
    from famjax.evaluation.scan.running import scan
    from famjax.pods.connecting import JobAddress, connect
    from famjax.training.loop import train

    connect(JobAddress(f"127.0.0.1:{port}", 2, index), HostsConfig(), epath.Path(folder))
    train(training(folder, "two"))
    train(training(folder, "one_then_two"))
    evaluate(evaluation(folder, "evaluated_by_two"))
    scan(scan_job(folder, "scanned_by_two"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
