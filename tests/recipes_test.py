"""gin/recipes/: each recipe's twin for a CPU trains, and is the recipe in all but its sizes."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from famjax.configuration.files import gin_root
from famjax.configuration.loading import load
from famjax.models.lora_config import ADAPTABLE
from famjax.training.checkpoint_arrays import by_path
from famjax.training.config import Adafactor, TrainJob
from famjax.training.loop import train
from famjax.training.program import make_program
from famjax.training.restore import find_checkpoint, load_own
from published_fixtures import write_rows

# What a twin may set: how large, how long, how much.
SIZES = {
    "TASK_FEATURE_LENGTHS",
    "TRAIN_STEPS",
    "WARMUP_STEPS",
    "BATCH_SIZE",
    "BLOCK_SIZE",
    "FAM_LENGTH",
    "LORA_RANK",
    "PassKey.min_length",
    "Instructions.repeat_length",
}
STEPS = 3
TWINS = sorted(path.stem for path in gin_root().glob("recipes/*_cpu.gin"))


def quoted(path):
    """A path as gin writes it."""
    return f"'{path}'"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A checkpoint of the model that the twins finetune, trained for a step."""
    folder = tmp_path_factory.mktemp("base")
    flags = {
        "MODEL_DIR": quoted(folder),
        "MIXTURE_OR_TASK_NAME": "'passkey'",
        "TASK_FEATURE_LENGTHS": "{'targets': 384}",
        "TRAIN_STEPS": "1",
        "BLOCK_SIZE": "64",
        "FAM_LENGTH": "8",
        "NUM_SEGMENTS": "0",
        "TrainJob.eval_data": "None",
        "BATCH_SIZE": "8",
    }
    files = ["runs/pretrain.gin", "models/tiny.gin", "memory/fam.gin"]
    train(load(TrainJob, files, list(flags.items())).job)
    return folder


def data_flags(twin, folder):
    """Flags for a twin's own data, which they are written to."""
    if twin == "long_documents_cpu":
        for number in range(20):
            (folder / f"{number}.txt").write_text(f"Chapter {number}. " + "And so on. " * (20 + 10 * number))
        return {"DOCUMENT_FILES": f"['{folder}/*.txt']"}
    if twin in ("instructions_cpu", "memory_only_cpu"):
        for number in range(6):
            rows = [{"inputs": f"What is {number} + {n}?", "targets": f"It is {number + n}."} for n in range(30)]
            write_rows(folder / f"{number}.jsonl", rows)
        return {"INSTRUCTION_FILES": f"['{folder}/*.jsonl']"}
    return {}


def run(twin, base, folder, **flags):
    """Trains a twin for a few steps; the job and its metrics."""
    flags = {
        "MODEL_DIR": quoted(folder / "run"),
        "INITIAL_CHECKPOINT_PATH": quoted(base),
        "TRAIN_STEPS": str(STEPS),
        "LoggingConfig.period": "1",
        "EVAL_STEPS": "1",
        "EVAL_PERIOD": str(STEPS),
        **data_flags(twin, folder),
        **flags,
    }
    job = load(TrainJob, [f"recipes/{twin}.gin"], list(flags.items())).job
    train(job)
    lines = (Path(job.model_dir) / "metrics.jsonl").read_text().splitlines()
    return job, [json.loads(line) for line in lines]


@pytest.mark.parametrize("twin", TWINS)
def test_a_twin_trains(twin, base, tmp_path):
    """Guards against a recipe that loads and fails at its first step, its first evaluation, or trains on nothing."""
    job, lines = run(twin, base, tmp_path)
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, STEPS + 1))
    for line in steps:
        assert np.isfinite(line["loss"])
        assert line["loss"] > 0
    assert steps[-1]["update_norm"] > 0  # the first step of a warm-up adds nothing
    assert any(np.isfinite(line.get("validation/loss", np.nan)) for line in lines)
    assert (Path(job.model_dir) / f"checkpoint_{STEPS}").is_dir()


