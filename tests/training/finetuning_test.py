"""A finetuning over a frozen base: what is trained, what checkpoints hold, which base is taken."""

import dataclasses
import functools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from jax.extend.core import jaxprs_in_params
from jax.sharding import PartitionSpec

from famjax.errors import CheckpointError, ConfigError
from famjax.models.lora_config import LoraConfig
from famjax.models.transformer import Transformer, parameter_shapes
from famjax.pods.config import MeshConfig
from famjax.training import checkpoint_files as files
from famjax.training import loop
from famjax.training.base import read_reference
from famjax.training.checkpoints import Checkpointer
from famjax.training.config import AdamW, CheckpointConfig, Curriculum, RestoreConfig, Schedule
from famjax.training.finetuning_config import Finetuning
from famjax.training.parameter_paths import path_name
from famjax.training.program import abstract_batch, make_program
from famjax.training.restore import find_checkpoint, initialize_from, load_params
from famjax.training.step import train_step
from tiny_job import MODEL, make_job
from train_states import assert_identical

LORA = LoraConfig(rank=2, alpha=4.0, dropout=0.1)
ADAPTED = dataclasses.replace(MODEL, lora=LORA)
MEMORY = {"fam_prompt"}
ADAPTERS = {path for path in parameter_shapes(ADAPTED) if "/lora_" in path}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the run "base", 2 steps long."""
    folder = tmp_path_factory.mktemp("finetuning")
    loop.train(make_job(folder, "base", total_steps=2, curriculum=Curriculum()))
    return folder


def job_of(folder, name, **changes):
    """A job that finetunes the base; LoRA unless `changes` say otherwise."""
    settings = {
        "model": ADAPTED,
        "restore": RestoreConfig(path=str(folder / "base")),
        "optimizer": AdamW(schedule=Schedule(peak=1e-2)),
        "curriculum": Curriculum(),
        "total_steps": 4,
        "checkpoint": CheckpointConfig(period=2),
    }
    return make_job(folder, name, **{**settings, **changes})


def memory_only(folder, name, **changes):
    """A job that trains the FAM prompt alone."""
    return job_of(folder, name, **{"model": MODEL, "finetuning": Finetuning(memory_only=True), **changes})


@pytest.fixture(scope="module")
def lora_run(folder):
    """A finished LoRA run over the base."""
    job = job_of(folder, "lora")
    loop.train(job)
    return job


@pytest.fixture(scope="module")
def memory_run(folder):
    """A finished run that trained the FAM prompt over the base, kept in bfloat16, and was evaluated on the way."""
    job = memory_only(folder, "memory", finetuning=Finetuning(memory_only=True, base_dtype="bfloat16"))
    held_out = dataclasses.replace(job.data, mixture_or_task_name="recall", split="validation", shuffle=False)
    job = dataclasses.replace(job, eval_data=held_out, eval_period=4, eval_steps=1)
    loop.train(job)
    return job


def all_params(job, **settings):
    """All parameters of a job's last checkpoint, those of the base included, by path."""
    abstract = make_program(dataclasses.replace(job, finetuning=Finetuning(job.finetuning.memory_only))).abstract_state
    return flatten_dict(load_params(job.model_dir, abstract.params, **settings), sep="/")


def final_state(job):
    """What a job's last checkpoint holds."""
    program = make_program(job)
    with Checkpointer(job.model_dir, job.checkpoint, job.model) as checkpointer:
        restored = checkpointer.restore(program.saved_part(program.abstract_state))
    assert restored is not None
    return restored


def products(job):
    """The shapes of all matrix products of a train step, scans and conditions included."""
    program = make_program(job)
    step = functools.partial(
        train_step, job=job, model=Transformer(job.model, deterministic=False), optimizer=program.optimizer
    )
    batch = abstract_batch(job.data.batch_size, job.data.length, program.mesh)
    shapes = []

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "dot_general":
                shapes.append(equation.outvars[0].aval.shape)
            for inner in jaxprs_in_params(equation.params):
                walk(inner)

    walk(jax.make_jaxpr(step)(program.abstract_state, batch).jaxpr)
    return shapes


@pytest.mark.parametrize("make", [job_of, memory_only])
def test_the_base_has_no_gradient_and_no_optimizer_state(folder, make):
    """Guards against a step that computes what it throws away, and against moments of a frozen model."""
    mlp = (24, 40)  # of a kernel, and of no other product
    job = make(folder, "unused")
    job = dataclasses.replace(job, model=dataclasses.replace(job.model, emb_dim=24, mlp_dim=40))
    full = dataclasses.replace(
        job, model=dataclasses.replace(job.model, lora=None), finetuning=Finetuning(), restore=RestoreConfig()
    )
    of_weights = {mlp, mlp[::-1]}
    assert sum(shape in of_weights for shape in products(full)) >= 3
    assert not [shape for shape in products(job) if shape in of_weights]
    program = make_program(job)
    moments = {path for path in files.array_paths(program.abstract_state.opt_state) if "/mu/" in path}
    trained = {path.partition("/mu/")[2] for path in moments}
    expected = MEMORY if job.model.lora is None else MEMORY | ADAPTERS
    assert trained == expected


