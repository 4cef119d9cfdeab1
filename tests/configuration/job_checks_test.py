"""famjax.configuration.job_checks."""

import dataclasses

import pytest

from famjax.configuration.job_checks import check_batch, check_vocabulary
from famjax.configuration.loading import load
from famjax.errors import ConfigError
from famjax.evaluation.config import EvalJob
from famjax.training.config import TrainJob

FLAGS = (
    ("MODEL_DIR", "'/tmp/run'"),
    ("MIXTURE_OR_TASK_NAME", "'documents'"),
    ("TASK_FEATURE_LENGTHS", "{'targets': 256}"),
    ("TRAIN_STEPS", "10"),
    ("BATCH_SIZE", "24"),
)


@pytest.fixture
def job():
    """A training job with batches of 24."""
    return load(TrainJob, ["runs/pretrain.gin", "models/tiny.gin", "memory/fam.gin"], FLAGS).job


def test_a_batch_that_divides_passes(job):
    """24 rows on 8 devices, in 3 parts of 8; how many hosts these devices have is nobody's concern."""
    check_batch(dataclasses.replace(job, num_microbatches=3), num_data_shards=8)


@pytest.mark.parametrize(
    ("microbatches", "shards", "fitting"),
    [(1, 16, "16 or 32"), (6, 8, "48"), (1, 5, "20 or 25")],
)
def test_a_batch_that_does_not_divide_is_told(job, microbatches, shards, fitting):
    """It would end in jax's message on shardings, or in hosts with unequal rows, after minutes of start-up."""
    job = dataclasses.replace(job, num_microbatches=microbatches)
    with pytest.raises(ConfigError, match=rf"batch_size = 24 .*{shards} data-parallel") as caught:
        check_batch(job, shards)
    assert f"--gin.BATCH_SIZE to {fitting}," in str(caught.value)
    assert ("--gin.NUM_MICROBATCHES" in str(caught.value)) == (microbatches > 1)  # the macro; one part is the least
    assert caught.value.exit_code == 2


def test_the_evaluation_batch_is_checked_too(job):
    """Evaluation starts thousands of steps after the start."""
    job = dataclasses.replace(job, eval_data=dataclasses.replace(job.eval_data, batch_size=4))
    with pytest.raises(ConfigError, match="eval_data"):
        check_batch(job, num_data_shards=8)


def test_an_evaluation_job_is_checked(job):
    """Jobs other than training have no microbatches."""
    with pytest.raises(ConfigError, match=r"\(data\)"):
        check_batch(EvalJob(checkpoint="a", data=job.data, output_dir="b", steps=1), num_data_shards=16)


def test_a_vocabulary_larger_than_the_table_is_told(job):
    """Token ids beyond the table read its last row in jax, without an error."""
    check_vocabulary(job.model, 264)
    with pytest.raises(
        ConfigError, match=r"vocab_size = 264 .* 265 tokens; set --gin.TransformerConfig.vocab_size=265"
    ):
        check_vocabulary(job.model, 265)
