"""Model FLOPs, counted by formula, and the utilization they give (MFU).

The compiler's own count takes the body of a scan once, and what it counts depends on rematerialisation and kernels;
these formulas count what the model's definition asks for. A multiplication and its addition are 2 FLOPs; only matrix
products count: no norms, softmax, rotations, look-ups or optimizer, as is usual for MFU (PaLM, arXiv 2204.02311,
appendix B).

For one layer and one row of T tokens, with N = ceil(T / C) blocks of c_0 .. c_{N-1} tokens (all C but the last), of
which W = floor(T / C) are full, and I the width of the MLP:

    token projections   4 D (H + K) h T                       query and out 2 D H h each, key and value 2 D K h each
    token MLP           6 D I T                               gate, up, down
    token attention     4 H h  sum_b (c_b keys_b)             scores and weighted values, 2 H h for each query and key;
                                                              keys_b = min(b, M) C + F + block_b
    FAM projections     4 D K h F N + 4 D H h F W             keys and values for every block that reads FAM,
                                                              query and out for every block that writes it
    FAM attention       4 H h F (F + C) W                     FAM's queries see FAM and the block
    FAM MLP             6 D I F W

where block_b is c_b (the whole square that a kernel without blocks of its own computes) or, with causal discounting,
(c_b + 1) / 2 (what the definition needs: token i of a block, from 0, sees i + 1 of its keys). Only full blocks are
written. The keys and values of the FAM that a call leaves are made for the next call, and counted there. Memory
segments that do not exist yet, before block M, are not counted. In local layers a token sees no more than
`local_window` tokens of segments and block (without discounting, a block's square counts whole and the window cuts
the segments alone). Once for a call, whatever its batch:

    FAM prompt          (4 D (H + K) h + 6 D I) F + 4 H h F^2     in each layer (fam_start = "prompt"), up the stack

and once for the model, for every token: logits 2 D V T. Padding counts as tokens: T is the length of the batch.

An adapter (LoRA) of rank r beside a matrix from i to o adds 2 r (i + o) for every row, of tokens and of FAM, that goes
through the matrix.

A training step is the forward pass and, for each of its products, the gradients that are asked for:

    by the activations that go into it    as much again, 2 x in attention, where both factors are activations
    by its matrix                         as much again, where that is trained

so that it is 3 x forward where every parameter is trained. With a frozen base its matrices count 2 x, attention and
adapters 3 x. Where nothing is trained but the last norm or the output layer, no gradient goes down the layers: they
count once. What rematerialisation computes again is left out.
"""

import dataclasses
from collections.abc import Collection

from famjax.models.config import MemoryConfig, TransformerConfig
from famjax.models.lora_config import ADAPTABLE

_LAST_NORM = "final_norm/scale"

# Dense bfloat16 FLOP/s of one jax device (a chip of two cores that jax shows as one device counts whole), by the
# beginning of its `device_kind`; the first that fits counts. Source: the data sheets at cloud.google.com/tpu/docs, and
# NVIDIA's without sparsity. Float32 products on these devices are measured against the same peak.
_PEAK_FLOPS = (
    ("TPU v4 lite", 138e12),
    ("TPU v4", 275e12),
    ("TPU v5 lite", 197e12),
    ("TPU v5e", 197e12),
    ("TPU v5", 459e12),
    ("TPU v6 lite", 918e12),
    ("TPU v6e", 918e12),
    ("NVIDIA A100", 312e12),
    ("NVIDIA H100 NVL", 835.5e12),
    ("NVIDIA H100 PCIe", 756.5e12),
    ("NVIDIA H100", 989.5e12),
    ("NVIDIA H200 NVL", 835.5e12),
    ("NVIDIA H200", 989.5e12),
)


@dataclasses.dataclass(frozen=True)
class ForwardFlops:
    """The FLOPs of one forward call, all layers and rows together, by what they are spent on."""

    token_projections: int
    token_mlp: int
    token_attention: int
    fam_projections: int
    fam_attention: int
    fam_mlp: int
    fam_prompt: int
    adapters: int
    logits: int

    @property
    def total(self) -> int:
        """All of them."""
        return sum(dataclasses.asdict(self).values())


