"""From the data to the devices: no example lost or repeated, whatever the stage; padding where the model expects it."""

import itertools

import numpy as np
import pytest

from famjax.errors import DataError
from famjax.pods.config import MeshConfig
from famjax.pods.mesh import make_mesh
from famjax.training.config import Stage
from famjax.training.feed import TrainingFeed, device_batch, device_batches
from tiny_job import BATCH, make_data, write_documents

STAGES = (Stage(max_length=24, min_length=20), Stage(max_length=32, min_length=28))


@pytest.fixture(scope="module")
def mesh():
    """8 x 1 devices."""
    return make_mesh(MeshConfig())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Text and questions, shuffled."""
    return make_data(write_documents(tmp_path_factory.mktemp("documents")))


def open_feed(data, mesh, state=None, stages=STAGES) -> TrainingFeed:
    """The feed of a run that begins, or that goes on from a state."""
    return TrainingFeed(data, stages, mesh, state)


def read(feed: TrainingFeed, stages: list[int]) -> list[np.ndarray]:
    """The tokens of one batch for each stage."""
    batches = [np.asarray(feed.next_batch(stage)["tokens"]) for stage in stages]
    feed.close()
    return batches


def test_a_stage_goes_on_where_the_one_before_ended(data, mesh):
    """Guards against examples that come again, or never, where batches made ahead are thrown away with their stage."""
    feed = open_feed(data, mesh)
    short = read(feed, [0, 0, 0])
    alone = read(open_feed(data, mesh), [0, 0, 1, 1, 0])
    assert [batch.shape for batch in alone] == [(BATCH, 24)] * 2 + [(BATCH, 32)] * 2 + [(BATCH, 24)]
    np.testing.assert_array_equal(alone[0], short[0])
    np.testing.assert_array_equal(alone[1], short[1])
    long = read(open_feed(data, mesh), [1, 1, 1, 1])
    np.testing.assert_array_equal(alone[2], long[2])
    np.testing.assert_array_equal(alone[3], long[3])
    fifth = read(open_feed(data, mesh), [0] * 5)
    np.testing.assert_array_equal(alone[4], fifth[4])
    assert all((left != right).any() for left, right in itertools.pairwise(long))


@pytest.mark.parametrize("stages", [[0, 0, 0, 0], [0, 1, 1, 0], [1, 0, 1, 1]], ids=str)
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_goes_on_from_a_saved_place(data, mesh, stages, stop):
    """Guards against a checkpoint that counts the batches made ahead, and against one taken as a stage changes."""
    whole = read(open_feed(data, mesh), stages)
    first = open_feed(data, mesh)
    for stage in stages[:stop]:
        first.next_batch(stage)
    state = first.state()
    first.close()
    resumed = open_feed(data, mesh, state)
    assert resumed.state() == state
    rest = read(resumed, stages[stop:])
    for actual, expected in zip(rest, whole[stop:], strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_lengths(data, mesh):
    """Guards against a shape that is compiled for and another one that is fed."""
    feed = open_feed(data, mesh)
    assert [feed.length(stage) for stage in (0, 1)] == [24, 32]
    assert open_feed(data, mesh, stages=()).length(0) == 32
    assert feed.state() == {}
    assert feed.skipped == {}
    feed.close()


def test_training_data_that_ends(data, mesh):
    """Guards against a StopIteration that ends the run as if it were finished."""
    ending = make_data(data.tasks["text"].paths[0], mixture_or_task_name="recall", split="validation", shuffle=False)
    feed = open_feed(ending, mesh)
    feed.next_batch(1)
    with pytest.raises(DataError, match=r"recall, split 'validation', has ended; training needs.*DataConfig.split"):
        feed.next_batch(1)
    feed.close()


def test_evaluation_reads_from_the_beginning(data, mesh):
    """Guards against evaluations that score other examples each time, or more than were asked for."""
    first = [np.asarray(batch["tokens"]) for batch in device_batches(data, mesh, 3)]
    again = [np.asarray(batch["tokens"]) for batch in device_batches(data, mesh, 2)]
    assert (len(first), len(again)) == (3, 2)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    (exact,) = device_batches(data, mesh, 1, length=28)
    assert exact["tokens"].shape == (BATCH, 28)
    assert np.asarray(exact["lengths"]).tolist() == [28] * BATCH


def test_validity_becomes_lengths(mesh):
    """Guards against padding in front, which the model would read as tokens."""
    shape = (8, 4)
    batch = {
        "tokens": np.ones(shape, np.int32),
        "targets": np.ones(shape, np.int32),
        "weights": np.ones(shape, np.float32),
        "answers": np.zeros(shape, bool),
        "valid": np.arange(4) < np.array([4, 0, 1, 2, 3, 4, 4, 4])[:, None],
    }
    placed = device_batch(batch, mesh)
    assert np.asarray(placed["lengths"]).tolist() == [4, 0, 1, 2, 3, 4, 4, 4]
    assert "valid" not in placed
    batch["valid"][3] = [False, True, True, False]
    with pytest.raises(DataError, match="padding before or between tokens"):
        device_batch(batch, mesh)
