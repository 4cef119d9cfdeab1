"""The smallest job to plan."""

import dataclasses

from famjax.data.config import DataConfig
from famjax.pods.config import MeshConfig
from famjax.training.config import AdamW, LossConfig, Schedule, TrainJob
from tiny_job import BLOCK, MODEL

JOB = TrainJob(
    model_dir="not-written",
    model=dataclasses.replace(MODEL, vocab_size=256, emb_dim=128, num_layers=2, dropout_rate=0.0),
    data=DataConfig("not-read", {"targets": 4 * BLOCK}, batch_size=16),
    optimizer=AdamW(schedule=Schedule(peak=1e-2)),
    total_steps=12,
    loss=LossConfig(chunk_size=64),
    mesh=MeshConfig(fsdp_parallelism=None),
)