def forward_flops(
    config: TransformerConfig, batch_size: int, length: int, *, causal_discount: bool = True
) -> ForwardFlops:
    """Counts a call that reads `length` tokens a row from the initial state; see the module's text.

    Args:
      config: the model.
      batch_size: rows [B].
      length: tokens a row, padding included [T].
      causal_discount: whether the tokens' attention within a block counts the keys they see, or the whole block.
    """
    memory = config.memory
    fam, layers = memory.fam_length, config.num_layers
    num_read, num_written = -(-length // memory.block_size), length // memory.block_size
    query_or_out = 2 * config.emb_dim * config.num_heads * config.head_dim
    key_or_value = 2 * config.emb_dim * config.num_kv_heads * config.head_dim
    mlp = 6 * config.emb_dim * config.mlp_dim
    attend = 4 * config.num_heads * config.head_dim
    rows = batch_size * layers
    prompt = (2 * query_or_out + 2 * key_or_value + mlp) * fam + attend * fam**2
    return ForwardFlops(
        token_projections=rows * (2 * query_or_out + 2 * key_or_value) * length,
        token_mlp=rows * mlp * length,
        token_attention=batch_size * attend * _attended_pairs(config, length, causal_discount),
        fam_projections=rows * fam * 2 * (key_or_value * num_read + query_or_out * num_written),
        fam_attention=rows * attend * fam * (fam + memory.block_size) * num_written,
        fam_mlp=rows * mlp * fam * num_written,
        fam_prompt=layers * prompt if memory.fam_start == "prompt" else 0,
        adapters=sum(count for path, count in matrix_flops(config, batch_size, length).items() if "/lora_" in path),
        logits=2 * batch_size * config.emb_dim * config.vocab_size * length,
    )


def train_step_flops(
    config: TransformerConfig,
    batch_size: int,
    length: int,
    trained: Collection[str] | None = None,
    *,
    causal_discount: bool = True,
) -> int:
    """Counts a training step on a batch [B, T]; see the module's text.

    Args:
      config: the model.
      batch_size: rows [B].
      length: tokens a row, padding included [T].
      trained: paths of the parameters that are trained, as "layers/mlp/up/kernel"; None: all.
      causal_discount: see `forward_flops`.
    """
    forward = forward_flops(config, batch_size, length, causal_discount=causal_discount)
    if trained is None:
        return 3 * forward.total
    matrices = matrix_flops(config, batch_size, length)
    of_matrices = sum(count for path, count in matrices.items() if path in trained)
    if not set(trained) - {_LAST_NORM, "output/kernel"}:
        return forward.total + of_matrices + (forward.logits if _LAST_NORM in trained else 0)
    attention = forward.total - sum(matrices.values())
    return 2 * forward.total + attention + of_matrices


def matrix_flops(config: TransformerConfig, batch_size: int, length: int) -> dict[str, int]:
    """The FLOPs of a forward call [B, T] in each matrix of the model, adapters included, by the parameter's path."""
    memory, width = config.memory, config.emb_dim
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    of_attention = ((width, queries), (width, keys), (width, keys), (queries, width))
    of_mlp = ((width, config.mlp_dim), (width, config.mlp_dim), (config.mlp_dim, width))
    num_read, num_written = -(-length // memory.block_size), length // memory.block_size
    from_prompt = memory.fam_length if memory.fam_start == "prompt" else 0
    flops = {}
    for path, (inputs, outputs) in zip(ADAPTABLE, of_attention + of_mlp, strict=True):
        blocks = num_read if path.endswith(("key/kernel", "value/kernel")) else num_written
        rows = config.num_layers * (batch_size * (length + memory.fam_length * blocks) + from_prompt)
        flops[path] = 2 * rows * inputs * outputs
        if config.lora is not None and config.lora.adapts(path):
            place = path.removesuffix("kernel")
            flops[f"{place}lora_a"] = 2 * rows * inputs * config.lora.rank
            flops[f"{place}lora_b"] = 2 * rows * config.lora.rank * outputs
    head = "embedding/table" if config.tie_embeddings else "output/kernel"
    return flops | {head: 2 * batch_size * length * width * config.vocab_size}


def peak_flops(device_kind: str) -> float | None:
    """The peak of a device in bfloat16 FLOP/s, by `jax.Device.device_kind`; None where not known, as for a CPU."""
    return next((peak for beginning, peak in _PEAK_FLOPS if device_kind.startswith(beginning)), None)


def _attended_pairs(config: TransformerConfig, length: int, causal_discount: bool) -> int:
    """Pairs of a token and a key that it looks at, in all layers and one row."""
    num_local = sum(config.local_layers)
    pairs = (config.num_layers - num_local) * _pairs_of_layer(config.memory, length, causal_discount, None)
    if num_local:
        pairs += num_local * _pairs_of_layer(config.memory, length, causal_discount, config.local_window)
    return pairs


def _pairs_of_layer(memory: MemoryConfig, length: int, causal_discount: bool, window: int | None) -> int:
    pairs = 0
    for block in range(-(-length // memory.block_size)):
        tokens = min(memory.block_size, length - block * memory.block_size)
        segments = min(block, memory.num_segments) * memory.block_size
        if causal_discount:
            pairs += _sum_capped(segments + 1, tokens, window)
        else:
            pairs += tokens * (tokens + (segments if window is None else min(segments, window - 1)))
        pairs += tokens * memory.fam_length
    return pairs


def _sum_capped(first: int, count: int, cap: int | None) -> int:
    """The sum of min(first + i, cap) over i below `count`."""
    below = count if cap is None else min(count, max(0, cap - first))
    return below * first + below * (below - 1) // 2 + (0 if cap is None else (count - below) * cap)
