"""From paths and globs to checkpoints in a fixed order."""

import shutil

import pytest

from famjax.errors import CheckpointError, ConfigError
from famjax.evaluation.scan.checkpoints import GridCheckpoint, find_checkpoints, find_new, fingerprint, followed
from scan_folders import write_checkpoint
from tiny_job import MODEL


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """The runs fam_a (steps 9 and 10) and fam_b (5), seen from their folder."""
    for name, steps in (("fam_a", (9, 10)), ("fam_b", (5,))):
        for step in steps:
            write_checkpoint(tmp_path / name, step)
    (tmp_path / "notes").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(checkpoints, every=None):
    """Name and path of each checkpoint."""
    return [(each.name, each.path) for each in find_checkpoints(checkpoints, every)]


def test_latest_of_a_model_dir(runs):
    """Guards against the latest by name, where checkpoint_9 comes after checkpoint_10; the path is the user's."""
    assert found("fam_a") == [("fam_a", "fam_a/checkpoint_10")]
    assert found({"FAM": str(runs / "fam_a")}) == [("FAM", str(runs / "fam_a" / "checkpoint_10"))]


def test_every_one(runs):
    """Guards against a count that leaves the latest out, and against steps in falling order."""
    for step in (1, 2, 3):
        write_checkpoint(runs / "fam_a", step)
    assert [path for _, path in found("fam_a", 2)] == [f"fam_a/checkpoint_{step}" for step in (1, 3, 10)]
    assert len(found("fam_a", 1)) == 5


def test_one_checkpoint_and_several_paths(runs):
    """Guards against a checkpoint folder taken for a run, and against a list that is sorted."""
    assert found(("fam_b", "fam_a/checkpoint_9/")) == [
        ("fam_b", "fam_b/checkpoint_5"),
        ("fam_a", "fam_a/checkpoint_9"),
    ]


def test_globs(runs):
    """Guards against folders that are no runs, and against runs of a glob that share the glob's name."""
    assert found("fam_*") == [("fam_a", "fam_a/checkpoint_10"), ("fam_b", "fam_b/checkpoint_5")]
    assert found({"FAM": "fam_*"}) == [("FAM fam_a", "fam_a/checkpoint_10"), ("FAM fam_b", "fam_b/checkpoint_5")]
    assert found({"FAM": "fam_a/checkpoint_*"}) == [("FAM", "fam_a/checkpoint_10"), ("FAM", "fam_a/checkpoint_9")]
    assert found("*") == found("fam_*")


def test_what_is_known_of_a_checkpoint(runs):
    """Guards against a grid that cannot be written down, and against another run's checkpoint that passes for this."""
    (checkpoint,) = find_checkpoints("fam_b", None)
    assert (checkpoint.step, checkpoint.config, checkpoint.exists) == (5, MODEL, True)
    assert GridCheckpoint.from_json(checkpoint.to_json(), "grid.json") == checkpoint
    shutil.rmtree(runs / "fam_b")
    assert not checkpoint.exists
    write_checkpoint(runs / "fam_b", 5, salt="trained anew")
    assert fingerprint(checkpoint.folder.path) != checkpoint.fingerprint


@pytest.mark.parametrize("path", ["nowhere", "notes", "fam_a/checkpoint_11", "no*thing"])
def test_missing_checkpoints(runs, path):
    """Guards against a grid that silently lacks a model; the message names the path and the flag."""
    with pytest.raises(CheckpointError) as error:
        find_checkpoints(("fam_a", path), None)
    assert path in str(error.value)
    assert "--gin.CHECKPOINTS" in str(error.value)


def test_a_checkpoint_without_settings(runs):
    """Guards against a traceback where a checkpoint is damaged."""
    shutil.rmtree(runs / "fam_b" / "checkpoint_5" / "model")
    with pytest.raises(CheckpointError, match="model settings cannot be read"):
        find_checkpoints("fam_b", None)


def test_two_runs_of_one_name(runs):
    """Guards against the results of two runs that cannot be told apart."""
    write_checkpoint(runs / "other" / "fam_a", 3)
    with pytest.raises(ConfigError, match="both called 'fam_a'; give them names"):
        find_checkpoints(("fam_a", "other/fam_a"), None)
    with pytest.raises(ConfigError, match="both called 'fam_a'"):
        followed(("fam_a", "other/fam_a"))


def test_new_checkpoints(runs):
    """Guards against a checkpoint that is evaluated twice or never, and against a run that has not begun."""
    following = followed({"A": "fam_a", "later": "fam_c"})
    assert following == {"A": "fam_a", "later": "fam_c"}
    lines = []
    first = find_new(following, (), lines.append)
    assert [(each.name, each.path) for each in first] == [("A", "fam_a/checkpoint_9"), ("A", "fam_a/checkpoint_10")]
    write_checkpoint(runs / "fam_c", 1)
    shutil.rmtree(runs / "fam_a" / "checkpoint_9")
    assert [each.path for each in find_new(following, first, lines.append)] == ["fam_c/checkpoint_1"]
    assert lines == []
    (runs / "fam_c" / "checkpoint_1" / "checksums.json").unlink()
    assert find_new(following, first, lines.append) == []
    assert len(lines) == 1
    assert "fam_c/checkpoint_1" in lines[0]


@pytest.mark.parametrize("path", ["fam_*", "fam_a/checkpoint_9"])
def test_what_cannot_be_followed(runs, path):
    """Guards against a watch of one checkpoint, which never ends."""
    with pytest.raises(ConfigError, match=r"ScanJob\.watch needs MODEL_DIRs"):
        followed(path)
