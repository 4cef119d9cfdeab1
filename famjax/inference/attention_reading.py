"""Reads a text block by block, and looks at what attention does in a block, with the probabilities that the model used.

Nothing is kept of the blocks that are only read but four numbers a layer, so that the map of a block takes as much
memory at the end of a long text as at its beginning.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float
from numpy.typing import NDArray

from famjax.errors import ConfigError, DataError
from famjax.inference.language_model import LanguageModel
from famjax.models.attention import read_mask
from famjax.models.config import TransformerConfig
from famjax.models.dims import Leaf, Lengths, StackedFam, Tokens
from famjax.models.layout import make_layout
from famjax.models.memory import State
from famjax.models.transformer import Transformer, initial_state, read, read_with_attention
from famjax.pods.config import MeshConfig
from famjax.pods.mesh import make_mesh, use_mesh

NO_TOKEN = -1


@dataclasses.dataclass(frozen=True)
class AttentionMap:
    """What the n tokens of a block look at, and what FAM looks at when the block is full, in one layer and head.

    The X keys of a token are [M * C of the memory segments, oldest first | F of FAM | n of the block]; those of FAM are
    [F of FAM | n of the block].

    Attributes:
      layer: from 0.
      head: from 0.
      block: its index in the text, from 0.
      block_size: C.
      num_segments: M.
      fam_length: F.
      tokens: ids of the block [n]; the first token of a text is the beginning token.
      segment_tokens: ids of the memory segments [M * C]; -1 (NO_TOKEN) before the beginning of the text.
      probabilities: of the tokens, float32 [n, X]; every row sums up to 1.
      visible: which keys a token may look at, bool [n, X]; the probability of the others is 0.
      fam_probabilities: of FAM's queries, float32 [F, F + n]; every row sums up to 1. [0, F + n] where the block is not
        full, so that FAM is not updated.
    """

    layer: int
    head: int
    block: int
    block_size: int
    num_segments: int
    fam_length: int
    tokens: NDArray[np.int32]
    segment_tokens: NDArray[np.int32]
    probabilities: NDArray[np.float32]
    visible: NDArray[np.bool_]
    fam_probabilities: NDArray[np.float32]

    @property
    def first_position(self) -> int:
        """Position of the block's first token in the text; the beginning token's is 0."""
        return self.block * self.block_size

    @property
    def segment_keys(self) -> slice:
        """The columns of the memory segments."""
        return slice(0, self.num_segments * self.block_size)

    @property
    def fam_keys(self) -> slice:
        """The columns of FAM."""
        begin = self.num_segments * self.block_size
        return slice(begin, begin + self.fam_length)

    @property
    def block_keys(self) -> slice:
        """The columns of the block."""
        return slice(self.fam_keys.stop, self.fam_keys.stop + len(self.tokens))


@dataclasses.dataclass(frozen=True)
class FamHistory:
    """What FAM does over the full blocks of a text, by layer; all float32 [blocks, L].

    Attributes:
      norm: root mean square of the FAM that a block writes.
      update: mean square of its change over that of itself; NaN in the first block, whose update has no residual.
      departure: mean square of its difference from what the first block wrote over that of itself; NaN in that block.
      attention: share of the tokens' attention that goes to FAM, over tokens and heads.
    """

    norm: NDArray[np.float32]
    update: NDArray[np.float32]
    departure: NDArray[np.float32]
    attention: NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class BlockAttention:
    """What attention does in one block, in all layers and heads; its arrays stay on the devices.

    Attributes:
      config: of the model.
      block: its index in the text.
      tokens: of the block [n].
      segment_tokens: see AttentionMap.
      of_tokens: probabilities of the tokens [L, H, C, X], X = M * C + F + C.
      of_fam: probabilities of FAM [L, H, F, F + C].
      visible: which keys a token may look at in each layer [L, C, X].
    """

    config: TransformerConfig
    block: int
    tokens: NDArray[np.int32]
    segment_tokens: NDArray[np.int32]
    of_tokens: jax.Array
    of_fam: jax.Array
    visible: jax.Array

    def map(self, layer: int, head: int) -> AttentionMap:
        """The map of one layer and head, on the host."""
        memory, num_tokens = self.config.memory, len(self.tokens)
        unused = memory.block_size - num_tokens
        of_tokens, of_fam, visible = jax.device_get(
            (self.of_tokens[layer, head], self.of_fam[layer, head], self.visible[layer])
        )
        num_keys = of_tokens.shape[1] - unused
        return AttentionMap(
            layer=layer,
            head=head,
            block=self.block,
            block_size=memory.block_size,
            num_segments=memory.num_segments,
            fam_length=memory.fam_length,
            tokens=self.tokens,
            segment_tokens=self.segment_tokens,
            probabilities=of_tokens[:num_tokens, :num_keys],
            visible=visible[:num_tokens, :num_keys],
            fam_probabilities=of_fam[: 0 if unused else None, : memory.fam_length + num_tokens],
        )


class BlockReader:
    """A text, and how far it was read.

    Attributes:
      num_blocks: blocks of the text, the last of which may be unfinished.
      block: the block that comes next.
    """

    def __init__(self, model: LanguageModel, ids: NDArray[np.integer]) -> None:
        """Stands before the first block.

        Args:
          model: reads.
          ids: the text [any], without the beginning token.

        Raises:
          DataError: an empty text, or an id outside the vocabulary.
        """
        if not len(ids):
            raise DataError("There is nothing to look at: an empty text.")
        wrong = ids[(ids < 0) | (ids >= model.config.vocab_size)]
        if wrong.size:
            raise DataError(f"There is no token {wrong[0]}: the model's ids are 0 to {model.config.vocab_size - 1}.")
        self._model = model
        self._tokens = np.concatenate([[model.vocabulary.bos_id], ids]).astype(np.int32)
        self._steps = _make_steps(model.config, model.mesh)
        self._place = self._steps.start(model.params)
        self._history: list[_FamNumbers] = []
        self.num_blocks = -(-len(self._tokens) // model.config.memory.block_size)
        self.block = 0

    def index(self, block: int) -> int:
        """The index from 0 of a block that may be given from the end.

        Raises:
          DataError: the text has no such block.
        """
        if not -self.num_blocks <= block < self.num_blocks:
            size = self._model.config.memory.block_size
            raise DataError(
                f"There is no block {block}: the text, {len(self._tokens)} tokens with the beginning token, has "
                f"{self.num_blocks} blocks of {size}: 0 to {self.num_blocks - 1}, or -1 to {-self.num_blocks} from the "
                "end.\n  Set --gin.BLOCKS, or take a longer text."
            )
        return block % self.num_blocks

    def read_to(self, block: int) -> None:
        """Reads up to a block, given from 0; nothing is read twice, so it must not lie before `self.block`."""
        if block < self.block:
            raise ValueError(f"block {block} was read already: {self.block} comes next")
        while self.block < block:
            tokens = self._tokens_of(self.block)
            self._place, numbers = self._steps.read(self._model.params, self._place, tokens[None])
            self._history.append(numbers)
            self.block += 1

    def read_full_blocks(self) -> None:
        """Reads all blocks but an unfinished last one."""
        self.read_to(len(self._tokens) // self._model.config.memory.block_size)

    def look(self) -> BlockAttention:
        """What attention does in the block that comes next; the reader stays before it."""
        memory = self._model.config.memory
        tokens = self._tokens_of(self.block)
        padded = np.pad(tokens, (0, memory.block_size - len(tokens)))
        lengths = np.array([len(tokens)], np.int32)
        seen = self._steps.look(self._model.params, self._place, padded[None], lengths)
        segments = [self._tokens_of(self.block - memory.num_segments + index) for index in range(memory.num_segments)]
        return BlockAttention(
            config=self._model.config,
            block=self.block,
            tokens=tokens,
            segment_tokens=np.concatenate([np.zeros(0, np.int32), *segments]),
            of_tokens=seen.of_tokens,
            of_fam=seen.of_fam,
            visible=seen.visible,
        )

    def history(self) -> FamHistory:
        """What FAM did in the full blocks that were read."""
        numbers = jax.device_get(self._history)
        empty = np.zeros((0, self._model.config.num_layers), np.float32)

        def stacked(name: str) -> NDArray[np.float32]:
            return np.concatenate([empty, *(getattr(each, name)[None] for each in numbers)])

        return FamHistory(**{field.name: stacked(field.name) for field in dataclasses.fields(FamHistory)})

    def _tokens_of(self, block: int) -> NDArray[np.int32]:
        """Ids of a block; NO_TOKEN in one before the text."""
        size = self._model.config.memory.block_size
        if block < 0:
            return np.full(size, NO_TOKEN, np.int32)
        return self._tokens[block * size : (block + 1) * size]


def check_choice(config: TransformerConfig, layers: tuple[int, ...], heads: tuple[int, ...]) -> None:
    """Checks layers and heads that were asked for.

    Raises:
      ConfigError: the model lacks one of them.
    """
    for noun, chosen, count in (("layer", layers, config.num_layers), ("head", heads, config.num_heads)):
        for index in chosen:
            if not 0 <= index < count:
                raise ConfigError(
                    f"There is no {noun} {index}: the model's {noun}s are 0 to {count - 1}; see --gin.{noun.upper()}S."
                )


@struct.dataclass
class _Place:
    """Between two blocks: the state, and what FAM the first block wrote [L, B, F, D]."""

    state: State
    first_fam: Leaf


@struct.dataclass
class _FamNumbers:
    """See FamHistory; of one block, [L] each."""

    norm: Leaf
    update: Leaf
    departure: Leaf
    attention: Leaf


@struct.dataclass
class _Seen:
    """See BlockAttention."""

    of_tokens: Leaf
    of_fam: Leaf
    visible: Leaf


class _Steps:
    """The compiled steps for one text: start, read a full block, look at a block (which may be unfinished)."""

    def __init__(self, config: TransformerConfig, mesh: MeshConfig) -> None:
        model = Transformer(config)
        self._mesh, self._config = make_mesh(mesh), mesh
        self._start = jax.jit(functools.partial(_start, model))
        self._read = jax.jit(functools.partial(_read, model))
        self._look = jax.jit(functools.partial(_look, model))

    def start(self, params: Any) -> _Place:
        with use_mesh(self._mesh, self._config):
            return self._start(params)

    def read(self, params: Any, place: _Place, tokens: NDArray[np.int32]) -> tuple[_Place, _FamNumbers]:
        with use_mesh(self._mesh, self._config):
            return self._read(params, place, tokens)

    def look(self, params: Any, place: _Place, tokens: NDArray[np.int32], lengths: NDArray[np.int32]) -> _Seen:
        with use_mesh(self._mesh, self._config):
            return self._look(params, place, tokens, lengths)


@functools.lru_cache(maxsize=8)
def _make_steps(config: TransformerConfig, mesh: MeshConfig) -> _Steps:
    return _Steps(config, mesh)


def _start(model: Transformer, params: Any) -> _Place:
    state = initial_state(model, params, 1)
    return _Place(state=state, first_fam=state.fam)


def _read(model: Transformer, params: Any, place: _Place, tokens: Tokens) -> tuple[_Place, _FamNumbers]:
    """Reads one full block; what comes before were full blocks, too."""
    output = read(model, params, tokens, place.state)
    did, is_first, fam = output.diagnostics, place.state.fam_is_initial, output.state.fam
    first_fam = jnp.where(is_first[:, None, None], fam, place.first_fam)
    departure = _mean_square(fam - first_fam) / jnp.maximum(_mean_square(fam), 1e-30)
    numbers = _FamNumbers(
        norm=did.fam_norm.mean,
        update=jnp.where(is_first, jnp.nan, did.fam_update.mean),
        departure=jnp.where(is_first, jnp.nan, departure),
        attention=did.fam_attention.mean,
    )
    return _Place(state=output.state, first_fam=first_fam), numbers


def _look(model: Transformer, params: Any, place: _Place, tokens: Tokens, lengths: Lengths) -> _Seen:
    memory, state = model.config.memory, place.state
    _, probabilities = read_with_attention(model, params, tokens, state, lengths)
    layout = make_layout(state.num_tokens, lengths, tokens.shape[1], memory.block_size, state.aligned)
    masks = {
        is_local: read_mask(
            layout, memory.num_segments, memory.fam_length, model.config.local_window if is_local else None
        )[0, 0]
        for is_local in set(model.config.local_layers)
    }
    return _Seen(
        of_tokens=probabilities.tokens[:, 0, 0],
        of_fam=probabilities.fam[:, 0, 0],
        visible=jnp.stack([masks[is_local] for is_local in model.config.local_layers]),
    )


def _mean_square(fam: StackedFam) -> Float[Array, " L"]:
    """0 of a FAM without rows."""
    return jnp.sum(jnp.square(fam), axis=(1, 2, 3)) / max(fam[0].size, 1)
