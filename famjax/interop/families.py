"""The families of pretrained decoders: of each, where its tensors belong and what its config.json means. One table.

A family is data. What the model must be able to compute for it are settings of `TransformerConfig`; nothing outside
this package knows a family's name. The meaning of the keys is that of the library transformers.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from famjax.models.config import TransformerConfig

HfConfig = Mapping[str, Any]
SlidingRule = Literal["none", "all", "from_layer", "alternate", "five_of_six"]

_LAYER = "model.layers.{layer}."

# Parameter path to the tensor's name. A path that a model lacks (a bias, the output matrix) is not looked for.
_LLAMA_TENSORS = {
    "embedding/table": "model.embed_tokens.weight",
    "final_norm/scale": "model.norm.weight",
    "output/kernel": "lm_head.weight",
    "layers/attention_norm/scale": _LAYER + "input_layernorm.weight",
    "layers/mlp_norm/scale": _LAYER + "post_attention_layernorm.weight",
    "layers/attention/query_norm/scale": _LAYER + "self_attn.q_norm.weight",
    "layers/attention/key_norm/scale": _LAYER + "self_attn.k_norm.weight",
    **{
        f"layers/attention/{ours}/{part}": f"{_LAYER}self_attn.{theirs}_proj.{name}"
        for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "o"))
        for part, name in (("kernel", "weight"), ("bias", "bias"))
    },
    **{
        f"layers/mlp/{ours}/{part}": f"{_LAYER}mlp.{ours}_proj.{name}"
        for ours in ("gate", "up", "down")
        for part, name in (("kernel", "weight"), ("bias", "bias"))
    },
}
_POST_NORM_TENSORS = {
    **_LLAMA_TENSORS,
    "layers/attention_post_norm/scale": _LAYER + "post_attention_layernorm.weight",
    "layers/mlp_norm/scale": _LAYER + "pre_feedforward_layernorm.weight",
    "layers/mlp_post_norm/scale": _LAYER + "post_feedforward_layernorm.weight",
}


@dataclasses.dataclass(frozen=True)
class Family:
    """One architecture.

    Attributes:
      name: what `--family` takes.
      architecture: the first of config.json's "architectures".
      model_type: config.json's "model_type".
      tensors: parameter path to the tensor's name, with {layer} where it is one of each layer.
      defaults: what a key that config.json lacks means.
      settings: of `TransformerConfig`, the same for every model of the family.
      optional_biases: of the keys "attention_bias" (all four projections) and "mlp_bias", those that it reads.
      activation_key: the key of the MLP's activation.
      activations: values of that key that mean another one in this family.
      scales_embedding: the embedding is multiplied by sqrt(D).
      query_scalar: scores are multiplied by "query_pre_attn_scalar" ** -0.5.
      soft_caps: reads "attn_logit_softcapping" and "final_logit_softcapping".
      sliding: which layers have a window where config.json has no "layer_types": "none", "all", "from_layer"
        ("max_window_layers", where "use_sliding_window"), "alternate" (the even ones), or "five_of_six".
      layer_types: whether config.json's "layer_types" may say other kinds of layers than `sliding`.
      without: keys that transformers has for it and does not use, so that a value would be another model.
      local_rope: windowed layers have a RoPE base of their own.
    """

    name: str
    architecture: str
    model_type: str
    tensors: Mapping[str, str]
    defaults: HfConfig
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    optional_biases: tuple[str, ...] = ()
    activation_key: str = "hidden_act"
    activations: Mapping[str, str] = dataclasses.field(default_factory=dict)
    scales_embedding: bool = False
    query_scalar: bool = False
    soft_caps: bool = False
    sliding: SlidingRule = "none"
    layer_types: bool = False
    without: tuple[str, ...] = ()
    local_rope: bool = False


_COMMON_DEFAULTS = {"rms_norm_eps": 1e-6, "rope_theta": 10000.0, "rope_scaling": None, "sliding_window": None}
_LLAMA_DEFAULTS = {**_COMMON_DEFAULTS, "tie_word_embeddings": False, "hidden_act": "silu"}
_QWEN_DEFAULTS = {**_LLAMA_DEFAULTS, "use_sliding_window": False, "max_window_layers": 28, "sliding_window": 4096}
_GEMMA_DEFAULTS = {**_COMMON_DEFAULTS, "tie_word_embeddings": True, "head_dim": 256}
_GEMMA_SETTINGS = {"unit_offset_norms": True, "logit_scale": 1.0}
_GELU = "gelu_pytorch_tanh"

FAMILIES = (
    Family(
        name="llama",
        architecture="LlamaForCausalLM",
        model_type="llama",
        tensors=_LLAMA_TENSORS,
        defaults=_LLAMA_DEFAULTS,
        settings={"logit_scale": 1.0},
        optional_biases=("attention_bias", "mlp_bias"),
    ),
    Family(
        name="mistral",
        architecture="MistralForCausalLM",
        model_type="mistral",
        tensors=_LLAMA_TENSORS,
        defaults={**_LLAMA_DEFAULTS, "sliding_window": 4096, "num_key_value_heads": 8},
        settings={"logit_scale": 1.0},
        sliding="all",
    ),
    Family(
        name="qwen2",
        architecture="Qwen2ForCausalLM",
        model_type="qwen2",
        tensors=_LLAMA_TENSORS,
        defaults={**_QWEN_DEFAULTS, "num_key_value_heads": 32},
        settings={"logit_scale": 1.0, "attention_bias": True},
        sliding="from_layer",
        layer_types=True,
    ),
    Family(
        name="qwen3",
        architecture="Qwen3ForCausalLM",
        model_type="qwen3",
        tensors=_LLAMA_TENSORS,
        defaults={**_QWEN_DEFAULTS, "num_key_value_heads": 32, "head_dim": 128},
        settings={"logit_scale": 1.0, "query_key_norm": True},
        optional_biases=("attention_bias",),
        sliding="from_layer",
        layer_types=True,
    ),
    Family(
        name="gemma",
        architecture="GemmaForCausalLM",
        model_type="gemma",
        tensors=_LLAMA_TENSORS,
        defaults={**_GEMMA_DEFAULTS, "num_key_value_heads": 16, "hidden_act": _GELU},
        settings=_GEMMA_SETTINGS,
        optional_biases=("attention_bias",),
        activations={"gelu": _GELU},  # The first releases say "gelu", and were trained with its tanh form.
        scales_embedding=True,
    ),
    Family(
        name="gemma2",
        architecture="Gemma2ForCausalLM",
        model_type="gemma2",
        tensors=_POST_NORM_TENSORS,
        defaults={
            **_GEMMA_DEFAULTS,
            "num_key_value_heads": 4,
            "hidden_activation": _GELU,
            "query_pre_attn_scalar": 256,
            "sliding_window": 4096,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
        settings={**_GEMMA_SETTINGS, "post_norms": True},
        optional_biases=("attention_bias",),
        activation_key="hidden_activation",
        scales_embedding=True,
        query_scalar=True,
        soft_caps=True,
        sliding="alternate",
        layer_types=True,
    ),
    Family(
        name="gemma3",
        architecture="Gemma3ForCausalLM",
        model_type="gemma3_text",
        tensors=_POST_NORM_TENSORS,
        defaults={
            **_GEMMA_DEFAULTS,
            "num_key_value_heads": 4,
            "hidden_activation": _GELU,
            "query_pre_attn_scalar": 256,
            "sliding_window": 4096,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "rope_theta": 1_000_000.0,
            "rope_local_base_freq": 10000.0,
        },
        settings={**_GEMMA_SETTINGS, "post_norms": True, "query_key_norm": True},
        optional_biases=("attention_bias",),
        activation_key="hidden_activation",
        scales_embedding=True,
        query_scalar=True,
        soft_caps=True,
        sliding="five_of_six",
        layer_types=True,
        without=("attn_logit_softcapping",),
        local_rope=True,
    ),
)


def has_window(family: Family, hf: HfConfig, layer: int) -> bool:
    """Whether a layer has a window where config.json has no "layer_types"; `hf` with the family's defaults."""
    match family.sliding:
        case "none":
            return False
        case "all":
            return True
        case "from_layer":
            return bool(hf["use_sliding_window"]) and layer >= hf["max_window_layers"]
        case "alternate":
            return layer % 2 == 0
        case "five_of_six":
            return (layer + 1) % (hf.get("sliding_window_pattern") or 6) != 0


def tensor_names(family: Family, path: str, config: TransformerConfig) -> list[str]:
    """The tensors that a parameter is made of: one of each layer where it is stacked, otherwise one."""
    template = family.tensors[path]
    if "{layer}" not in template:
        return [template]
    return [template.format(layer=layer) for layer in range(config.num_layers)]