def test_the_base_stays_and_the_rest_is_trained(folder, lora_run, memory_run):
    """Guards against a base that decays or drifts, and against adapters or a prompt that never move."""
    base = flatten_dict(
        load_params(folder / "base", make_program(make_job(folder, "base")).abstract_state.params), sep="/"
    )
    lora, memory = all_params(lora_run), all_params(memory_run)
    assert set(lora) == set(base) | ADAPTERS
    for path, before in base.items():
        if path in MEMORY:
            assert np.any(lora[path] != before), path
            assert np.any(memory[path] != before), path
            continue
        np.testing.assert_array_equal(lora[path], before, err_msg=path)
        np.testing.assert_array_equal(memory[path], before.astype(jnp.bfloat16).astype(jnp.float32), err_msg=path)
    for path in ADAPTERS:
        assert np.any(lora[path] != 0), path


def test_a_step_at_rate_0_changes_nothing(folder):
    """Guards against anything besides the rate that moves a parameter, inserting adapters included."""
    job = job_of(folder, "still", total_steps=1, optimizer=AdamW(schedule=Schedule(peak=0.0), weight_decay=0.1))
    loop.train(job)
    program = make_program(job)
    before = initialize_from(job.restore, program.init().params, ()).params
    assert_identical(all_params(job), flatten_dict(before, sep="/"))
    assert not any(np.any(leaf) for path, leaf in all_params(job).items() if path.endswith("/lora_b"))


def test_a_checkpoint_holds_what_is_trained(folder, lora_run, memory_run):
    """Guards against a checkpoint for each user that holds the whole base."""
    for job, expected in ((lora_run, MEMORY | ADAPTERS), (memory_run, MEMORY)):
        checkpoint = find_checkpoint(job.model_dir)
        stored = files.stored_arrays(checkpoint.path)
        held = {path.removeprefix("params/") for path in stored if path.startswith("params/")}
        assert held == expected
        reference = read_reference(checkpoint)
        assert reference is not None
        assert reference.path == str(folder / "base" / "checkpoint_2")
        assert reference.dtype == job.finetuning.base_dtype

    def size(run: str) -> int:
        arrays = files.stored_arrays(find_checkpoint(folder / run).path).values()
        return sum(math.prod(array.shape) * array.dtype.itemsize for array in arrays)

    assert size("memory") < size("base") / 50


@pytest.mark.parametrize("make", [job_of, memory_only])
def test_train_2n_equals_train_n_twice(folder, make):
    """Guards against a resume that forgets the base, a part of it, or what was trained over it."""
    whole = make(folder, f"whole_{make.__name__}")
    parts = dataclasses.replace(whole, model_dir=str(folder / f"parts_{make.__name__}"))
    loop.train(whole)
    loop.train(dataclasses.replace(parts, total_steps=2))
    loop.train(parts)
    left, right = final_state(parts), final_state(whole)
    assert left.step == right.step == 4
    assert_identical(left.state, right.state)
    assert left.base == right.base
    losses = [
        [json.loads(line)["loss"] for line in (Path(job.model_dir) / "metrics.jsonl").read_text().splitlines()]
        for job in (whole, parts)
    ]
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == 4


def test_a_base_that_moved_is_found_where_the_flag_says(folder, lora_run, tmp_path):
    """Guards against a base that is known by its place alone, and against the latest checkpoint in its place."""
    shutil.copytree(folder / "base", tmp_path / "moved")
    loop.train(
        dataclasses.replace(
            make_job(folder, "base"), model_dir=str(tmp_path / "moved"), total_steps=3, curriculum=Curriculum()
        )
    )
    assert {path.name for path in (tmp_path / "moved").glob("checkpoint_*")} == {"checkpoint_2", "checkpoint_3"}
    shutil.copytree(lora_run.model_dir, tmp_path / "lora")
    moved = dataclasses.replace(
        lora_run, model_dir=str(tmp_path / "lora"), total_steps=5, restore=RestoreConfig(str(tmp_path / "moved"))
    )
    loop.train(moved)
    assert final_state(moved).base.path == str(tmp_path / "moved" / "checkpoint_2")
    assert_identical(
        {path: leaf for path, leaf in all_params(moved).items() if path not in MEMORY | ADAPTERS},
        {path: leaf for path, leaf in all_params(lora_run).items() if path not in MEMORY | ADAPTERS},
    )


