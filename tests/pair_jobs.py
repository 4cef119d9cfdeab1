"""The jobs that one process and two processes do alike: `pair_jobs.py FOLDER PORT INDEX` is one of two."""

import dataclasses
import json
import shutil
import sys
import threading
import time
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


def load_a_step(folder: Path, *, everywhere: bool) -> str:
    """Loads a compiled step that process 1 does not have, or that both have; gives what came of it.

    Process 0 votes before, on another thread, and process 1 afterwards, as where a signal comes while a step is loaded.
    """
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from famjax.pods.agreement import all_agree
    from famjax.training.compiled_steps import NotLoaded, load_step, save_step

    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    lowered = jax.jit(lambda x: x.sum()).lower(jax.ShapeDtypeStruct((8,), np.float32, sharding=sharding))
    own, compiled = folder / f"steps_{jax.process_index()}", lowered.compile()
    if jax.process_index() == 0:
        save_step(str(own), 8, lowered, compiled, mesh)
    all_agree(True)
    voting = threading.Thread(target=all_agree, args=(True,))
    if jax.process_index() == 0:
        voting.start()
        time.sleep(0.5)
    try:
        step = load_step(str(folder / "steps_0" if everywhere else own), 8, lowered, mesh)
        ones = jax.make_array_from_process_local_data(sharding, np.ones(4, np.float32))
        return f"the sum is {step(ones)}"
    except NotLoaded as error:
        return str(error)
    finally:
        if jax.process_index() == 1:
            voting.start()
        voting.join()


def main(folder: Path, port: int, index: int) -> None:
    """Trains, resumes what one process has saved, evaluates and scans; loads a compiled step."""
    from famjax.evaluation.evaluate import evaluate
    from famjax.evaluation.scan.running import scan
    from famjax.pods.connecting import JobAddress, connect
    from famjax.training.loop import train

    connect(JobAddress(f"127.0.0.1:{port}", 2, index), HostsConfig(), epath.Path(folder))
    train(training(folder, "two"))
    train(training(folder, "one_then_two"))
    evaluate(evaluation(folder, "evaluated_by_two"))
    scan(scan_job(folder, "scanned_by_two"))
    loaded = [load_a_step(folder, everywhere=True), load_a_step(folder, everywhere=False)]
    (folder / f"loaded_{index}.json").write_text(json.dumps(loaded))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
