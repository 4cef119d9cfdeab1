"""Checkpoints: what is saved comes back, whatever happened to the process, the disk or the latest files."""

import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from famjax.errors import CheckpointError, ConfigError
from famjax.training import checkpoint_files, checkpoints
from famjax.training.checkpoints import Checkpointer, LatestAndBest
from famjax.training.config import CheckpointConfig
from train_states import MODEL, abstract, assert_identical, make_state, put

EVERY_STEP = CheckpointConfig(period=1)
DATA = {"files": ["a", "b"], "position": 12345678901, "random": [1, 2]}


def _open_checkpointer(folder, config=EVERY_STEP, model=MODEL, report=lambda _: None):
    return Checkpointer(folder, config, model, report=report)


def _save_steps(folder, *steps, config=EVERY_STEP):
    with _open_checkpointer(folder, config) as checkpointer:
        for step in steps:
            assert checkpointer.save(step, make_state(step), {"position": step})


def _folder_names(folder):
    return sorted(path.name for path in pathlib.Path(folder).iterdir())


@pytest.mark.parametrize("fam_length", [0, 4])
@pytest.mark.parametrize("num_devices", [1, 8])
def test_round_trip(tmp_path, fam_length, num_devices):
    """A kind of array or of empty node that is lost or changed: size zero, bfloat16, bool, keys, NaN, masked, None."""
    state = make_state(3, fam_length)
    with _open_checkpointer(tmp_path) as checkpointer:
        assert checkpointer.save(7, put(state, num_devices), DATA)
    with _open_checkpointer(tmp_path) as checkpointer:
        assert checkpointer.latest_step() == 7
        restored = checkpointer.restore(abstract(state, num_devices))
    assert restored is not None
    assert (restored.step, restored.data_state) == (7, DATA)
    assert_identical(restored.state, state)


@pytest.mark.parametrize(("saved_on", "restored_on"), [(8, 2), (2, 8), (8, 1), (1, 8)])
def test_restores_onto_another_number_of_devices(tmp_path, saved_on, restored_on):
    """A checkpoint tied to the devices that it was saved on."""
    state = make_state(5)
    with _open_checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, put(state, saved_on), {})
        restored = checkpointer.restore(abstract(state, restored_on))
    assert restored is not None
    assert_identical(restored.state, state)
    for leaf, wanted in zip(
        jax.tree.leaves(restored.state), jax.tree.leaves(abstract(state, restored_on)), strict=True
    ):
        assert leaf.sharding == wanted.sharding
        assert len(leaf.sharding.device_set) == restored_on


def test_nothing_to_restore(tmp_path):
    """A fresh MODEL_DIR taken for a damaged one."""
    with _open_checkpointer(tmp_path / "new") as checkpointer:
        assert checkpointer.latest_step() is None
        assert checkpointer.restore(abstract(make_state())) is None


def test_donated_buffers_do_not_reach_the_files(tmp_path):
    """The train step overwrites a buffer that the background thread still has to write."""
    train = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)
    state = train({f"weight_{index}": jnp.zeros((1024, 1024)) for index in range(4)})
    with _open_checkpointer(tmp_path) as checkpointer:
        for step in range(1, 4):
            before = float(state["weight_0"][0, 0])
            saved = jax.tree.map(np.copy, state)
            checkpointer.save(step, state, {})
            for _ in range(5):
                state = train(state)
            jax.block_until_ready(state)
            restored = checkpointer.restore(abstract(state))
            assert restored is not None
            assert_identical(restored.state, saved)
            assert float(state["weight_0"][0, 0]) == before + 5


def test_period_force_and_the_same_step_twice(tmp_path):
    """Saves off the period, a forced save refused, a step saved twice that fails or overwrites."""
    state = make_state()
    with _open_checkpointer(tmp_path, CheckpointConfig(period=10)) as checkpointer:
        assert not checkpointer.save(5, state, {"first": 1})
        assert checkpointer.save(10, state, {"first": 1})
        assert not checkpointer.save(10, state, {"second": 2})
        assert not checkpointer.save(10, state, {"second": 2}, force=True)
        assert checkpointer.save(13, state, {"first": 3}, force=True)
    assert _folder_names(tmp_path) == ["checkpoint_10", "checkpoint_13"]
    assert checkpoint_files.read_json(checkpoint_files.absolute_path(tmp_path) / "checkpoint_10", "data_state") == {
        "first": 1
    }