def test_another_base_is_refused(folder, lora_run, tmp_path):
    """Guards against adapters on weights that they were not trained on: it would answer, and wrongly."""
    other = make_job(folder, "other", total_steps=1, curriculum=Curriculum(), random_seed=1)
    loop.train(other)
    resumed = dataclasses.replace(lora_run, total_steps=5, restore=RestoreConfig(other.model_dir))
    with pytest.raises(
        CheckpointError, match=r"other/checkpoint_1 is not the base that .*lora was trained on"
    ) as raised:
        loop.train(resumed)
    assert "--gin.INITIAL_CHECKPOINT_PATH" in str(raised.value)
    assert "other values" in str(raised.value)
    with pytest.raises(CheckpointError, match=r"set --gin.BASE_CHECKPOINT_PATH to where it is now"):
        all_params(lora_run, base=other.model_dir)
    wider = dataclasses.replace(MODEL, emb_dim=24)
    loop.train(dataclasses.replace(other, model_dir=str(tmp_path / "wider"), model=wider))
    with pytest.raises(CheckpointError, match=r"embedding/table: checkpoint \[259, 24\], this run \[259, 16\]"):
        all_params(lora_run, base=tmp_path / "wider")


def test_a_base_that_is_gone_is_named(folder, lora_run, tmp_path):
    """Guards against a message that leaves the user to guess which of two checkpoints is missing."""
    gone = dataclasses.replace(lora_run, total_steps=5, restore=RestoreConfig(str(tmp_path / "gone")))
    with pytest.raises(
        CheckpointError, match=r"lora is a finetuning of .*base/checkpoint_2, and does not hold it"
    ) as raised:
        loop.train(gone)
    assert f"{tmp_path / 'gone'} (--gin.INITIAL_CHECKPOINT_PATH) does not exist" in str(raised.value)
    assert "Set --gin.INITIAL_CHECKPOINT_PATH to where the base is now" in str(raised.value)


def test_the_dtype_of_the_base_stays(folder, memory_run):
    """Guards against a resumed run whose base is rounded otherwise than before."""
    job = dataclasses.replace(memory_run, total_steps=5, finetuning=Finetuning(memory_only=True))
    with pytest.raises(CheckpointError, match=r"over a base in bfloat16; set --gin.Finetuning.base_dtype"):
        loop.train(job)


def test_a_finetuning_is_no_base(folder, lora_run):
    """Guards against a run that starts from adapters, with random matrices beneath them."""
    with pytest.raises(CheckpointError, match=r"is itself a finetuning, of .*base/checkpoint_2.*--run_mode=merge"):
        loop.train(memory_only(folder, "stacked", restore=RestoreConfig(lora_run.model_dir)))


def test_what_is_frozen_is_not_random(folder):
    """Guards against a frozen part that the base does not have."""
    untied = dataclasses.replace(ADAPTED, tie_embeddings=False)
    with pytest.raises(CheckpointError, match=r"does not give all of the base.*: output/kernel"):
        loop.train(job_of(folder, "untied", model=untied))


def test_adapters_that_the_model_lacks_are_refused(folder, lora_run):
    """Guards against an evaluation of the base where that of its finetuning was asked for."""
    abstract = make_program(make_job(folder, "base")).abstract_state.params
    with pytest.raises(CheckpointError, match=r"has adapters that the model lacks: layers/attention.*lora_a"):
        load_params(lora_run.model_dir, abstract)


def test_adapters_lie_as_their_matrices_do(tmp_path):
    """Guards against adapters, or moments of them, that every device holds whole."""
    model = dataclasses.replace(ADAPTED, vocab_size=260, num_heads=4, num_kv_heads=4)
    program = make_program(job_of(tmp_path, "run", model=model, mesh=MeshConfig(model_parallelism=4)))
    state: Any = program.abstract_state
    specs = {path: leaf.sharding.spec for path, leaf in flatten_dict(state.params, sep="/").items() if "lora" in path}
    assert specs["layers/attention/query/lora_a"] == PartitionSpec(None, "fsdp", None)
    assert specs["layers/attention/query/lora_b"] == PartitionSpec(None, None, "model", None)
    assert specs["layers/mlp/down/lora_a"] == PartitionSpec(None, "model", None)
    moments = {
        path_name(path).partition("/mu/")[2]: leaf.sharding.spec
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state)
    }
    assert {path: moments[path] for path in specs} == specs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"restore": RestoreConfig()}, "TransformerConfig.lora is set, .* set --gin.INITIAL_CHECKPOINT_PATH"),
        ({"restore": RestoreConfig("a", step=True)}, "RestoreConfig.optimizer and .step continue a run"),
        ({"finetuning": Finetuning(memory_only=True)}, "memory_only trains the FAM prompt alone, and .*lora is set"),
        (
            {"model": MODEL, "finetuning": Finetuning(base_dtype="bfloat16")},
            "Finetuning.base_dtype = 'bfloat16' has no effect",
        ),
        (
            {
                "model": dataclasses.replace(MODEL, memory=dataclasses.replace(MODEL.memory, fam_length=0)),
                "finetuning": Finetuning(memory_only=True),
            },
            "Finetuning.memory_only needs a memory to train",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_impossible_finetunings(tmp_path, changes, message):
    """Guards against a finetuning of random weights, and against settings that contradict each other."""
    with pytest.raises(ConfigError, match=message):
        job_of(tmp_path, "run", **{"state_passing": make_job(tmp_path, "x").state_passing, **changes})
