import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.extend.core import jaxprs_in_params

from famjax.models.config import MemoryConfig, TransformerConfig
from famjax.models.lora_config import LoraConfig
from famjax.models.transformer import Transformer, init_params
from famjax.training.finetuning_config import BASE_PATTERN
from famjax.training.flops import forward_flops, matrix_flops, peak_flops, train_step_flops

# D = 8, H = 4, K = 2, h = 2, I = 12, V = 10. FLOPs a token: query or out 2 * 8 * 4 * 2 = 128, key or value
# 2 * 8 * 2 * 2 = 64, MLP 3 * 2 * 8 * 12 = 576, logits 2 * 8 * 10 = 160; a pair of query and key 2 * 2 * 4 * 2 = 32.
GROUPED = TransformerConfig(
    vocab_size=10,
    emb_dim=8,
    num_layers=1,
    num_heads=4,
    num_kv_heads=2,
    head_dim=2,
    mlp_dim=12,
    memory=MemoryConfig(block_size=4, num_segments=1, fam_length=3),
)


def with_memory(config, **changes):
    """The configuration with another memory."""
    return dataclasses.replace(config, memory=dataclasses.replace(config.memory, **changes))


def test_an_odd_tail_by_hand():
    """Guards against each wrong term: 10 tokens are blocks of 4, 4 and 2, of which two are full."""
    flops = forward_flops(GROUPED, 1, 10)
    assert flops.token_projections == 10 * (128 + 64 + 64 + 128)
    assert flops.token_mlp == 10 * 576
    # Block 0 has no segment before it, the others have one of 4 keys; FAM has 3; token i sees i + 1 keys of its block.
    block_0, block_1 = 4 * 3 + (1 + 2 + 3 + 4), 4 * (4 + 3) + (1 + 2 + 3 + 4)
    block_2 = 2 * (4 + 3) + (1 + 2)
    assert flops.token_attention == 32 * (block_0 + block_1 + block_2)
    # Three blocks read FAM's keys and values; two write it.
    assert flops.fam_projections == 3 * (3 * (64 + 64) + 2 * (128 + 128))
    assert flops.fam_attention == 32 * 2 * 3 * (3 + 4)
    assert flops.fam_mlp == 2 * 3 * 576
    assert flops.fam_prompt == 3 * (128 + 64 + 64 + 128 + 576) + 32 * 3 * 3
    assert flops.logits == 10 * 160
    assert (
        flops.total == sum(dataclasses.asdict(flops).values()) == 3840 + 5760 + 2464 + 2688 + 1344 + 3456 + 3168 + 1600
    )


def test_without_causal_discount_by_hand():
    """Guards against a discount that cannot be switched off, or that reaches beyond the tokens' own block."""
    discounted, whole = forward_flops(GROUPED, 1, 10), forward_flops(GROUPED, 1, 10, causal_discount=False)
    assert whole.token_attention == 32 * (4 * (3 + 4) + 4 * (4 + 3 + 4) + 2 * (4 + 3 + 2))
    assert dataclasses.replace(whole, token_attention=discounted.token_attention) == discounted


def test_without_fam_nothing_of_it_counts():
    """Guards against FLOPs of a memory that a BSWA model does not have."""
    flops = forward_flops(with_memory(GROUPED, fam_length=0), 1, 10)
    assert (flops.fam_projections, flops.fam_attention, flops.fam_mlp, flops.fam_prompt) == (0, 0, 0, 0)
    assert flops.token_attention == 32 * (10 + (4 * 4 + 10) + (2 * 4 + 3))


def test_without_segments_by_hand():
    """Guards against a previous block that is counted though M is 0."""
    flops = forward_flops(with_memory(GROUPED, num_segments=0), 1, 10)
    assert flops.token_attention == 32 * (10 * 3 + 10 + 10 + 3)


def test_segments_that_do_not_exist_yet_do_not_count():
    """Guards against M segments for every block: with M beyond N it is plain causal attention, T (T + 1) / 2 pairs."""
    plain = with_memory(GROUPED, num_segments=100, fam_length=0)
    assert forward_flops(plain, 1, 10).token_attention == 32 * 10 * 11 // 2
    assert forward_flops(plain, 1, 16).token_attention == 32 * 16 * 17 // 2


