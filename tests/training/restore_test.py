"""Starting from another run's checkpoint: exactly what was asked for is taken, and the report says so."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from famjax.errors import CheckpointError, ConfigError
from famjax.training.checkpoints import Checkpointer
from famjax.training.config import CheckpointConfig, RestoreConfig
from famjax.training.restore import find_checkpoint, initialize_from, load_params, read_model_config
from train_states import MODEL, abstract, assert_identical, make_optimizer, make_params, make_state, put

PATHS = (
    "embedding/table",
    "fam_prompt",
    "layers/attention/out/kernel",
    "layers/attention/query/kernel",
    "layers/attention_norm/scale",
)
STEP = 9


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """A run with the checkpoints 4 and 9; parameters and optimizer as make_state(step) gives them."""
    folder = tmp_path_factory.mktemp("run")
    with Checkpointer(folder, CheckpointConfig(period=1), MODEL) as checkpointer:
        for step in (4, STEP):
            checkpointer.save(step, put(make_state(step), 8), {"position": step})
    return folder


@pytest.fixture
def fresh():
    """A new run's parameters and optimizer state: other values than the checkpoint's."""
    state = make_state(100)
    return state.params, state.opt_state


def _initialize(path, fresh, **settings):
    return initialize_from(RestoreConfig(path=str(path), **settings), *fresh)


def _flat(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


@pytest.mark.parametrize("name", ["", f"checkpoint_{STEP}", "checkpoint_4"])
def test_all_parameters_from_a_model_dir_or_a_step(model_dir, fresh, name):
    """The wrong step of a run, or an optimizer that is not fresh by default."""
    start = _initialize(model_dir / name, fresh)
    step = 4 if name == "checkpoint_4" else STEP
    assert_identical(start.params, make_state(step).params)
    assert_identical(start.opt_state, fresh[1])
    assert (start.step, start.report.step) == (0, step)
    assert start.report.taken == PATHS
    assert start.report.initialised == start.report.left == start.report.kept == ()


def test_partial_restore_by_pattern(model_dir, fresh):
    """A pattern that matches a part of a path, or parameters replaced that were not asked for."""
    start = _initialize(model_dir, fresh, parameters=("layers/attention/.*", "embedding/table"))
    taken = {PATHS[0], PATHS[2], PATHS[3]}
    assert set(start.report.taken) == taken
    assert set(start.report.initialised) == set(start.report.left) == set(PATHS) - taken
    stored, new, got = _flat(make_state(STEP).params), _flat(fresh[0]), _flat(start.params)
    for path in PATHS:
        assert not np.array_equal(stored[path], new[path])
        np.testing.assert_array_equal(got[path], stored[path] if path in taken else new[path], err_msg=path)


def test_parameters_that_only_one_of_the_two_has(model_dir, fresh):
    """A new model's own parameter that fails the restore, or a checkpoint's that is dropped without a word."""
    params = {**fresh[0], "output": {"kernel": jnp.ones((16, 32))}}
    del params["fam_prompt"]
    start = _initialize(model_dir, (params, fresh[1]))
    assert start.report.initialised == ("output/kernel",)
    assert start.report.left == ("fam_prompt",)
    np.testing.assert_array_equal(start.params["output"]["kernel"], params["output"]["kernel"])
    assert "fam_prompt" not in start.params
    text = str(start.report)
    assert f"Parameters from {model_dir}/checkpoint_{STEP} (step {STEP}):" in text
    assert "taken (4): embedding/table, layers/attention/out/kernel" in text
    assert "initialised (1): output/kernel" in text
    assert "left (1): fam_prompt" in text
    assert "fresh: optimizer, step" in text


def test_another_function_is_told(model_dir, fresh):
    """Guards against a model file that is not the checkpoint's: its parameters fit, and it computes something else."""
    memory = dataclasses.replace(MODEL.memory, block_size=2 * MODEL.memory.block_size)
    run = dataclasses.replace(MODEL, rope_base=500.0, memory=memory, dtype="bfloat16", residual_init_scale=0.5)
    start = initialize_from(RestoreConfig(path=str(model_dir)), *fresh, model=run)
    assert start.report.different == ("rope_base: checkpoint 10000.0, this run 500.0",)
    assert "this run's model is another one: rope_base: checkpoint 10000.0" in str(start.report)
    same = initialize_from(RestoreConfig(path=str(model_dir)), *fresh, model=MODEL)
    assert same.report.different == ()
    assert "another one" not in str(same.report)


def test_optimizer_and_step_kept(model_dir, fresh):
    """Moments or the step left fresh though the setting says to keep them."""
    start = _initialize(model_dir, fresh, optimizer=True, step=True)
    assert_identical(start.opt_state, make_state(STEP).opt_state)
    assert start.step == STEP
    assert start.report.kept == ("optimizer", "step")
    assert "kept: optimizer, step; fresh: nothing else" in str(start.report)


def test_another_layout_and_dtype(model_dir, fresh):
    """Parameters on other devices, or of another dtype, than those that they replace."""
    params = put(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), fresh[0]), 2)
    start = _initialize(model_dir, (params, fresh[1]))
    for path, leaf in _flat(start.params).items():
        assert leaf.dtype == jnp.float32, path
        assert leaf.sharding == _flat(params)[path].sharding, path
        np.testing.assert_array_equal(leaf, _flat(make_state(STEP).params)[path].astype(jnp.float32), err_msg=path)


def test_optimizer_needs_every_parameter(model_dir, fresh):
    """Moments that do not belong to freshly initialised parameters."""
    with pytest.raises(ConfigError, match=r"optimizer = True needs every parameter.*fam_prompt.*optimizer = False"):
        _initialize(model_dir, fresh, parameters=("layers/.*", "embedding/.*"), optimizer=True)


