"""The smallest training job that has everything: curriculum, dropout, accumulation, state passing, answers."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from famjax.data.config import DataConfig
from famjax.data.task_config import AssociativeRecall, Documents, Mixture, TaskConfig
from famjax.models.config import MemoryConfig, TransformerConfig
from famjax.training.config import (
    AdamW,
    CheckpointConfig,
    Curriculum,
    LoggingConfig,
    LossConfig,
    Schedule,
    StatePassing,
    TrainJob,
)

BLOCK = 8
BATCH = 16
MODEL = TransformerConfig(
    vocab_size=259,
    emb_dim=16,
    num_layers=1,
    num_heads=2,
    num_kv_heads=2,
    head_dim=8,
    mlp_dim=16,
    memory=MemoryConfig(block_size=BLOCK, num_segments=1, fam_length=2),
    dropout_rate=0.1,
)
# The second stage is decided by the metrics of step 5, and begins with step 7. One shape serves both.
STAGES = (
    {"min_length": 20, "max_length": 32, "metric": "accuracy", "threshold": 0.0, "window": 5},
    {"min_length": 28, "max_length": 32},
)


def write_documents(folder: pathlib.Path) -> str:
    """Writes a few documents of random words and returns the glob that finds them."""
    random = np.random.default_rng(0)
    for number in range(6):
        words = ["".join(random.choice(list("abcdefgh"), 4)) for _ in range(60)]
        (folder / f"document_{number}.txt").write_text(" ".join(words))
    return str(folder / "*.txt")


def make_data(paths: str, **changes: Any) -> DataConfig:
    """Documents and questions, shuffled, in examples of 32 tokens."""
    tasks: dict[str, TaskConfig] = {
        "text": Documents(paths=(paths,), validation_fraction=0.5),
        "recall": AssociativeRecall(num_pairs=1, key_letters=1, value_digits=1, validation_examples=BATCH),
        "both": Mixture(rates={"text": 1.0, "recall": 1.0}),
    }
    data = DataConfig("both", {"targets": 4 * BLOCK}, batch_size=BATCH, tasks=tasks, seed=3)
    return dataclasses.replace(data, **changes)


def make_job(folder: pathlib.Path, name: str, **changes: Any) -> TrainJob:
    """A job in `folder / name` on documents in `folder`, with everything on that a resume could lose."""
    documents = folder / "documents"
    if not documents.is_dir():
        documents.mkdir()
        write_documents(documents)
    paths = str(documents / "*.txt")
    job = TrainJob(
        model_dir=str(folder / name),
        model=MODEL,
        data=make_data(paths),
        optimizer=AdamW(schedule=Schedule(peak=1e-2)),
        total_steps=12,
        num_microbatches=2,
        loss=LossConfig(z_loss=1e-3, chunk_size=100),
        state_passing=StatePassing(probability=0.5),
        curriculum=Curriculum(STAGES),
        checkpoint=CheckpointConfig(period=3),
        logging=LoggingConfig(period=1, diagnostics_period=None),
    )
    return dataclasses.replace(job, **changes)
