"""Evaluates a checkpoint: `evaluate(job)` is `--run_mode=eval`."""

import json
import os
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from famjax.configuration.job_checks import check_batch, check_processes
from famjax.data.registry import is_task
from famjax.errors import CheckpointError, DataError, Stopped
from famjax.evaluation.config import EvalJob
from famjax.inference.language_model import check_same_vocabulary
from famjax.models.config import TransformerConfig
from famjax.pods.agreement import AgreedStop
from famjax.pods.mesh import make_mesh, num_batch_shards
from famjax.pods.watching import Watch
from famjax.training.checkpoint_files import absolute_path
from famjax.training.config import LossConfig
from famjax.training.evaluator import EvaluationSums, evaluate_batches, summarize
from famjax.training.feed import check_data, device_batches
from famjax.training.program import abstract_params, compile_evaluation
from famjax.training.restore import find_together, load_params, read_model_config
from famjax.training.stopping import StopSignal, run_together
from famjax.training.writers import named

RESULTS_NAME = "results.jsonl"
_FLAG = "--gin.CHECKPOINT_PATH"


def evaluate(job: EvalJob) -> list[dict[str, Any]]:
    """Evaluates one checkpoint at each length, writes a JSON line for each to `job.output_dir`, and prints a table.

    Returns:
      The results, as written.

    Raises:
      ConfigError: settings that do not fit the devices or the data.
      CheckpointError: there is no such checkpoint, or the output folder cannot be written.
      DataError: the data cannot be read, or gave no batch.
      Stopped: SIGTERM or SIGINT arrived; what is written stays.
    """
    console = Console(quiet=jax.process_index() != 0)
    with StopSignal() as stop, Watch(job.hosts, absolute_path(job.output_dir), stop) as watch:
        mesh = make_mesh(job.mesh)
        check_processes(job.mesh)
        check_batch(job, num_batch_shards(mesh))
        checkpoint = find_together(job.checkpoint, setting=_FLAG)
        model = job.model or read_model_config(checkpoint)
        if is_task(job.data.mixture_or_task_name, job.data.tasks):
            check_same_vocabulary(checkpoint, job.data.vocabulary)
        for length in job.lengths or (None,):
            check_data(job.data, model, mesh, None if length is None else (length, length))
        _prepare(job.output_dir)
        agreed = AgreedStop(stop)
        abstract, _ = abstract_params(model, mesh, job.mesh)
        with watch.doing("restoring"):
            params = load_params(checkpoint, abstract, base=job.base)
        console.print(f"{checkpoint.path}, step {checkpoint.step}: {job.data.mixture_or_task_name}, {job.data.split}")
        results = []
        for length in job.lengths or (None,):
            with watch.doing("evaluating"):
                values = _evaluate_length(job, model, params, length, agreed, watch)
            result = {"checkpoint": str(checkpoint.path), "step": checkpoint.step, **values}
            if jax.process_index() == 0:
                _append(job.output_dir, result)
            results.append(result)
            console.print(_line(result), highlight=False, soft_wrap=True)
        console.print(results_table(results))
        if job.position_buckets > 1:
            console.print(positions_table(results))
        return results


def _evaluate_length(
    job: EvalJob, model: TransformerConfig, params: Any, length: int | None, stop: AgreedStop, watch: Watch
) -> dict[str, Any]:
    """Scores the data at one length."""
    mesh, data = make_mesh(job.mesh), job.data

    def should_stop() -> bool:
        watch.went_on()
        return stop.poll()

    step = run_together(
        lambda: compile_evaluation(
            model,
            params,
            mesh,
            job.mesh,
            batch_size=data.batch_size,
            length=length or data.length,
            chunk_size=LossConfig().chunk_size,
            position_buckets=job.position_buckets,
        ),
        stop,
    )
    sums = evaluate_batches(
        lambda batch: step(params, batch), device_batches(data, mesh, job.steps, length), should_stop
    )
    if stop.requested:
        raise Stopped(f"{stop.name}: stopped during length {length or data.length}; the lengths before it are written.")
    if sums is None:
        raise DataError(
            f"{data.mixture_or_task_name}, split {data.split!r}, gave no batch at length {length or data.length}."
        )
    return {
        "task": data.mixture_or_task_name,
        "split": data.split,
        "length": length or data.length,
        "examples": int(sums.scores.rows),
        "targets": int(sums.scores.counted),
        **summarize(sums),
        "by_position": _by_position(sums, length or data.length),
    }


def _by_position(sums: EvaluationSums, length: int) -> list[dict[str, Any]]:
    """Loss and accuracy in each equal part of the example, those without a target left out."""
    loss, weight, correct, counted = (
        np.asarray(values)
        for values in (
            sums.loss_by_position,
            sums.weight_by_position,
            sums.correct_by_position,
            sums.counted_by_position,
        )
    )
    buckets = len(loss)
    return [
        {
            "begin": -(-index * length // buckets),
            "end": -(-(index + 1) * length // buckets),
            "loss": float(loss[index] / weight[index]),
            "accuracy": float(correct[index] / counted[index]),
        }
        for index in range(buckets)
        if counted[index]
    ]


def results_table(results: list[dict[str, Any]]) -> Table:
    """One row for each length; "-" where a length has no such result."""
    known = ("loss", "accuracy", "answer_accuracy", "exact_match")
    names = [name for name in known if any(name in result for result in results)]
    table = Table("length", *(name.replace("_", " ") for name in names), title=None)
    for result in results:
        cells = (f"{result[name]:.4f}" if name in result else "-" for name in names)
        table.add_row(str(result["length"]), *cells)
    return table


def positions_table(results: list[dict[str, Any]]) -> Table:
    """One row for each part of the longest length's examples."""
    longest = max(results, key=lambda result: result["length"])
    table = Table("position", "loss", "accuracy", title=f"by position, length {longest['length']}")
    for part in longest["by_position"]:
        table.add_row(f"{part['begin']} - {part['end'] - 1}", f"{part['loss']:.4f}", f"{part['accuracy']:.4f}")
    return table


def _line(result: dict[str, Any]) -> str:
    names = [name for name in ("loss", "accuracy", "exact_match") if name in result]
    return f"length {result['length']}: " + " ".join(f"{name} {result[name]:.4f}" for name in names)


def _prepare(output_dir: str) -> None:
    """Makes the folder and its file, before anything slow."""
    path = absolute_path(output_dir) / RESULTS_NAME
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if jax.process_index() == 0:
            path.write_text("", encoding="utf-8")
    except OSError as error:
        raise CheckpointError(
            f"{output_dir} cannot be written ({error.strerror or error}). Set --gin.EVAL_OUTPUT_DIR to another."
        ) from error


def _append(output_dir: str, result: dict[str, Any]) -> None:
    """Writes one line, whole and at once; a number that is not finite as its name, as in metrics.jsonl."""
    with (absolute_path(output_dir) / RESULTS_NAME).open("a", encoding="utf-8") as file:
        file.write(json.dumps(named(result), allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
