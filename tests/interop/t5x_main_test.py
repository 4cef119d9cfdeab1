"""t5x's own main trains, stops, resumes, evaluates and infers with the files of gin/t5x, where t5x is on the path."""

import dataclasses
import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from imported import params_in

from famjax.configuration.files import gin_root
from famjax.interop.t5x_importing import import_t5x
from famjax.interop.t5x_mapping import FAMJAX, read_mapping
from famjax.models.config import MemoryConfig, TransformerConfig
from famjax.models.transformer import Transformer, initial_state, logits, read
from famjax.training.losses import score_tokens
from tolerances import FLOAT32, assert_close

REASON = "t5x is not on the path (it is on no package index; docs/t5x.md says how to put it there)"
pytest.importorskip("t5x.models", reason=REASON)
ocp = pytest.importorskip("orbax.checkpoint")

# Parameters are restored here without their sharding, of which orbax warns.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning")]

CONFIG = TransformerConfig(
    vocab_size=264,
    emb_dim=16,
    num_layers=2,
    num_heads=4,
    num_kv_heads=4,
    head_dim=4,
    mlp_dim=32,
    memory=MemoryConfig(block_size=8, num_segments=1, fam_length=2),
)
SIZES = ("emb_dim", "num_layers", "num_heads", "num_kv_heads", "head_dim", "mlp_dim")
LENGTHS = {"inputs": 32, "targets": 8}


def run_t5x(mode, file, **macros):
    """Runs t5x's main on 2 devices that share a model; returns what it logs."""
    memory = {"BLOCK_SIZE": 8, "NUM_SEGMENTS": 1, "FAM_LENGTH": 2}
    sizes = {f"TransformerConfig.{name}": getattr(CONFIG, name) for name in SIZES}
    task = {"MIXTURE_OR_TASK_NAME": "t5x_questions", "MIXTURE_OR_TASK_MODULE": "t5x_tasks"}
    common = {"TASK_FEATURE_LENGTHS": LENGTHS, "BATCH_SIZE": 8, "NUM_PARTITIONS": 2}
    settings = memory | sizes | task | common | macros
    command = [
        *(sys.executable, "-m", "t5x.main", f"--run_mode={mode}", f"--gin_search_paths={gin_root()}"),
        *(f"--gin_file={name}" for name in (file, "models/tiny.gin", "memory/fam.gin")),
        *(f"--gin.{name}={value!r}" for name, value in settings.items()),
    ]
    # Without tests/ itself: gin would take its folder models/ for a package that holds models/tiny.gin.
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent.parent), os.environ.get("PYTHONPATH", "")])
    # The tests' strictness is for famjax: t5x adds arrays of other ranks. A CPU's devices are all on its model axis.
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=2")
    environment = {**os.environ, "PYTHONPATH": path, "JAX_NUMPY_RANK_PROMOTION": "allow", "XLA_FLAGS": flags}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def infer(folder, mode, checkpoint):
    """The lines that an inference writes."""
    output = folder / mode
    run_t5x("infer", "t5x/infer.gin", MODE=mode, CHECKPOINT_PATH=str(checkpoint), INFER_OUTPUT_DIR=str(output))
    (file,) = output.glob(f"*-{mode}.jsonl-00000-of-00001")
    return [json.loads(line) for line in file.read_text().splitlines()]


def scores_by_famjax(params, texts):
    """Log-likelihood of each answer and its end token, each row read by itself."""
    model = Transformer(CONFIG)

    @functools.partial(jax.jit, static_argnums=1)
    def score(tokens, before):
        output = read(model, params, tokens[:, :-1], initial_state(model, params, 1, with_cache=False))
        scored = score_tokens(functools.partial(logits, model, params), output.hidden, tokens[:, 1:], 64)
        return -jnp.sum(scored.loss[:, before:])

    scores = []
    for question, answer in texts:
        ids = [0, *(byte + 3 for byte in (question + answer).encode()), 1]
        scores.append(score(np.array([ids], np.int32), len(question)))
    return np.array(scores)


def test_t5x_trains_stops_resumes_evaluates_and_infers(tmp_path):
    """Guards against gin files that t5x refuses, shards that do not fit, and a state that a checkpoint loses."""
    from t5x_tasks import INPUTS, TARGETS

    run = tmp_path / "run"
    train = functools.partial(run_t5x, "train", "t5x/pretrain.gin", MODEL_DIR=str(run))
    passing = {"STATE_PASSING_PROBABILITY": 0.8, "EVAL_PERIOD": 10, "EVAL_STEPS": 1, "CHECKPOINT_PERIOD": 10}
    log = train(TRAIN_STEPS=20, **passing)
    losses = [float(value) for value in re.findall(r"collection=train .*?loss_per_all_target_tokens=([\d.]+)", log)]
    passed = [float(value) for value in re.findall(r"state_passed=([\d.]+)", log)]
    assert len(losses) == 2
    assert losses[1] < losses[0]
    assert max(passed) > 0

    log = train(TRAIN_STEPS=24, **passing)
    assert f"Restoring checkpoint from {run / 'checkpoint_20'}" in log
    checkpoint = run / "checkpoint_24"
    state = ocp.PyTreeCheckpointer().restore(checkpoint / "state")
    assert state["flax_mutables"]["passed_fam"]["steps"] == 24
    assert state["flax_mutables"]["passed_fam"]["exists"]

    run_t5x(
        "eval",
        "t5x/eval.gin",
        CHECKPOINT_PATH=str(checkpoint),
        EVAL_OUTPUT_DIR=str(tmp_path / "eval"),
    )
    (metrics,) = (tmp_path / "eval").rglob("*-metrics.jsonl")
    assert json.loads(metrics.read_text())["exact_match"] >= 0

    answers = infer(tmp_path, "predict", checkpoint)
    assert len(answers) == len(INPUTS)
    assert all(isinstance(answer["prediction"], str) for answer in answers)

    # What famjax imports gives the same log-likelihoods.
    memory = dataclasses.replace(CONFIG.memory, fam_length=0)
    import_t5x(checkpoint, tmp_path / "imported", memory, read_mapping(FAMJAX), {})
    config, params = params_in(tmp_path / "imported")
    assert config == CONFIG
    found = {line["inputs"]["inputs_pretokenized"]: line["score"] for line in infer(tmp_path, "score", checkpoint)}
    expected = scores_by_famjax(params, zip(INPUTS, TARGETS, strict=True))
    assert_close(np.array([found[question] for question in INPUTS]), expected, FLOAT32)
