"""Training jobs of any size for the benchmarks, and batches of random tokens for them."""

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from famjax.data.config import DataConfig
from famjax.models.config import MemoryConfig, TransformerConfig
from famjax.pods.mesh import put_batch
from famjax.training.config import AdamW, LossConfig, Schedule, TrainJob
from famjax.training.program import Program, make_program


@dataclasses.dataclass(frozen=True)
class Sizes:
    """A model and a batch.

    Attributes:
      block_size: C.
      num_segments: M.
      fam_length: F.
      emb_dim: D; heads are 64 wide, or D wide where D is less.
      num_layers: L.
      vocab_size: V.
      length: T.
      batch_size: B.
      dtype: of the activations.
      remat_policy: see `TransformerConfig`.
      chunk_size: tokens whose logits exist at one time.
    """

    block_size: int = 256
    num_segments: int = 1
    fam_length: int = 16
    emb_dim: int = 256
    num_layers: int = 4
    vocab_size: int = 259
    length: int = 2048
    batch_size: int = 2
    dtype: str = "float32"
    remat_policy: str = "none"
    chunk_size: int = 2048

    @property
    def job(self) -> TrainJob:
        """A training job of this size; its folder and its data are named but never opened."""
        head_dim = min(64, self.emb_dim)
        model = TransformerConfig(
            vocab_size=self.vocab_size,
            emb_dim=self.emb_dim,
            num_layers=self.num_layers,
            num_heads=self.emb_dim // head_dim,
            num_kv_heads=self.emb_dim // head_dim,
            head_dim=head_dim,
            mlp_dim=4 * self.emb_dim,
            memory=MemoryConfig(self.block_size, self.num_segments, self.fam_length),
            dtype=self.dtype,  # type: ignore[arg-type] # TransformerConfig checks it
            remat_policy=self.remat_policy,  # type: ignore[arg-type] # TransformerConfig checks it
        )
        return TrainJob(
            model_dir="not-written",
            model=model,
            data=DataConfig("not-read", {"targets": self.length}, self.batch_size),
            optimizer=AdamW(schedule=Schedule(peak=1e-3)),
            total_steps=1,
            loss=LossConfig(chunk_size=self.chunk_size),
        )


def add_size_flags(parser: argparse.ArgumentParser, defaults: Sizes) -> None:
    """Adds a flag for each size."""
    for field in dataclasses.fields(Sizes):
        default = getattr(defaults, field.name)
        parser.add_argument(f"--{field.name}", type=type(default), default=default, help=f"default: {default}")


def sizes_from(flags: argparse.Namespace) -> Sizes:
    """The sizes that the flags say."""
    return Sizes(**{field.name: getattr(flags, field.name) for field in dataclasses.fields(Sizes)})


def make_stepper(job: TrainJob) -> Callable[[], Any]:
    """A function that makes one train step after the other on one batch, and gives the state and the metrics."""
    program = make_program(job)
    step, batch, state = program.compile_step(job.data.length), random_batch(program, job.data.length), program.init()

    def make_step() -> Any:
        nonlocal state
        state, metrics = step(state, batch)
        return state, metrics

    return make_step


def random_batch(program: Program, length: int) -> dict[str, jax.Array]:
    """A batch of random tokens [B, length], full to its end, on the devices."""
    job, random = program.job, np.random.default_rng(0)
    shape = job.data.batch_size, length
    tokens = random.integers(0, job.model.vocab_size, shape, dtype=np.int32)
    batch: dict[str, Any] = {
        "tokens": tokens,
        "targets": np.roll(tokens, -1, axis=1),
        "weights": np.ones(shape, np.float32),
        "answers": np.zeros(shape, np.bool_),
        "lengths": np.full(shape[0], length, np.int32),
    }
    return put_batch(batch, program.mesh)
