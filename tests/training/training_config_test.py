"""Tests of famjax.training.config."""

import dataclasses

import pytest

from famjax.errors import ConfigError
from famjax.training.config import Adafactor, AdamW, CheckpointConfig, Schedule, TrainJob
from tiny_job import make_job


@pytest.fixture
def job(tmp_path) -> TrainJob:
    """A job that keeps its best checkpoint, each of which is evaluated."""
    job = make_job(tmp_path, "run")
    return dataclasses.replace(
        job,
        eval_data=dataclasses.replace(job.data, split="validation"),
        eval_period=3,
        checkpoint=CheckpointConfig(period=6, keep_best=1, best_metric="validation/loss"),
    )


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        (AdamW, {"epsilon": 0.0}, ["AdamW.epsilon = 0.0", "above 0"]),
        (AdamW, {"epsilon": -1e-8}, ["AdamW.epsilon = -1e-08", "above 0"]),
        (Adafactor, {"decay_exponent": -0.8}, ["Adafactor.decay_exponent = -0.8", "above 0"]),
        (Adafactor, {"clipping_threshold": 0.0}, ["Adafactor.clipping_threshold = 0.0", "above 0"]),
        (Adafactor, {"min_dim_size_to_factor": -1}, ["Adafactor.min_dim_size_to_factor = -1", "1 or more"]),
    ],
)
def test_an_optimizer_setting_of_the_wrong_sign(kind, settings, words):
    """Guards against an optimizer that divides by zero, or walks uphill, hours into a run."""
    with pytest.raises(ConfigError) as error:
        kind(Schedule(0.1), **settings)
    assert all(word in str(error.value) for word in words)


def test_no_clipping_of_updates_is_allowed():
    """Guards against a check that takes None for a number."""
    assert Adafactor(Schedule(0.1), clipping_threshold=None).clipping_threshold is None


@pytest.mark.parametrize("metric", ["loss", "accuracy", "answer_accuracy", "exact_match"])
def test_every_metric_of_an_evaluation_may_be_the_best(job, metric):
    """Guards against a metric refused that evaluations have, and against one split's name for all."""
    best = dataclasses.replace(job.checkpoint, best_metric=f"validation/{metric}")
    assert dataclasses.replace(job, checkpoint=best).checkpoint.best_metric == f"validation/{metric}"
    train = dataclasses.replace(
        job,
        eval_data=dataclasses.replace(job.data, split="train"),
        checkpoint=dataclasses.replace(job.checkpoint, best_metric=f"train/{metric}"),
    )
    assert train.eval_data is not None


@pytest.mark.parametrize("metric", ["validation/los", "loss", "train/loss", "validation/perplexity"])
def test_a_wrong_best_metric_is_found_before_the_first_save(job, metric):
    """Guards against a run that ends at its first checkpoint because of a misspelled metric."""
    with pytest.raises(ConfigError, match=rf"best_metric = '{metric}'; allowed: 'validation/loss', "):
        dataclasses.replace(job, checkpoint=dataclasses.replace(job.checkpoint, best_metric=metric))


@pytest.mark.parametrize(("period", "eval_period"), [(3, 2), (2, 3), (1, 1000)])
def test_a_best_checkpoint_is_evaluated(job, period, eval_period):
    """Guards against best checkpoints chosen among the few that happen to be evaluated."""
    checkpoint = dataclasses.replace(job.checkpoint, period=period)
    with pytest.raises(ConfigError, match=r"(?s)no multiple.*--gin\.CHECKPOINT_PERIOD, --gin\.EVAL_PERIOD"):
        dataclasses.replace(job, checkpoint=checkpoint, eval_period=eval_period)
    latest = CheckpointConfig(period=period)
    assert dataclasses.replace(job, checkpoint=latest, eval_period=eval_period).checkpoint == latest


def test_the_best_need_evaluations(job):
    """Guards against keep_best that silently keeps nothing."""
    with pytest.raises(ConfigError, match=r"needs evaluations; set TrainJob\.eval_data"):
        dataclasses.replace(job, eval_data=None)


def test_a_best_metric_alone_is_refused():
    """Guards against the best checkpoints deleted because keep_best was forgotten."""
    with pytest.raises(ConfigError, match=r"no effect without keep_best.*--gin\.CheckpointConfig\.keep_best"):
        CheckpointConfig(best_metric="validation/loss")
