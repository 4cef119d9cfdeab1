"""Which folders are checkpoints, in which order; the checksums are there before the final name is."""

import pathlib

import pytest

from famjax.errors import CheckpointError
from famjax.training import checkpoint_files as files
from famjax.training.checkpoints import Checkpointer
from famjax.training.config import CheckpointConfig
from train_states import MODEL, make_state


def test_step_folders_by_number(tmp_path):
    """Steps in the order of their names (10 before 9), or folders moved aside and temporary ones counted."""
    for name in ("checkpoint_9", "checkpoint_10", "checkpoint_8.damaged", "checkpoint_11.orbax-checkpoint-tmp", "logs"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint_12").write_text("a file")
    assert [folder.step for folder in files.step_folders(files.absolute_path(tmp_path))] == [10, 9]
    assert files.step_folders(files.absolute_path(tmp_path / "none")) == []


def test_paths(tmp_path, monkeypatch):
    """A relative path or "~" that orbax refuses, or a bucket made a local folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert str(files.absolute_path("run")) == str(files.absolute_path("~/run")) == str(tmp_path / "run")
    assert str(files.absolute_path("gs://bucket/run")) == "gs://bucket/run"
    assert files.is_remote(files.absolute_path("gs://bucket/run"))


def test_sealed_before_the_folder_has_its_final_name(tmp_path, monkeypatch):
    """A kill between the rename and the checksums that leaves a whole checkpoint which counts as damaged."""
    present = []
    original = files.seal

    def watch(model_dir, step):
        original(model_dir, step)
        present.extend(str(path.relative_to(tmp_path)) for path in pathlib.Path(tmp_path).glob("*/checksums.json"))

    monkeypatch.setattr(files, "seal", watch)
    with Checkpointer(tmp_path, CheckpointConfig(period=1), MODEL) as checkpointer:
        checkpointer.save(3, make_state(), {})
    assert present == ["checkpoint_3.orbax-checkpoint-tmp/checksums.json"]
    assert files.damage(files.absolute_path(tmp_path) / "checkpoint_3") is None


def test_all_damaged_names_each(tmp_path):
    """A message that names only the last."""
    for step in (1, 2):
        (tmp_path / f"checkpoint_{step}").mkdir()
    lines = []
    with pytest.raises(CheckpointError, match=r"checkpoint_2: the item state is missing; .*checkpoint_1: the item"):
        files.first_undamaged(files.candidates(tmp_path, "--gin.X"), lines.append)
    assert len(lines) == 2


def test_many_names_are_shortened():
    """A message of a thousand lines."""
    assert files.shortened([str(number) for number in range(8)]) == "0, 1, 2, 3, 4, 5 and 2 more"
    assert files.shortened(["a"]) == "a"
