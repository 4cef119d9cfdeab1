"""Shows on a run's own data that nothing passes from one streamed document into the next."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from numpy.typing import NDArray

from famjax.data.batches import Batch
from famjax.data.document_rows import BlockShape
from famjax.data.feeding import open_document_batches, open_vocabulary
from famjax.errors import DataError
from famjax.models.config import TransformerConfig
from famjax.models.memory import State, Texts
from famjax.models.transformer import Output, Transformer, init_params, initial_state, read
from famjax.training.config import TrainJob
from famjax.training.streaming import begin_stream, carry_on


@dataclasses.dataclass(frozen=True)
class Findings:
    """What was checked, and what was found.

    Attributes:
      documents: whose beginning was seen, behind a part of another one or in a row that had read another before.
      batches: in which there was one.
      targets: whose place in the batch was looked at.
      wrong_inputs: first inputs of a document that are not the beginning token.
      wrong_order: inputs within a document that are not the target before them in the row.
      unmarked: blocks that begin as a document does, or behind padding, where no document is said to begin.
      weighted_padding: slots of padding that count in the loss.
      output_difference: largest change of an activation behind a document's beginning where all tokens and the whole
        state before it are replaced; 0 where nothing leaks.
      gradient: largest gradient, by the carried state, of the activations behind a document's beginning; likewise.
      tokens_before: tokens of the batches that lie before a beginning, or in a row without one.
      control: largest change of an activation of theirs, by the same replacement.
      control_gradient: largest gradient, by the carried state, of the activations before it.
    """

    documents: int = 0
    batches: int = 0
    targets: int = 0
    wrong_inputs: int = 0
    wrong_order: int = 0
    unmarked: int = 0
    weighted_padding: int = 0
    output_difference: float = 0.0
    gradient: float = 0.0
    tokens_before: int = 0
    control: float = 0.0
    control_gradient: float = 0.0

    @property
    def leaks(self) -> bool:
        """Whether anything of a document reaches another."""
        in_data = self.wrong_inputs or self.wrong_order or self.unmarked or self.weighted_padding
        return bool(in_data or self.output_difference or self.gradient)

    @property
    def is_blind(self) -> bool:
        """Whether the replacement changed nothing: then it was not seen that it could."""
        return self.documents > 0 and not self.control

    def __add__(self, other: "Findings") -> "Findings":
        """Counts are added, of differences the largest is kept."""
        return Findings(
            documents=self.documents + other.documents,
            batches=self.batches + other.batches,
            targets=self.targets + other.targets,
            wrong_inputs=self.wrong_inputs + other.wrong_inputs,
            wrong_order=self.wrong_order + other.wrong_order,
            unmarked=self.unmarked + other.unmarked,
            weighted_padding=self.weighted_padding + other.weighted_padding,
            output_difference=max(self.output_difference, other.output_difference),
            gradient=max(self.gradient, other.gradient),
            tokens_before=self.tokens_before + other.tokens_before,
            control=max(self.control, other.control),
            control_gradient=max(self.control_gradient, other.control_gradient),
        )


def check_leakage(job: TrainJob, steps: int) -> Findings:
    """Reads batches as the run would, and looks for what crosses the beginning of a document.

    The model has the run's memory and layers that are small and random: whether something leaks depends on which keys a
    token sees, and not on widths.

    Args:
      job: the run; its documents are streamed, whether or not the run does.
      steps: batches to check, of those in which a document begins behind another. In others only the data are looked
        at, and the check ends with them where they are wrong: a beginning that is not said may never come.

    Raises:
      ConfigError: the task is no corpus of documents, or an example is no whole number of blocks.
      DataError: the data cannot be read, or ends before so many.
    """
    size = job.model.memory.block_size
    shape = BlockShape(job.step_length // size, size)
    vocabulary = open_vocabulary(job.data)
    checker = _Checker(small_model(job.model, vocabulary.vocab_size), job.data.batch_size, vocabulary.bos_id)
    findings = Findings()
    batches = open_document_batches(job.data, shape)
    try:
        for batch in batches:
            found = checker.check_data(batch)
            # Of a long document the model reads the first batch and the last: nothing crosses a border in between.
            begins = batch["begins"].any()
            if begins or not findings.control:
                found += checker.check_model(batch)
            findings += found
            if findings.batches == steps or (found.leaks and not begins):
                return findings
    finally:
        batches.close()
    raise DataError(
        f"{job.data.mixture_or_task_name}, split {job.data.split!r}, ended after {findings.batches} batches in which a "
        f"document begins behind another; --steps={steps} asks for more."
    )


def small_model(model: TransformerConfig, vocab_size: int) -> TransformerConfig:
    """A model with the same memory, positions and kinds of layers, which are small; float32, no dropout."""
    return TransformerConfig(
        vocab_size=vocab_size,
        emb_dim=16,
        num_layers=max(2, len(model.layer_pattern)),
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        mlp_dim=16,
        memory=model.memory,
        rope_base=model.rope_base,
        layer_pattern=model.layer_pattern,
        local_window=model.local_window,
        local_rope_base=model.local_rope_base,
    )


class _Checker:
    """Reads batch after batch and compares."""

    def __init__(self, config: TransformerConfig, rows: int, bos_id: int) -> None:
        self._model, self._config, self._bos_id = Transformer(config), config, bos_id
        self._params = nn.meta.unbox(jax.jit(functools.partial(init_params, self._model))(jax.random.key(0)))
        self._stream = begin_stream(config, rows)
        self._random = np.random.default_rng(0)
        self._read = jax.jit(self._read_batch)
        self._gradient = jax.jit(jax.grad(self._total))
        # The last target of each row, before and behind the batch that is checked; -1: it has read nothing.
        self._last_before = self._last = np.full(rows, -1, np.int64)
        self._ends_in_text = np.zeros(rows, np.bool_)  # whether the last slot held a token

    def check_model(self, batch: Batch) -> Findings:
        """Looks at what the model makes of a batch, whose data were checked; a later one is read behind it."""
        size, begins = self._config.memory.block_size, _beginnings(batch)
        found = Findings()
        arrays = {name: jnp.asarray(batch[name]) for name in ("tokens", "begins", "block_lengths")}
        output = self._read(arrays, self._stream)
        # Where a row has several beginnings, each is looked at by itself; where none has any, all is a control.
        for rank in range(max(1, int(begins.sum(axis=1).max(initial=0)))):
            found += self._check_beginnings(batch, arrays, np.asarray(output.hidden), begins, rank, size)
        self._stream = carry_on(output.state)
        return dataclasses.replace(found, batches=int(found.documents > 0))

    def check_data(self, batch: Batch) -> Findings:
        """Looks at what a batch itself must have, whatever the model, and goes on behind it."""
        size, begins = self._config.memory.block_size, _beginnings(batch)
        tokens, valid = batch["tokens"], batch["valid"]
        known = self._known_targets(batch)
        before, self._last_before, self._last = known[:, :-1], self._last, known[:, -1]
        follows_text = np.concatenate([self._ends_in_text[:, None], valid[:, :-1]], axis=1)[:, ::size]
        self._ends_in_text = valid[:, -1]
        starts = np.zeros_like(valid)
        starts[:, ::size] = begins
        firsts, firsts_before = tokens[:, ::size], before[:, ::size]
        # A text may hold the beginning token itself, which is then the target before it too.
        looks_new = (firsts == self._bos_id) & (firsts_before != self._bos_id)
        return Findings(
            targets=int(valid.sum()),
            wrong_inputs=int((firsts[begins] != self._bos_id).sum()),
            wrong_order=int((valid & ~starts & (tokens != before)).sum()),
            unmarked=int((valid[:, ::size] & ~begins & (looks_new | ~follows_text)).sum()),
            weighted_padding=int(((batch["weights"] != 0) & ~valid).sum()),
        )

    def _known_targets(self, batch: Batch) -> NDArray[np.int64]:
        """Of each slot, and of the one behind the last: the last target before it in its row [B, T + 1]."""
        places = np.where(batch["valid"], np.arange(1, batch["valid"].shape[1] + 1), 0)
        places = np.maximum.accumulate(np.pad(places, ((0, 0), (1, 0))), axis=1)
        targets = np.concatenate([self._last[:, None], batch["targets"]], axis=1)
        return np.take_along_axis(targets, places, axis=1)

    def _check_beginnings(
        self,
        batch: Batch,
        arrays: Mapping[str, jax.Array],
        hidden: NDArray[np.floating],
        begins: NDArray[np.bool_],
        rank: int,
        size: int,
    ) -> Findings:
        """Replaces what lies before the beginning number `rank` of each row, and looks at what lies behind."""
        has_one = begins.sum(axis=1) > rank
        block = np.where(has_one, np.argmax(np.cumsum(begins, axis=1) == rank + 1, axis=1), begins.shape[1])
        slots = np.arange(batch["tokens"].shape[1])[None, :] // size
        behind = has_one[:, None] & (slots >= block[:, None])
        before = ~behind & batch["valid"]
        counted = has_one & ((block > 0) | (self._last_before >= 0))
        noise = self._random.integers(0, self._config.vocab_size, slots.shape[1] * len(block)).reshape(len(block), -1)
        tokens = jnp.asarray(np.where(behind, batch["tokens"], noise).astype(np.int32))
        changed = np.asarray(self._read({**arrays, "tokens": tokens}, self._other_stream()).hidden)
        difference = np.abs(changed - hidden).max(axis=2)
        gradients = [
            max(float(jnp.max(jnp.abs(leaf), initial=0)) for leaf in jax.tree.leaves(gradient))
            for gradient in (
                self._gradient(self._stream.layers, arrays, self._stream, jnp.asarray(mask))
                for mask in (behind, before)
            )
        ]
        return Findings(
            documents=int(counted.sum()),
            output_difference=float(difference.max(initial=0, where=behind)),
            gradient=gradients[0],
            tokens_before=int(before.sum()),
            control=float(difference.max(initial=0, where=before)),
            control_gradient=gradients[1],
        )

    def _other_stream(self) -> State:
        """A state in which everything carried is something else; rows stand at the start of a block, as before."""
        stream, size = self._stream, self._config.memory.block_size

        def noisy(array: jax.Array) -> jax.Array:
            return array + jnp.asarray(self._random.normal(size=array.shape), array.dtype)

        def later(counts: jax.Array) -> jax.Array:
            return counts + jnp.asarray(size * self._random.integers(1, 9, counts.shape), counts.dtype)

        return dataclasses.replace(
            stream,
            layers=jax.tree.map(noisy, stream.layers),
            num_tokens=later(stream.num_tokens),
            position_offset=later(stream.position_offset),
            fam_is_initial=~stream.fam_is_initial,
        )

    def _read_batch(self, arrays: Mapping[str, jax.Array], stream: State) -> Output:
        start = initial_state(self._model, self._params, arrays["tokens"].shape[0], with_cache=False)
        texts = Texts(begins=arrays["begins"], lengths=arrays["block_lengths"], start=start)
        return read(self._model, self._params, arrays["tokens"], stream, texts=texts)

    def _total(self, layers: Any, arrays: Mapping[str, jax.Array], stream: State, mask: jax.Array) -> jax.Array:
        """Sum of the activations in `mask` [B, T]."""
        hidden = self._read_batch(arrays, dataclasses.replace(stream, layers=layers)).hidden
        return jnp.sum(jnp.where(mask[:, :, None], hidden, 0))


def _beginnings(batch: Batch) -> NDArray[np.bool_]:
    """Which blocks begin a document of which there is a token [B, N]."""
    begins: NDArray[np.bool_] = batch["begins"] & (batch["block_lengths"] > 0)
    return begins
