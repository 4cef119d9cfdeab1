"""The training loop: `train(job)` is `--run_mode=train`."""

import contextlib
import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from famjax.configuration.job_checks import check_batch, check_processes
from famjax.data.config import DataConfig
from famjax.data.document_rows import BlockShape, StreamCounts
from famjax.errors import NumericsError, Stopped
from famjax.models.decoder_layer import Diagnostics
from famjax.plurals import counted
from famjax.pods.agreement import AgreedStop, from_first
from famjax.pods.mesh import make_mesh, num_batch_shards
from famjax.pods.watching import TRAINING, Watch
from famjax.training.checkpoint_files import absolute_path
from famjax.training.checkpoints import Checkpointer
from famjax.training.config import TrainJob
from famjax.training.display import Display, Progress, open_display
from famjax.training.evaluator import evaluate_batches, evaluate_documents, summarize, summarize_streamed
from famjax.training.feed import TrainingFeed, check_data, device_batches, evaluation_shape, step_shape
from famjax.training.flops import peak_flops, train_step_flops
from famjax.training.model_dir import checkpoint_bytes, find_model_dir, hold, prepare_model_dir
from famjax.training.program import (
    Program,
    TrainStep,
    compile_evaluation,
    compile_streamed_evaluation,
    make_program,
    timed,
)
from famjax.training.starting import begin, describe, note_settings, report_finished
from famjax.training.state import TrainState
from famjax.training.step import Metrics
from famjax.training.stopping import StopSignal, run_together
from famjax.training.streaming import stream_metrics
from famjax.training.throughput import ThroughputClock
from famjax.training.writers import LOG_NAME, MetricWriters

_REPORTED = ("loss", "accuracy", "answer_accuracy", "exact_match")
_BY_BLOCK = ("loss_by_block", "weight_by_block")


def train(job: TrainJob) -> None:
    """Trains from the latest checkpoint in MODEL_DIR, or from the beginning, to `job.total_steps`.

    Raises:
      ConfigError: settings that do not fit the devices or the data.
      CheckpointError: MODEL_DIR cannot be written, or its checkpoints are of another model.
      DataError: the data cannot be read.
      NumericsError: the loss or the gradient is not finite.
      Stopped: SIGTERM or SIGINT arrived; the state is saved.
    """
    with (
        StopSignal() as stop,
        open_display(job.total_steps, job.logging.period, jax.process_index()) as display,
        Watch(job.hosts, find_model_dir(job.model_dir), stop) as watch,
        contextlib.ExitStack() as alone,
    ):
        report_finished(job, display)
        mesh = make_mesh(job.mesh)
        check_processes(job.mesh)
        check_batch(job, num_batch_shards(mesh))
        _check_data(job, mesh)
        program = make_program(job)
        model_dir = prepare_model_dir(job.model_dir, checkpoint_bytes(program.saved_part(program.abstract_state)))
        from_first(lambda: alone.enter_context(hold(model_dir)))
        with Checkpointer(model_dir, job.checkpoint, job.model, report=display.warn) as checkpointer:
            with watch.doing("restoring"):
                state, data_state, resumed_from = begin(program, checkpointer, display)
            feed = TrainingFeed(job.data, job.curriculum.parsed, program.mesh, data_state, step_shape(job))
            feed.open(int(state.progress.stage))
            writers = MetricWriters(
                str(model_dir), resumed_from=resumed_from, process_index=jax.process_index(), warn=display.warn
            )
            with writers:
                if int(state.step) < job.total_steps:
                    note_settings(model_dir, display)
                    display.report(describe(program))
                try:
                    Loop(program, state, feed, checkpointer, writers, display, stop, watch).run()
                finally:
                    feed.close()


def _check_data(job: TrainJob, mesh: Mesh) -> None:
    """Reads a batch of every stage and of the evaluation: a run must not fail after hours."""
    stages: list[tuple[int, int] | None] = [(stage.min_length, stage.max_length) for stage in job.curriculum.parsed]
    for lengths in stages or [None]:
        check_data(job.data, job.model, mesh, lengths, documents=step_shape(job))
    if job.eval_data is not None:
        remedy = "; set TrainJob.eval_data = None to train without evaluation"
        check_data(job.eval_data, job.model, mesh, remedy=remedy, documents=evaluation_shape(job, job.eval_data))