@pytest.mark.parametrize("twin", TWINS)
def test_a_twin_differs_in_sizes(twin):
    """Guards against a twin that is another method than the recipe that it stands for."""
    recipe = twin.removesuffix("_cpu")
    text = (gin_root() / "recipes" / f"{twin}.gin").read_text()
    included = re.findall(r"^include '(.*)'", text, re.MULTILINE)
    assert included == [f"recipes/{recipe}.gin", "models/tiny.gin"]
    settings = set(re.findall(r"^([\w./]+) =", text, re.MULTILINE))
    assert settings <= SIZES


def test_every_recipe_has_a_twin():
    """Guards against a recipe that no test runs; those of `make demo` and `make imported` are run as they are."""
    recipes = {path.stem for path in gin_root().glob("recipes/*.gin")}
    assert {name for name in recipes if not name.startswith(("demo", "imported")) and not name.endswith("_cpu")} == {
        twin.removesuffix("_cpu") for twin in TWINS
    }


def test_adapters_leave_their_zeros(base, tmp_path):
    """Guards against steps in proportion to a parameter's size, which leave LoRA's B at 0: only the prompt learns."""
    job, _ = run("instructions_cpu", base, tmp_path, WARMUP_STEPS="0", LEARNING_RATE="1e-3")
    name = "layers/mlp/up/lora_b"
    own = {name: by_path(make_program(job).abstract_state.params)[name]}
    adapter = by_path(load_own(find_checkpoint(job.model_dir), own))[name]
    assert np.sqrt(np.mean(np.square(adapter))) > 1e-4


def test_long_documents_are_streamed(base, tmp_path):
    """Guards against rows that forget from step to step."""
    job, lines = run("long_documents_cpu", base, tmp_path)
    assert job.streaming.enabled
    assert job.state_passing.probability == 0
    reset = [line["blocks_since_reset"] for line in lines if "blocks_since_reset" in line]
    assert reset[-1] > reset[0]


def test_the_papers_finetuning():
    """Guards against another recipe under the paper's name (arXiv 2404.09173, 3.1)."""
    flags = {"MODEL_DIR": "'x'", "INITIAL_CHECKPOINT_PATH": "'y'", "INSTRUCTION_FILES": "['z']"}
    job = load(TrainJob, ["recipes/instructions.gin", "models/1b.gin"], list(flags.items())).job
    settings = job.data.tasks[job.data.mixture_or_task_name]
    assert (job.data.length - settings.repeat_length, settings.repeat_length) == (8.5 * 1024, 256)
    assert (settings.repeat_weight, settings.prompt_weight) == (0.1, 0.0)
    memory, lora = job.model.memory, job.model.lora
    assert (memory.block_size, memory.num_segments, memory.fam_length) == (1024, 3, 64)
    assert lora.rank == 64
    assert all(map(lora.adapts, ADAPTABLE))
    optimizer = job.optimizer
    assert isinstance(optimizer, Adafactor)
    assert (optimizer.beta1, optimizer.beta2) == (0.9, 0.99)
    schedule = optimizer.schedule
    assert (schedule.peak, schedule.decay, schedule.warmup_steps) == (1e-4, "constant", 0)
    assert (job.total_steps, job.data.batch_size) == (50_000, 128)
    assert (job.state_passing.probability, job.random_position_offset) == (0.8, True)


def test_the_papers_passkey_lengths():
    """Guards against another recipe under the paper's name: 2k to 18k tokens of filler, F = 64, C = 1024, 5k steps."""
    flags = {"MODEL_DIR": "'x'", "INITIAL_CHECKPOINT_PATH": "'y'"}
    job = load(TrainJob, ["recipes/passkey.gin", "models/1b.gin"], list(flags.items())).job
    settings = job.data.tasks["passkey"]
    around = 128
    assert (settings.min_length - around, job.data.length - around) == (2 * 1024, 18 * 1024)
    memory = job.model.memory
    assert (memory.block_size, memory.num_segments, memory.fam_length) == (1024, 0, 64)
    assert (job.total_steps, job.data.batch_size, job.random_position_offset) == (5000, 128, True)