def test_a_local_window_by_hand():
    """Guards against windows that are not counted, that cut FAM, or that are those of every layer."""
    config = dataclasses.replace(GROUPED, num_layers=3, layer_pattern=("local", "global"), local_window=5)
    whole = forward_flops(dataclasses.replace(GROUPED, num_layers=1), 1, 10).token_attention
    # FAM's 3 for every token; then 1 2 3 4, with a segment of 4 before: 5 5 5 5 and 5 5.
    local = 10 * 3 + (1 + 2 + 3 + 4) + 4 * 5 + 2 * 5
    assert forward_flops(config, 1, 10).token_attention == whole + 2 * 32 * local
    square = forward_flops(GROUPED, 1, 10, causal_discount=False).token_attention
    local = 10 * 3 + 4 * 4 + 4 * (4 + 4) + 2 * (4 + 2)
    assert forward_flops(config, 1, 10, causal_discount=False).token_attention == square + 2 * 32 * local
    wide = dataclasses.replace(config, local_window=100)
    assert forward_flops(wide, 1, 10).token_attention == 3 * whole


def test_a_text_shorter_than_a_block_is_not_written():
    """Guards against an update by a block that is not complete."""
    flops = forward_flops(GROUPED, 1, 3)
    assert (flops.fam_attention, flops.fam_mlp) == (0, 0)
    assert flops.fam_projections == 3 * (64 + 64)


def test_layers_and_rows_multiply():
    """Guards against a prompt counted for every row, and logits counted for every layer."""
    one, many = forward_flops(GROUPED, 1, 10), forward_flops(dataclasses.replace(GROUPED, num_layers=5), 7, 10)
    for name, count in dataclasses.asdict(one).items():
        factor = {"fam_prompt": 5, "logits": 7}.get(name, 35)
        assert getattr(many, name) == factor * count, name


def test_a_prefix_is_not_carried_up():
    """Guards against the cost of the prompt's way up for a model that has one prefix a layer instead."""
    prefix = forward_flops(with_memory(GROUPED, fam_start="prefix"), 1, 10)
    assert prefix == dataclasses.replace(forward_flops(GROUPED, 1, 10), fam_prompt=0)


def test_an_adapter_by_hand():
    """Guards against a branch that is not counted, counted for the wrong rows, or beside matrices without one."""
    lora = LoraConfig(rank=5, patterns=("layers/attention/(key|out)/kernel", "layers/mlp/up/kernel"))
    flops = forward_flops(dataclasses.replace(GROUPED, num_layers=2, lora=lora), 7, 10)
    # D = 8, H h = 8, K h = 4, I = 12. FAM's 3 rows go through "key" in three blocks, through the others in two.
    key, out, up = 2 * 5 * (8 + 4), 2 * 5 * (8 + 8), 2 * 5 * (8 + 12)
    assert flops.adapters == 2 * (7 * ((10 + 9) * key + (10 + 6) * (out + up)) + 3 * (key + out + up))
    plain = forward_flops(dataclasses.replace(GROUPED, num_layers=2), 7, 10)
    assert dataclasses.replace(flops, adapters=0) == plain


def test_frozen_parameters_by_hand():
    """Guards against gradients that are counted and not computed, or computed and not counted."""
    forward, matrices = forward_flops(GROUPED, 1, 10), matrix_flops(GROUPED, 1, 10)
    attention = forward.token_attention + forward.fam_attention + 32 * 3 * 3
    assert forward.total == attention + sum(matrices.values())
    assert matrices["layers/mlp/up/kernel"] == (10 + 2 * 3 + 3) * 576 // 3
    assert train_step_flops(GROUPED, 1, 10, trained=matrices) == 3 * forward.total
    memory_only = train_step_flops(GROUPED, 1, 10, {"fam_prompt"})
    assert memory_only == 2 * (forward.total - attention) + 3 * attention
    up = train_step_flops(GROUPED, 1, 10, {"fam_prompt", "layers/mlp/up/kernel"})
    assert up - memory_only == matrices["layers/mlp/up/kernel"]
    untied = dataclasses.replace(GROUPED, tie_embeddings=False)
    assert train_step_flops(untied, 1, 10, {"output/kernel"}) == forward.total + 1600
    assert train_step_flops(untied, 1, 10, {"output/kernel", "final_norm/scale"}) == forward.total + 2 * 1600
    assert train_step_flops(untied, 1, 10, {"embedding/table"}) == memory_only


def test_a_training_step_is_three_forward_calls():
    """Guards against a step whose discount or factor differs from the forward call's."""
    assert train_step_flops(GROUPED, 2, 10) == 3 * forward_flops(GROUPED, 2, 10).total
    whole = train_step_flops(GROUPED, 2, 10, causal_discount=False)
    assert whole == 3 * forward_flops(GROUPED, 2, 10, causal_discount=False).total
    assert whole > train_step_flops(GROUPED, 2, 10)