LOSSES = {1: 0.5, 2: 0.1, 3: 0.9, 4: 0.2, 5: 0.8, 6: 0.7}


@pytest.mark.parametrize(
    ("keep", "keep_best", "mode", "expected"),
    [
        (2, 0, "min", [5, 6]),
        (2, 2, "min", [2, 4, 5, 6]),
        (1, 1, "max", [3, 6]),
        (3, 1, "min", [2, 4, 5, 6]),
        (None, 1, "min", [1, 2, 3, 4, 5, 6]),
    ],
)
def test_keeps_the_latest_and_the_best(tmp_path, keep, keep_best, mode, expected):
    """The best deleted as old, the latest deleted as bad, or the metrics forgotten by a resume (after step 3)."""
    config = CheckpointConfig(
        period=1, keep=keep, keep_best=keep_best, best_metric="validation/loss" if keep_best else None, best_mode=mode
    )
    state = {"step": jnp.int32(0)}
    for steps in ((1, 2, 3), (4, 5, 6)):
        with _open_checkpointer(tmp_path, config) as checkpointer:
            for step in steps:
                checkpointer.save(step, state, {}, metrics={"validation/loss": LOSSES[step], "other": 1.0})
    assert _folder_names(tmp_path) == [f"checkpoint_{step}" for step in expected]


def test_checkpoints_without_the_metric_are_not_best():
    """A save between evaluations, or a NaN, that crowds out a measured checkpoint."""
    policy = LatestAndBest(1, 1, "min", {1: float("nan"), 2: 0.3})
    infos = [checkpoint_files.StepFolder(checkpoint_files.absolute_path("/none"), step) for step in (1, 2, 3, 4)]
    assert policy.should_preserve(infos, context=None) == [False, True, False, True]


def test_a_misspelled_best_metric_is_named(tmp_path):
    """keep_best that silently keeps nothing."""
    config = CheckpointConfig(period=1, keep_best=1, best_metric="validation/los")
    message = r"'validation/los' is no metric.*it has: validation/loss"
    with _open_checkpointer(tmp_path, config) as checkpointer, pytest.raises(ConfigError, match=message):
        checkpointer.save(1, make_state(), {}, metrics={"validation/loss": 1.0})


