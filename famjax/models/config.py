"""What a model is: frozen settings that check themselves. Imports neither jax nor flax.

Letters in brackets are those of `famjax.models.dims` and of the paper (TransformerFAM, arXiv 2404.09173).
"""

import dataclasses
from typing import Literal, get_args

from famjax.errors import ConfigError
from famjax.models.lora_config import LoraConfig
from famjax.validation import require_above, require_at_least, require_choice

FamStart = Literal["prompt", "prefix"]
FamPosition = Literal["block_end", "between_blocks", "zero"]
MlpActivation = Literal["silu", "gelu"]
RematPolicy = Literal["none", "full", "dots", "dots_without_batch"]
DTypeName = Literal["float32", "bfloat16"]
LayerKind = Literal["global", "local"]
RopeScalingKind = Literal["linear", "llama3"]


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
class RopeScaling:
    """RoPE's frequencies, made lower so that a model reads further than it was pretrained to.

    Attributes:
      kind: "linear" divides every frequency by the factor (position interpolation, arXiv 2306.15595); "llama3" divides
        the low ones, leaves the high ones and goes over from one to the other between (arXiv 2407.21783).
      factor: what low frequencies are divided by.
      low_frequency_factor: "llama3": wavelengths above `original_length` over it are divided.
      high_frequency_factor: "llama3": wavelengths below `original_length` over it are left.
      original_length: "llama3": tokens that the model was pretrained to read.
    """

    kind: RopeScalingKind
    factor: float
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_length: int = 8192

    def __post_init__(self) -> None:
        require_choice(self, "kind", RopeScalingKind)
        require_above(self, 0, "factor", "low_frequency_factor")
        require_above(self, self.low_frequency_factor, "high_frequency_factor")
        require_at_least(self, 1, "original_length")


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """A decoder language model: pre-norm layers with RoPE attention and a gated MLP.

    The defaults are famjax's own model; the settings from `attention_bias` on are what pretrained families differ in.

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
      attention_bias: the query, key and value projections have biases.
      attention_out_bias: the projection behind attention has a bias.
      mlp_bias: the MLP's three projections have biases.
      query_key_norm: RMSNorm over the head width of every query and key, before RoPE.
      post_norms: RMSNorm on what attention and the MLP give, before the residual is added.
      unit_offset_norms: norms multiply by 1 + scale, with scales that start at 0.
      query_scale: attention's scores are multiplied by it; None: h ** -0.5.
      attention_soft_cap: attention's scores s become cap * tanh(s / cap); None leaves them.
      logit_soft_cap: the logits likewise.
      embedding_scale: the embedding's rows are multiplied by it.
      logit_scale: the logits, before their cap, are multiplied by it; None: D ** -0.5 where the embeddings are tied
        (the table's rows start with variance 1), otherwise 1.
      rope_scaling: of the RoPE frequencies; None leaves them.
      layer_pattern: kinds of the layers, repeated along the stack. In "local" layers a token looks at the last
        `local_window` tokens only, itself included, and at all of FAM; FAM's own reading is the same in both kinds.
      local_window: see `layer_pattern`; tokens.
      local_rope_base: RoPE's base in local layers, without `rope_scaling`; None: as in global layers.
      lora: adapters of low rank beside the layers' matrices, which are then not trained; None: there are none.
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
    attention_bias: bool = False
    attention_out_bias: bool = False
    mlp_bias: bool = False
    query_key_norm: bool = False
    post_norms: bool = False
    unit_offset_norms: bool = False
    query_scale: float | None = None
    attention_soft_cap: float | None = None
    logit_soft_cap: float | None = None
    embedding_scale: float = 1.0
    logit_scale: float | None = None
    rope_scaling: RopeScaling | None = None
    layer_pattern: tuple[LayerKind, ...] = ("global",)
    local_window: int | None = None
    local_rope_base: float | None = None
    lora: LoraConfig | None = None

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
        require_above(self, 0, "query_scale", "attention_soft_cap", "logit_soft_cap", "embedding_scale", "logit_scale")
        require_above(self, 1, "local_rope_base")
        require_at_least(self, 1, "local_window")
        self._check_layer_pattern()

    @property
    def local_layers(self) -> tuple[bool, ...]:
        """Whether each layer is local [L]."""
        pattern = self.layer_pattern
        return tuple(pattern[layer % len(pattern)] == "local" for layer in range(self.num_layers))

    def _check_layer_pattern(self) -> None:
        """ConfigError where the kinds of layers and what local ones need do not fit each other."""
        if not self.layer_pattern or set(self.layer_pattern) - set(get_args(LayerKind)):
            raise ConfigError(
                f"TransformerConfig.layer_pattern = {self.layer_pattern!r}; allowed: a tuple of 'global' and 'local'."
            )
        if "local" in self.layer_pattern and self.local_window is None:
            raise ConfigError('TransformerConfig.layer_pattern has "local" layers; they need a local_window.')
        if "local" not in self.layer_pattern and (self.local_window, self.local_rope_base) != (None, None):
            raise ConfigError(
                "TransformerConfig.local_window and local_rope_base act on local layers, and layer_pattern has none."
            )