def test_fam_costs_about_its_share_of_a_block():
    """Guards against a wrong order of size: FAM of C / 16 rows adds about 6 %."""
    memory = MemoryConfig(block_size=1024, num_segments=3, fam_length=64)
    fam = TransformerConfig(256, 1536, 18, 12, 12, 128, 8 * 1536, memory)
    ratio = train_step_flops(fam, 8, 8192) / train_step_flops(with_memory(fam, fam_length=0), 8, 8192)
    assert ratio == pytest.approx(1.06, abs=0.01)


def products(jaxpr):
    """FLOPs of the matrix products of a traced function, the bodies of its loops counted as often as they run."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            contracted = equation.params["dimension_numbers"][0][0]
            left = equation.invars[0].aval.shape
            total += 2 * math.prod(left[axis] for axis in contracted) * math.prod(equation.outvars[0].aval.shape)
        runs = equation.params["length"] if equation.primitive.name == "scan" else 1
        total += runs * sum(products(inner) for inner in jaxprs_in_params(equation.params))
    return total


@pytest.mark.parametrize("fam_length", [0, 3])
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_the_formulas_count_the_model_itself(fam_length, num_kv_heads):
    """Guards against formulas of another model than the one that runs (no segments, no tail: nothing is padded)."""
    config = dataclasses.replace(with_memory(GROUPED, num_segments=0, fam_length=fam_length), num_kv_heads=num_kv_heads)
    config = dataclasses.replace(config, num_layers=3)
    model = Transformer(config)
    params = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
    tokens = jnp.zeros((2, 12), jnp.int32)
    traced = jax.make_jaxpr(lambda p: model.apply({"params": p}, tokens, method=Transformer.read_from_start))(params)
    # Of the FAM that is left, each row of each layer has keys and values made for the next call, which counts them.
    left = 2 * 3 * fam_length * 2 * (2 * config.emb_dim * num_kv_heads * config.head_dim)
    assert products(traced.jaxpr) == forward_flops(config, 2, 12, causal_discount=False).total + left


@pytest.mark.parametrize("fam_length", [0, 3])
@pytest.mark.parametrize("case", ["all", "lora", "memory_only"])
def test_the_formulas_count_the_gradient_itself(case, fam_length):
    """Guards against a count of gradients that the step does not make, or makes besides."""
    if case == "memory_only" and not fam_length:
        pytest.skip("there is no memory to train")
    lora = LoraConfig(rank=5, patterns=("layers/(attention/.*|mlp/down)/kernel",)) if case == "lora" else None
    config = with_memory(GROUPED, num_segments=0, fam_length=fam_length)
    config = dataclasses.replace(config, num_layers=3, lora=lora)
    model = Transformer(config)
    params = jax.eval_shape(lambda key: nn.meta.unbox(init_params(model, key)), jax.random.key(0))
    flat = flatten_dict(params, sep="/")
    trained = [path for path in flat if case == "all" or re.fullmatch(f"(?!{BASE_PATTERN}$).*", path)]
    tokens = jnp.zeros((2, 12), jnp.int32)

    def loss(chosen, others):
        params = unflatten_dict({**others, **chosen}, sep="/")
        return model.apply({"params": params}, tokens, method=Transformer.read_from_start).sum()

    chosen = {path: flat.pop(path) for path in trained}
    gradient = products(jax.make_jaxpr(jax.grad(loss))(chosen, flat).jaxpr)
    # The tokens' scores, half of their attention, are computed again in the backward pass. Of the FAM that is left,
    # keys and values are made for the next call, of which the scan makes gradients as of the others.
    again = forward_flops(config, 2, 12, causal_discount=False).token_attention // 2
    rows, width, keys = 2 * 3 * fam_length, config.emb_dim, config.num_kv_heads * config.head_dim
    left = rows * 2 * (2 * width * keys) * (3 if case == "all" else 2)
    left += rows * 2 * (2 * 5 * (width + keys)) * 3 if case == "lora" else 0
    assert gradient == train_step_flops(config, 2, 12, trained, causal_discount=False) + again + left


def test_peaks_of_known_devices():
    """Guards against a chip mistaken for its smaller or larger sibling, and against an invented peak for a CPU."""
    peaks = {
        "TPU v4": 275e12,
        "TPU v5 lite": 197e12,
        "TPU v5e": 197e12,
        "TPU v5": 459e12,
        "TPU v5p": 459e12,
        "TPU v6 lite": 918e12,
        "TPU v6e": 918e12,
        "NVIDIA A100-SXM4-80GB": 312e12,
        "NVIDIA H100 80GB HBM3": 989.5e12,
        "NVIDIA H100 PCIe": 756.5e12,
        "NVIDIA H200": 989.5e12,
        "cpu": None,
        "NVIDIA GeForce RTX 4090": None,
    }
    assert {kind: peak_flops(kind) for kind in peaks} == peaks
    assert peak_flops(jax.devices()[0].device_kind) is None