def test_another_optimizer(model_dir, fresh):
    """A structure mismatch deep inside orbax instead of a message."""
    other = optax.sgd(0.1, momentum=0.9).init(fresh[0])
    with pytest.raises(CheckpointError, match=r"another optimizer.*opt_state/0/trace/.*optimizer = False"):
        _initialize(model_dir, (fresh[0], other), optimizer=True)


def test_shape_mismatch_names_parameter_and_both_shapes(model_dir, fresh):
    """A parameter cut or padded to fit, or an error without its name."""
    params = {**fresh[0], "fam_prompt": jnp.zeros((8, 16))}
    with pytest.raises(CheckpointError, match=r"params/fam_prompt: checkpoint \[4, 16\], this run \[8, 16\]"):
        _initialize(model_dir, (params, fresh[1]))
    start = _initialize(model_dir, (params, fresh[1]), parameters=("(?!fam_prompt).*",))
    assert start.report.initialised == ("fam_prompt",)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("layer/.*", "'layer/.*', which matches no parameter"), ("layers/(", "which is no regular expression")],
)
def test_wrong_patterns(model_dir, fresh, pattern, message):
    """A misspelled pattern that silently takes nothing."""
    with pytest.raises(ConfigError) as error:
        _initialize(model_dir, fresh, parameters=(".*", pattern))
    assert "RestoreConfig.parameters" in str(error.value)
    assert message in str(error.value)


def test_nothing_to_take(model_dir, fresh):
    """A checkpoint of quite another model, taken for a start."""
    params = {"decoder": jnp.ones((2, 2))}
    with pytest.raises(CheckpointError, match=r"has none of the parameters.*it has: embedding/table, fam_prompt"):
        _initialize(model_dir, (params, fresh[1]))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("checkpoint_5", r"checkpoint_5 .* does not exist. Did you mean .*/checkpoint_[49]\?"),
        ("not/there", r"not/there .* does not exist"),
        ("empty", r"empty .* has no checkpoint. It is empty\."),
        ("full", r"full .* has no checkpoint. It has: notes.txt\."),
    ],
)
def test_a_wrong_path_says_what_is_there(model_dir, fresh, tmp_path, name, message):
    """A path error that does not help to find the right path."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("")
    parent = model_dir if name == "checkpoint_5" else tmp_path
    with pytest.raises(CheckpointError, match=message) as error:
        _initialize(parent / name, fresh)
    assert "--gin.INITIAL_CHECKPOINT_PATH" in str(error.value)
    with pytest.raises(CheckpointError, match=r"\(--gin.CHECKPOINT\)"):
        find_checkpoint(parent / name, setting="--gin.CHECKPOINT")


def test_damage_falls_back_in_a_model_dir_only(tmp_path, fresh):
    """A damaged step used, another run's folder changed, or another step than the one asked for."""
    with Checkpointer(tmp_path, CheckpointConfig(period=1), MODEL) as checkpointer:
        for step in (1, 2):
            checkpointer.save(step, make_state(step), {})
    (tmp_path / "checkpoint_2" / "model" / "metadata").unlink()
    lines = []
    start = initialize_from(RestoreConfig(path=str(tmp_path)), *fresh, report=lines.append)
    assert start.report.step == 1
    assert lines == [
        f"Damaged checkpoint {tmp_path}/checkpoint_2: model/metadata is missing.",
        f"Using {tmp_path}/checkpoint_1 in its place.",
    ]
    assert sorted(path.name for path in pathlib.Path(tmp_path).iterdir()) == ["checkpoint_1", "checkpoint_2"]
    with pytest.raises(CheckpointError, match="checkpoint_2: model/metadata is missing"):
        _initialize(tmp_path / "checkpoint_2", fresh)


def test_load_params_for_an_evaluation(model_dir):
    """Parameters that differ from the saved ones on other devices, or a missing one left at its initial value."""
    wanted = abstract(make_params(0), 2)
    params = load_params(model_dir, wanted)
    assert_identical(params, make_state(STEP).params)
    assert params["fam_prompt"].sharding == wanted["fam_prompt"].sharding
    with pytest.raises(CheckpointError, match=f"checkpoint_{STEP} lacks params/output/kernel"):
        load_params(model_dir, {**wanted, "output": {"kernel": wanted["fam_prompt"]}})
    with pytest.raises(CheckpointError, match=r"params/fam_prompt: checkpoint \[4, 16\], this run \[1, 16\]"):
        load_params(model_dir, {**wanted, "fam_prompt": abstract(jnp.zeros((1, 16)))})


def test_load_params_reads_nothing_else(model_dir, monkeypatch):
    """An evaluation that needs memory for the optimizer's state too."""
    read = []
    original = jax.make_array_from_single_device_arrays

    def count(shape, *arguments, **settings):
        read.append(shape)
        return original(shape, *arguments, **settings)

    monkeypatch.setattr(jax, "make_array_from_single_device_arrays", count)
    load_params(model_dir, abstract(make_params(0)))
    assert len(read) == len(PATHS)


def test_the_model_that_a_checkpoint_was_trained_with(model_dir):
    """An evaluation with other settings than those of the training."""
    other = dataclasses.replace(MODEL, emb_dim=99)
    assert other != MODEL
    assert read_model_config(model_dir) == MODEL
    assert read_model_config(model_dir / "checkpoint_4") == MODEL


def test_optimizers_of_the_fixture_differ(fresh):
    """Guards the tests above: what they compare must not be equal to begin with."""
    assert jax.tree.structure(fresh[1]) == jax.tree.structure(make_optimizer().init(fresh[0]))
    assert not np.array_equal(jax.tree.leaves(fresh[1])[-1], jax.tree.leaves(make_state(STEP).opt_state)[-1])
