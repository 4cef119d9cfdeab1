"""What a model is: frozen settings that check themselves. Imports neither jax nor flax.

Letters in brackets are those of `famjax.models.dims` and of the paper (TransformerFAM, arXiv 2404.09173).
"""

import dataclasses
from typing import Literal

from famjax.errors import ConfigError
from famjax.validation import require_above, require_at_least, require_choice

FamStart = Literal["prompt", "prefix"]
FamPosition = Literal["block_end", "between_blocks", "zero"]
MlpActivation = Literal["silu", "gelu"]
RematPolicy = Literal["none", "full", "dots", "dots_without_batch"]
DTypeName = Literal["float32", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class MemoryConfig:
    """The working memory of every layer: TransformerFAM, or TransformerBSWA where `fam_length` is 0.

    Attributes:
      block_size: tokens in a block, also the stride [C].
      num_segments: past blocks that stay as keys and values [M]; 0 keeps none.
      fam_length: activations of feedback memory in each layer [F]; 0 is TransformerBSWA.
      fam_start: where the first block's FAM comes from: "prompt", one learned prompt carried up the stack (the paper),
        or "prefix", one learned FAM for each layer (the paper's ablation "FAM + Prefix").
      fam_position: positions of FAM: "block_end", the last F tokens before the block (the paper), or the ablations
        "between_blocks" (fractions between the last token of a block and the first of the next) and "zero".
      stop_gradient: for the ablation only: no gradient flows through segments and FAM (to the FAM prompt it does).
    """

    block_size: int
    num_segments: int
    fam_length: int
    fam_start: FamStart = "prompt"
    fam_position: FamPosition = "block_end"
    stop_gradient: bool = False

    def __post_init__(self) -> None:
        require_at_least(self, 1, "block_size")
        require_at_least(self, 0, "num_segments", "fam_length")
        require_choice(self, "fam_start", FamStart)
        require_choice(self, "fam_position", FamPosition)


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """A decoder language model: pre-norm layers with RoPE attention and a gated MLP.

    Attributes:
      vocab_size: rows of the embedding table [V].
      emb_dim: width of the residual stream [D].
      num_layers: decoder layers [L].
      num_heads: query heads [H].
      num_kv_heads: key and value heads [K]; H is multi-head, 1 is multi-query, a divisor of H is grouped-query
        attention.
      head_dim: width of a head [h]; even, for RoPE.
      mlp_dim: width of the gated MLP.
      memory: the working memory.
      mlp_activation: "silu" (SwiGLU) or "gelu" (GeGLU).
      tie_embeddings: the output layer uses the embedding table; otherwise it has a matrix of its own.
      rope_base: base of the RoPE wavelengths; the longest is 2 pi times it.
      residual_init_scale: initial values of the two projections that write to the residual stream are so many times as
        large. FAM sums its updates up over the blocks, so what they are at random is a drift that drowns what was
        written; a small scale starts without it (docs/research.md).
      norm_epsilon: added to the mean square in RMSNorm.
      dropout_rate: on the embeddings and on both residual branches, in training.
      dtype: of activations; parameters, softmax, norms' statistics and the loss are float32 always.
      remat_policy: what the backward pass of a layer keeps: "none" all but tokens' attention, "full" nothing, "dots"
        matrix products, "dots_without_batch" those with no batch dimension (projections and MLP).
    """

    vocab_size: int
    emb_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_dim: int
    memory: MemoryConfig
    mlp_activation: MlpActivation = "silu"
    tie_embeddings: bool = True
    rope_base: float = 10000.0
    residual_init_scale: float = 1.0
    norm_epsilon: float = 1e-6
    dropout_rate: float = 0.0
    dtype: DTypeName = "float32"
    remat_policy: RematPolicy = "none"

    def __post_init__(self) -> None:
        require_at_least(
            self, 1, "vocab_size", "emb_dim", "num_layers", "num_heads", "num_kv_heads", "head_dim", "mlp_dim"
        )
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(
                f"TransformerConfig.num_kv_heads = {self.num_kv_heads} does not divide num_heads = {self.num_heads}; "
                "allowed: num_heads (multi-head), 1 (multi-query) or a divisor (grouped-query)."
            )
        if self.head_dim % 2:
            raise ConfigError(f"TransformerConfig.head_dim = {self.head_dim}; RoPE needs an even width.")
        if not 0.0 <= self.dropout_rate < 1.0:
            raise ConfigError(f"TransformerConfig.dropout_rate = {self.dropout_rate}; allowed: 0 <= rate < 1.")
        require_above(self, 0, "residual_init_scale", "norm_epsilon")
        require_above(self, 1, "rope_base")
        require_choice(self, "mlp_activation", MlpActivation)
        require_choice(self, "dtype", DTypeName)
        require_choice(self, "remat_policy", RematPolicy)
