"""MODEL_DIR is checked before anything slow."""

import jax
import jax.numpy as jnp
import pytest
from etils import epath

from famjax.errors import CheckpointError
from famjax.training import model_dir
from famjax.training.model_dir import checkpoint_bytes, hold, prepare_model_dir


def test_a_good_folder_is_made_and_left_clean(tmp_path, monkeypatch):
    """A probe file left behind; a relative path that orbax refuses later."""
    monkeypatch.chdir(tmp_path)
    folder = prepare_model_dir("new/run", 1000)
    assert str(folder) == str(tmp_path / "new" / "run")
    assert list(folder.iterdir()) == []


def test_an_unwritable_folder(tmp_path):
    """Found after an hour, when the first checkpoint is due. A file in the way, since root may write anywhere."""
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(CheckpointError, match=r"cannot be written \(.+\)\. Set --gin\.MODEL_DIR") as error:
            prepare_model_dir(path, 0)
        assert str(path) in str(error.value)
        assert error.value.exit_code == 4


def test_an_empty_path():
    """An empty variable of the shell would fill the working directory with checkpoints."""
    with pytest.raises(CheckpointError, match=r"MODEL_DIR is empty\. Set --gin\.MODEL_DIR"):
        prepare_model_dir("", 0)


def test_a_full_disk(tmp_path):
    """Found after an hour; or a message without the figures."""
    with pytest.raises(CheckpointError) as error:
        prepare_model_dir(tmp_path, 10**18)
    message = str(error.value)
    assert str(tmp_path) in message
    assert "needs 1,000,000,000,000,000,000" in message
    assert "bytes free" in message
    assert "--gin.MODEL_DIR" in message


def test_the_free_space_is_enough_for_one_checkpoint(tmp_path, monkeypatch):
    """Off by one, or another disk asked than the folder's."""
    asked = []

    class Usage:
        free = 500

    monkeypatch.setattr(model_dir.shutil, "disk_usage", lambda path: asked.append(str(path)) or Usage)
    prepare_model_dir(tmp_path, 500)
    with pytest.raises(CheckpointError):
        prepare_model_dir(tmp_path, 501)
    assert asked == [str(tmp_path)] * 2


def test_bytes_of_a_state():
    """Bytes counted by elements, or only of concrete arrays."""
    state = {"a": jnp.zeros((3, 5), jnp.bfloat16), "b": jnp.zeros((2, 0)), "c": jnp.int32(1), "d": None}
    assert checkpoint_bytes(state) == 3 * 5 * 2 + 4
    assert checkpoint_bytes(jax.eval_shape(lambda: state)) == 34


def test_one_run_at_a_time(tmp_path):
    """Guards against two runs that overwrite each other's checkpoints and log, and against a lock that stays."""
    folder = epath.Path(tmp_path)
    refused = pytest.raises(CheckpointError, match=r"another run is writing there.*--gin\.MODEL_DIR")
    with hold(folder), refused, hold(folder):
        pass
    with hold(folder):
        assert not list(tmp_path.iterdir())