def _largest_file(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def _delete_largest(folder):
    _largest_file(folder).unlink()


def _truncate_largest(folder):
    path = _largest_file(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip_a_byte_of_an_array(folder):
    path = _largest_file(folder / "state")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(bytes(content))


def _alter_data_state(folder):
    (folder / "data_state" / "metadata").write_text(json.dumps({"position": 0}))


def _remove_item(folder):
    (folder / "data_state").rename(folder.parent / "elsewhere")


def _remove_checksums(folder):
    (folder / "checksums.json").unlink()


def _empty_checksums(folder):
    (folder / "checksums.json").write_text("")


@pytest.mark.parametrize(
    ("harm", "cause"),
    [
        (_delete_largest, "state/.* is missing"),
        (_truncate_largest, "state/.* has [0-9]+ bytes; [0-9]+ were written"),
        (_flip_a_byte_of_an_array, "state/.* is not what was written"),
        (_alter_data_state, "data_state/metadata (has|is not)"),
        (_remove_item, "the item data_state is missing"),
        (_remove_checksums, "checksums.json is missing"),
        (_empty_checksums, "checksums.json cannot be read"),
    ],
)
def test_a_damaged_latest_checkpoint_is_reported_and_passed_over(tmp_path, harm, cause):
    """A damaged file that ends the run, is read as values, or whose step can never be saved again."""
    _save_steps(tmp_path, 1, 2)
    harm(tmp_path / "checkpoint_2")
    lines = []
    with _open_checkpointer(tmp_path, report=lines.append) as checkpointer:
        restored = checkpointer.restore(abstract(make_state()))
        assert restored is not None
        assert (restored.step, restored.data_state) == (1, {"position": 1})
        assert_identical(restored.state, make_state(1))
        assert checkpointer.latest_step() == 1
        again = make_state(22)
        assert checkpointer.save(2, again, {"position": 22})
        restored = checkpointer.restore(abstract(again))
    assert restored is not None
    assert_identical(restored.state, again)
    assert len(lines) == 2
    assert re.search(rf"{tmp_path}/checkpoint_2: {cause}", lines[0])
    assert "\n" not in lines[0]
    assert f"{tmp_path}/checkpoint_2.damaged" in lines[1]
    assert {"checkpoint_1", "checkpoint_2", "checkpoint_2.damaged"} <= set(_folder_names(tmp_path))


def test_all_damaged(tmp_path):
    """A run that starts from scratch over its damaged checkpoints, or moves the evidence away."""
    _save_steps(tmp_path, 1, 2)
    _delete_largest(tmp_path / "checkpoint_1")
    _remove_item(tmp_path / "checkpoint_2")
    message = r"No checkpoint can be used.*checkpoint_2: .*checkpoint_1: "
    with _open_checkpointer(tmp_path) as checkpointer, pytest.raises(CheckpointError, match=message) as error:
        checkpointer.restore(abstract(make_state()))
    assert error.value.exit_code == 4
    assert {"checkpoint_1", "checkpoint_2"} <= set(_folder_names(tmp_path))


def test_no_process_goes_on_from_another_checkpoint_than_the_others(tmp_path, monkeypatch):
    """A host that cannot read the latest checkpoint goes on from the one before, and the others from the latest."""
    _save_steps(tmp_path, 1, 2)
    verdicts = []

    def one_other_cannot_read(verdict):
        verdicts.append(verdict)
        return verdict and len(verdicts) != 2  # The first is on checksums.

    with _open_checkpointer(tmp_path) as checkpointer:
        monkeypatch.setattr(checkpoints, "all_agree", one_other_cannot_read)
        with pytest.raises(CheckpointError, match=r"checkpoint_2 is read by process 0, but not by every process"):
            checkpointer.restore(abstract(make_state()))
    assert verdicts == [True, True]
    assert _folder_names(tmp_path) == ["checkpoint_1", "checkpoint_2"]


def test_another_model_is_refused_with_the_differing_settings(tmp_path):
    """A checkpoint read into another model, or taken for damaged; or a message that does not say what differs."""
    _save_steps(tmp_path, 1)
    memory = dataclasses.replace(MODEL.memory, fam_length=8)
    other = dataclasses.replace(MODEL, emb_dim=256, memory=memory, remat_policy="full", dropout_rate=0.1)
    with _open_checkpointer(tmp_path, model=other) as checkpointer, pytest.raises(CheckpointError) as error:
        checkpointer.restore(abstract(make_state()))
    assert "emb_dim: checkpoint 16, this run 256; memory.fam_length: checkpoint 0, this run 8." in str(error.value)
    assert "remat" not in str(error.value)
    assert "dropout" not in str(error.value)
    assert _folder_names(tmp_path) == ["checkpoint_1"]


def test_another_optimizer_is_refused_not_called_damaged(tmp_path):
    """A whole checkpoint moved aside because the run's optimizer changed."""
    _save_steps(tmp_path, 1, 2)
    state = make_state()
    other = state.replace(opt_state=optax.sgd(0.1, momentum=0.9).init(state.params))
    with _open_checkpointer(tmp_path) as checkpointer, pytest.raises(CheckpointError) as error:
        checkpointer.restore(abstract(other))
    assert "checkpoint_2 has another train state" in str(error.value)
    assert "opt_state/0/trace/embedding/table: only in this run" in str(error.value)
    assert _folder_names(tmp_path) == ["checkpoint_1", "checkpoint_2"]


def test_temporary_folders_of_a_killed_save_are_removed(tmp_path):
    """A folder that orbax leaves when a save is killed, taken for a checkpoint or in the way of the next save."""
    _save_steps(tmp_path, 1)
    for name in ("checkpoint_2.orbax-checkpoint-tmp", "checkpoint_3.orbax-checkpoint-tmp-1234"):
        (tmp_path / name / "state.orbax-checkpoint-tmp").mkdir(parents=True)
        (tmp_path / name / "state.orbax-checkpoint-tmp" / "d").write_text("half")
    with _open_checkpointer(tmp_path) as checkpointer:
        restored = checkpointer.restore(abstract(make_state()))
        assert restored is not None
        assert restored.step == 1
        assert checkpointer.save(2, make_state(2), {})
    assert _folder_names(tmp_path) == ["checkpoint_1", "checkpoint_2"]


SAVES = """
import sys
import numpy as np
import jax.numpy as jnp
from famjax.errors import CheckpointError
from famjax.training.checkpoints import Checkpointer
from famjax.training.config import CheckpointConfig
from train_states import MODEL

checkpointer = Checkpointer(sys.argv[1], CheckpointConfig(period=1, keep=2), MODEL)
weights = jnp.asarray(np.random.default_rng(0).normal(size=(64, 1024)), jnp.float32)

def save(step):
    checkpointer.save(step, {"weights": weights + step, "step": jnp.int32(step)}, {"step": step})
"""
UNTIL_KILLED = """
for step in range(1, 1000):
    save(step)
    print(step, flush=True)
"""
UNTIL_THE_DISK_IS_FULL = """
import resource

save(1)
checkpointer.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
try:
    save(2)
    checkpointer.close()
except CheckpointError as error:
    print(error)
    sys.exit(error.exit_code)
"""
WEIGHTS = np.random.default_rng(0).normal(size=(64, 1024)).astype(np.float32)


def _start(tmp_path, source, *arguments):
    """Starts a process that saves to tmp_path / "run"."""
    script = tmp_path / "script.py"
    script.write_text(source)
    root = str(pathlib.Path(__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "run"), *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((root, f"{root}/tests"))},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def _restore_weights(model_dir):
    """Restores what the process saved; asserts that it is whole, and that nothing was reported as damaged."""
    reports = []
    with _open_checkpointer(model_dir, report=reports.append) as checkpointer:
        restored = checkpointer.restore(abstract({"weights": jnp.asarray(WEIGHTS), "step": jnp.int32(0)}))
    assert restored is not None
    assert not reports
    assert restored.data_state == {"step": restored.step}
    assert int(restored.state["step"]) == restored.step
    np.testing.assert_array_equal(np.asarray(restored.state["weights"]), WEIGHTS + np.float32(restored.step))
    assert all(name.removeprefix("checkpoint_").isdigit() for name in _folder_names(model_dir))
    return restored.step


def test_sigkill_in_the_middle_of_a_save(tmp_path):
    """A kill at any moment that leaves a checkpoint half written, or a folder that the next start cannot live with."""
    for delay in (0.0, 0.013, 0.031):
        with _start(tmp_path, SAVES + UNTIL_KILLED) as process:
            lines = [process.stdout.readline().strip() for _ in range(4)]
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        assert lines[-1].isdigit(), "the script ended before it was killed"
        assert _restore_weights(tmp_path / "run") >= 3  # Step 4 is being written when its line is printed.


@pytest.mark.parametrize("bytes_left", ["64", "1000"])
def test_a_disk_that_fills_during_the_run(tmp_path, bytes_left):
    """A save that fails, at once (64) or in the background (1000), with a traceback, unheard, or as a checkpoint."""
    with _start(tmp_path, SAVES + UNTIL_THE_DISK_IS_FULL, bytes_left) as process:
        message = process.stdout.read()
    assert process.returncode == 4
    assert re.fullmatch(rf"{tmp_path}/run/checkpoint_2 could not be written: .*--gin.MODEL_DIR .*\n", message)
    assert _restore_weights(tmp_path / "run") == 1


def test_a_save_that_cannot_start(tmp_path, monkeypatch):
    """A traceback from inside orbax; or a failed step, still on the devices, blamed on the disk."""

    def fail(error):
        def save(*_, **__):
            raise error

        return save

    with _open_checkpointer(tmp_path) as checkpointer:
        monkeypatch.setattr(checkpointer._manager, "save", fail(ValueError("no space\nleft")))
        with pytest.raises(CheckpointError, match="checkpoint_1 could not be written: ValueError: no space left"):
            checkpointer.save(1, make_state(), {})
        monkeypatch.setattr(checkpointer._manager, "save", fail(jax.errors.JaxRuntimeError("out of memory")))
        with pytest.raises(jax.errors.JaxRuntimeError):
            checkpointer.save(1, make_state(), {})