def _is_evaluated(job: TrainJob, step: int) -> bool:
    """Whether the log has the evaluation of this step."""
    if job.eval_data is None:
        return False
    metric = f"{job.eval_data.split}/loss"
    entries = map(json.loads, (absolute_path(job.model_dir) / LOG_NAME).read_text(encoding="utf-8").splitlines())
    return any(entry["step"] == step and metric in entry for entry in entries)


@dataclasses.dataclass
class _Finished:
    """A step that was dispatched and whose metrics have not been read."""

    step: int
    stage: int
    metrics: Mapping[str, jax.Array]
    counts: StreamCounts


class Loop:
    """Dispatches step after step; reads the metrics of one when the next one has been dispatched."""

    def __init__(
        self,
        program: Program,
        state: TrainState,
        feed: TrainingFeed,
        checkpointer: Checkpointer,
        writers: MetricWriters,
        display: Display,
        stop: StopSignal,
        watch: Watch,
    ) -> None:
        """Takes what a run needs; `run` starts it."""
        self._program, self._job = program, program.job
        self._state, self._feed, self._checkpointer = state, feed, checkpointer
        self._writers, self._display, self._watch = writers, display, watch
        self._agreed = AgreedStop(stop)
        self._steps: dict[int, TrainStep] = {}
        self._programs: dict[str, Any] = {}
        self._clock = ThroughputClock(jax.device_count(), peak_flops(jax.devices()[0].device_kind))
        self._step = int(state.step)
        # The stages of the next step and of the one after it: the host never has to ask the step in flight.
        self._stages = [int(state.progress.stage), int(state.progress.stage_after)]
        self._announced = self._stages[-1]
        self._in_flight: _Finished | None = None
        self._eval_every = self._job.eval_period if self._job.eval_data is not None else None
        self._evaluation: dict[str, float] | None = None
        self._last_shown: dict[str, float] = {}

    def run(self) -> None:
        """Trains to the end, or to a signal."""
        job = self._job
        # Metrics first: whatever belongs to a step is logged before the step is saved.
        actions: list[tuple[Callable[[], None], int | None]] = [
            (self._evaluate, self._eval_every),
            (self._save, job.checkpoint.period),
        ]
        self._display.show(Progress(step=self._step))
        self._agreed.now()  # The processes have taken different times to get here.
        with self._watch.doing(TRAINING):
            self._run(actions)
        self._save()
        with self._watch.doing("saving"):
            self._checkpointer.wait()
        self._end()

    def _run(self, actions: Sequence[tuple[Callable[[], None], int | None]]) -> None:
        """Takes step after step, each followed by the actions (function, every so many steps) that are due."""
        try:
            if self._is_evaluation_missing():
                self._evaluate()
            while self._step < self._job.total_steps and not self._agreed.poll():
                self._dispatch()
                for action, every in actions:
                    if every is not None and self._step % every == 0 and not self._agreed.requested:
                        self._settle()
                        with self._clock.exclude():
                            action()
            self._settle()
        except Stopped:
            self._settle()

    def _dispatch(self) -> None:
        """Hands one step to the devices, then reads the metrics of the step before it."""
        stage = self._stages[0]
        length = self._feed.length(stage)
        if length not in self._steps:
            self._settle()
            self._steps[length] = self._compile(
                f"step for length {length}", lambda: self._program.compile_step(length, self._display.warn)
            )
        ablation = self._ablation(length)
        # Behind all compilations: one that a signal ends must not cost a batch, whose place would be saved as read.
        batch = self._feed.next_batch(stage)
        ablated: Metrics = {}
        if ablation is not None:
            with self._clock.exclude():
                ablated = {"ablated_loss": jax.block_until_ready(ablation(self._state, batch))}
        self._state, metrics = self._steps[length](self._state, batch)
        self._clock.step_dispatched()
        self._step += 1
        self._evaluation = None
        finished = _Finished(self._step, stage, metrics | ablated, self._feed.counts())
        before, self._in_flight = self._in_flight, finished
        if before is not None:
            self._finish(before)
        self._stages.pop(0)

    def _ablation(self, length: int) -> Callable[[TrainState, Mapping[str, jax.Array]], jax.Array] | None:
        """Gives the next step's loss with the memory ablated, where that is to be reported."""
        every = self._job.streaming.ablation_period
        if not self._job.streaming.enabled or every is None or (self._step + 1) % every:
            return None
        self._settle()
        return self._compiled("step with the memory ablated", lambda: self._program.compile_ablation(length))

    def _settle(self) -> None:
        """Waits for the step in flight."""
        before, self._in_flight = self._in_flight, None
        if before is not None:
            self._finish(before)

    def _finish(self, finished: _Finished) -> None:
        """Reads a step's metrics, checks, logs and shows them."""
        job = self._job
        metrics = {name: np.asarray(value) for name, value in jax.device_get(finished.metrics).items()}
        self._watch.step_finished(finished.step)
        diagnostics = {field.name: metrics.pop(field.name) for field in dataclasses.fields(Diagnostics)}
        length = self._feed.length(finished.stage)
        tokens = job.data.batch_size * length
        flops = train_step_flops(job.model, job.data.batch_size, length, self._program.trained)
        self._clock.step_finished(tokens, int(metrics.pop("tokens")), flops)
        self._stages.append(int(metrics.pop("stage_after")))
        if self._stages[-1] > self._announced:
            self._announced = self._stages[-1]
            self._report_stage(finished)
        self._require_finite(finished.step, metrics)
        by_block = {name: metrics.pop(name) for name in _BY_BLOCK if name in metrics}
        shown = {name: float(metrics[name]) for name in _REPORTED}
        logged: dict[str, Any] = {}
        if finished.step % job.logging.period == 0 or finished.step == job.total_steps:
            rates = self._clock.take_rates()
            if rates is not None:
                self._last_shown = rates.as_metrics()
            logged |= {**metrics, "length": length, **(rates.as_metrics() if rates else {})}
            logged |= stream_metrics(**by_block, counts=finished.counts) if by_block else {}
        if "ablated_loss" in metrics:
            logged |= self._report_ablation(finished.step, shown["loss"], float(metrics["ablated_loss"]))
        every = job.logging.diagnostics_period
        if every is not None and finished.step % every == 0 and job.model.memory.fam_length:
            logged |= diagnostics
        if logged:
            self._writers.write(finished.step, logged)
        self._display.show(
            Progress(
                step=finished.step,
                loss=shown["loss"],
                accuracy=shown["accuracy"],
                exact_match=shown["exact_match"] if metrics["answered"] else None,
                tokens_per_second=self._last_shown.get("valid_tokens_per_second"),
                steps_per_second=self._last_shown.get("steps_per_second"),
                length=length if job.curriculum.stages else None,
            )
        )

    def _report_stage(self, finished: _Finished) -> None:
        stages = self._job.curriculum.parsed
        after = stages[self._stages[-1]]
        self._display.report(
            f"step {finished.step}: lengths {after.min_length} to {after.max_length} from step {finished.step + 2} on "
            f"(stage {self._stages[-1] + 1} of {len(stages)})"
        )

    def _report_ablation(self, step: int, loss: float, ablated: float) -> dict[str, float]:
        """Says what the memory is worth, and gives it as metrics."""
        self._display.report(
            f"step {step}: the memory is worth {ablated - loss:.4f} nats a token (loss {loss:.4f}, {ablated:.4f} "
            "without what was read before the step)"
        )
        return {"ablated_loss": ablated, "memory_gain": ablated - loss}

    def _require_finite(self, step: int, metrics: Mapping[str, np.ndarray]) -> None:
        for name in ("loss", "gradient_norm", "update_norm"):
            if not math.isfinite(float(metrics[name])):
                raise NumericsError(
                    f"step {step}: {name} is {float(metrics[name])}. The last checkpoint in {self._job.model_dir} "
                    "is from before it.\n  Lower the learning rate (--gin.LEARNING_RATE) or clip the gradient "
                    "(--gin.AdamW.clip_norm, --gin.Adafactor.clip_norm)."
                )

    def _is_evaluation_missing(self) -> bool:
        """Whether the present step should have been evaluated and, by the log, was not: a signal came first."""
        if self._eval_every is None or self._step == 0 or self._step % self._eval_every:
            return False
        return from_first(lambda: not _is_evaluated(self._job, self._step))  # Only process 0 has a log.

    def _evaluate(self) -> None:
        """Evaluates the present parameters; nothing is reported where a signal interrupts it."""
        job = self._job
        data = job.eval_data
        if data is None:
            return
        shape = evaluation_shape(job, data)
        with self._watch.doing("evaluating"):
            values = self._evaluate_examples(data) if shape is None else self._evaluate_documents(data, shape)
        if values is None:
            return
        self._evaluation = {f"{data.split}/{name}": value for name, value in values.items()}
        self._writers.write(self._step, self._evaluation)
        words = " ".join(f"{name} {value:.4f}" for name, value in values.items() if "/" not in name)
        self._display.report(f"step {self._step} {data.split}: {words}")

    def _evaluate_examples(self, data: DataConfig) -> dict[str, float] | None:
        """Scores of examples, each read from the initial state; None where a signal came."""
        job = self._job
        step = self._compiled(
            "evaluation",
            lambda: compile_evaluation(
                job.model,
                self._program.abstract_state.params,
                self._program.mesh,
                job.mesh,
                batch_size=data.batch_size,
                length=data.length,
                chunk_size=job.loss.chunk_size,
                position_buckets=1,
            ),
        )
        self._display.doing("evaluating")
        sums = evaluate_batches(
            lambda batch: step(self._state.params, batch),
            device_batches(data, self._program.mesh, job.eval_steps),
            self._stops_between,
        )
        return None if sums is None else summarize(sums)

    def _evaluate_documents(self, data: DataConfig, shape: BlockShape) -> dict[str, float] | None:
        """Scores of documents, read in order with a state of their own; None where a signal came."""
        job = self._job
        evaluation = self._compiled(
            "evaluation",
            lambda: compile_streamed_evaluation(
                job.model,
                self._program.abstract_state.params,
                self._program.mesh,
                job.mesh,
                batch_size=data.batch_size,
                length=shape.length,
                chunk_size=job.loss.chunk_size,
            ),
        )
        self._display.doing("evaluating")
        batches = device_batches(data, self._program.mesh, job.eval_steps, documents=shape)
        sums = evaluate_documents(evaluation, self._state.params, batches, self._stops_between)
        return None if sums is None else summarize_streamed(sums)

    def _stops_between(self) -> bool:
        """Whether an evaluation is to end before its next batch."""
        self._watch.went_on()
        return self._agreed.poll()

    def _save(self) -> None:
        self._settle()
        state = self._program.saved_part(self._state)
        with self._watch.doing("saving"):
            is_saved = self._checkpointer.save(self._step, state, self._feed.state(), self._evaluation, force=True)
        if is_saved:
            self._display.report(f"step {self._step}: checkpoint saved")

    def _compiled(self, name: str, compile_program: Callable[[], Any]) -> Any:
        if name not in self._programs:
            self._programs[name] = self._compile(name, compile_program)
        return self._programs[name]

    def _compile(self, name: str, compile_program: Callable[[], Any]) -> Any:
        """Compiles on another thread, so that a signal is noticed meanwhile."""
        self._display.doing(f"compiling the {name}")
        with self._watch.doing("compiling"):
            program, seconds = run_together(lambda: timed(compile_program), self._agreed)
        self._display.report(f"compiled the {name} in {seconds:.1f} s")
        self._clock.compiled()
        return program

    def _end(self) -> None:
        for reason, count in self._feed.skipped.items():
            self._display.warn(f"{counted(count, 'record')} skipped or cut: {reason}")
        is_unfinished = self._step < self._job.total_steps or self._is_evaluation_missing()
        if self._agreed.requested and is_unfinished:
            raise Stopped(
                f"{self._agreed.name}: stopped after step {self._step} of {self._job.total_steps}, and saved. "
                "The same command goes on from there."
            )
