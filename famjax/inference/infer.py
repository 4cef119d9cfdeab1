"""Answers prompts with a checkpoint: `infer(job)` is `--run_mode=infer`."""

import dataclasses
import itertools
from typing import Any

from famjax.data.vocabularies import make_vocabulary
from famjax.errors import Stopped
from famjax.inference.answering import AdaptingAnswerer
from famjax.inference.compiling import COMPILING, compiling_within
from famjax.inference.decoding import stop_token_ids
from famjax.inference.interactive import converse
from famjax.inference.job_config import STANDARD_STREAM, InferJob
from famjax.inference.language_model import LanguageModel
from famjax.inference.progress import open_progress
from famjax.inference.prompts import Prompts, open_prompts
from famjax.inference.results import open_results
from famjax.plurals import counted
from famjax.training import model_settings
from famjax.training.stopping import StopSignal


def infer(job: InferJob) -> None:
    """Answers all prompts of a job, or, where it is interactive, opens a terminal session.

    Raises:
      ConfigError: settings that do not fit the vocabulary or the devices.
      CheckpointError: there is no such checkpoint or saved session, or it does not fit.
      DataError: prompts cannot be read, or results cannot be written.
      Stopped: SIGTERM or SIGINT arrived; the results that are written stay, and the next call goes on behind them.
    """
    vocabulary = make_vocabulary(job.vocabulary)
    for token in job.sampling.stop_tokens:
        stop_token_ids(token, vocabulary)
    if job.interactive:
        converse(_open_model(job), job)
        return
    # Signals are noted only from here on: before, there is nothing to finish, and the standard input may take its time.
    with open_prompts(job, vocabulary) as prompts, open_results(job.output) as results, StopSignal() as stop:
        model = _open_model(job)
        done = results.resume(_settings(job, model, prompts), prompts.count)
        with (
            open_progress(lambda: model.clock.compiling, job.output == STANDARD_STREAM) as progress,
            compiling_within(lambda: progress.report(COMPILING), stop),
        ):
            progress.start(prompts.count, done)
            if done:
                progress.report(f"{job.output} has {done} of {counted(prompts.count, 'result')} already.")
            answerer = AdaptingAnswerer(model, job.memory, progress, stop)
            remaining = prompts.read(done)
            try:
                while batch := list(itertools.islice(remaining, job.batch_size)):
                    if stop.requested:
                        raise Stopped(
                            f"{stop.name}: stopped with {progress.done} of {counted(prompts.count, 'prompt')} answered."
                        )
                    for result in answerer.answer(batch):
                        results.write(result)
                        progress.done += 1
                        progress.show()
            except Stopped as stopped:
                raise Stopped(f"{stopped} {_how_to_go_on(job)}") from None
        progress.report(progress.line())


def _how_to_go_on(job: InferJob) -> str:
    if job.output == STANDARD_STREAM:
        return "A second run begins anew; it would go on behind the results in a file (--gin.OUTPUT_FILE)."
    return "The same command goes on behind the results that are written."


def _open_model(job: InferJob) -> LanguageModel:
    return LanguageModel.open(
        job.checkpoint,
        job.vocabulary,
        base=job.base,
        memory=job.memory,
        mesh=job.mesh,
        batch_size=job.batch_size,
        chunk_blocks=job.chunk_blocks,
    )


def _settings(job: InferJob, model: LanguageModel, prompts: Prompts) -> dict[str, Any]:
    """What results depend on: neither the batch's size nor the devices."""
    settings = model_settings.to_json(model.config)
    memory = settings.pop("memory")
    return {
        "prompts": prompts.digest,
        "parameters": model.fingerprint,
        "vocabulary": model.vocabulary.fingerprint,
        "model": settings,
        **{f"memory.{name}": value for name, value in memory.items()},
        **{f"sampling.{name}": value for name, value in dataclasses.asdict(job.sampling).items()},
    }
