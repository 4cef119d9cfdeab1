"""config.json as real releases have it: transformers 4's keys, transformers 5's, and what is refused."""

import dataclasses

import pytest

from famjax.errors import CheckpointError
from famjax.interop.config_values import find_family, read_settings, write_settings
from famjax.interop.families import FAMILIES
from famjax.models.config import MemoryConfig, RopeScaling, TransformerConfig

MEMORY = MemoryConfig(block_size=8, num_segments=1, fam_length=0)
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_hidden_layers": 12,
    "vocab_size": 50,
}
LLAMA_3 = {
    **SIZES,
    "architectures": ["LlamaForCausalLM"],
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}
GEMMA_3 = {
    **SIZES,
    "architectures": ["Gemma3ForCausalLM"],
    "head_dim": 256,
    "num_key_value_heads": 1,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 168,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000,
    "rope_local_base_freq": 10000,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    "sliding_window": 512,
    "sliding_window_pattern": 6,
}


def read(hf) -> TransformerConfig:
    """The settings of a config.json."""
    return read_settings(find_family(hf, "config.json"), hf, MEMORY, "config.json")


def test_llama_3_of_transformers_4():
    """Guards against a scaling, an epsilon or a base that is left at its default."""
    expected = TransformerConfig(
        vocab_size=50,
        emb_dim=64,
        num_layers=12,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        mlp_dim=96,
        memory=MEMORY,
        tie_embeddings=True,
        rope_base=500000.0,
        rope_scaling=RopeScaling("llama3", 32.0, 1.0, 4.0, 8192),
        norm_epsilon=1e-5,
        logit_scale=1.0,
        dtype="bfloat16",
    )
    assert read(LLAMA_3) == expected


def test_first_llama_has_few_keys():
    """Guards against a config.json of 2023 that is refused: no key-value heads, no RoPE keys."""
    config = read({**SIZES, "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": False})
    assert (config.num_kv_heads, config.head_dim, config.rope_base, config.tie_embeddings) == (4, 16, 10000.0, False)
    assert read({**SIZES, "model_type": "llama"}) == config


def test_gemma_3_of_transformers_4():
    """Guards against local layers in the wrong places, a base that is the global one, tied embeddings that are not."""
    config = read(GEMMA_3)
    assert config.layer_pattern == ("local",) * 5 + ("global",)
    assert config.local_layers == ((True,) * 5 + (False,)) * 2
    assert (config.local_window, config.local_rope_base, config.rope_base) == (512, 10000.0, 1e6)
    assert config.rope_scaling == RopeScaling("linear", 8.0)
    assert (config.query_scale, config.embedding_scale, config.tie_embeddings) == (168**-0.5, 8.0, True)
    nested = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    }
    newer = {key: value for key, value in GEMMA_3.items() if not key.startswith("rope")}
    assert read({**newer, "rope_parameters": nested}) == config


QWEN = {**SIZES, "architectures": ["Qwen2ForCausalLM"], "num_key_value_heads": 2, "sliding_window": 100}


@pytest.mark.parametrize(
    ("hf", "local"),
    [
        (QWEN, [False] * 12),
        ({**QWEN, "use_sliding_window": True, "max_window_layers": 9}, [False] * 9 + [True] * 3),
        ({**QWEN, "layer_types": ["full_attention"] * 12}, [False] * 12),
        ({**SIZES, "architectures": ["MistralForCausalLM"], "sliding_window": 100}, [True] * 12),
        ({**SIZES, "architectures": ["MistralForCausalLM"], "sliding_window": None}, [False] * 12),
        ({**SIZES, "architectures": ["Gemma2ForCausalLM"]}, [True, False] * 6),
    ],
    ids=["qwen", "qwen_window", "qwen_types", "mistral", "mistral_0.3", "gemma2"],
)
def test_which_layers_have_a_window(hf, local):
    """Guards against a window where the release has none: Qwen writes its size and does not use it."""
    config = read({**hf, "num_key_value_heads": 2})
    assert list(config.local_layers) == local
    assert (config.local_window is None) == (not any(local))


def test_first_gemma_says_gelu():
    """Guards against the exact GELU for a model that was trained with its tanh form."""
    gemma = {**SIZES, "architectures": ["GemmaForCausalLM"], "num_key_value_heads": 1, "hidden_act": "gelu"}
    assert read(gemma).mlp_activation == "gelu"
    with pytest.raises(CheckpointError, match="hidden_act = 'gelu' is not supported"):
        read({**LLAMA_3, "hidden_act": "gelu"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "RoPE scaling = 'dynamic' is not supported"),
        ({"rope_scaling": {"type": "llama3", "factor": 2.0}}, "its RoPE scaling 'llama3' lacks low_freq_factor, high"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5 is not supported"),
        ({"quantization_config": {"bits": 4}}, "quantization_config = {'bits': 4} is not supported"),
        ({"hidden_act": "relu"}, "hidden_act = 'relu' is not supported.*known: silu, swish, gelu_pytorch_tanh"),
        ({"hidden_size": None}, "config.json lacks hidden_size"),
        ({"num_key_value_heads": 3}, "config.json: TransformerConfig.num_kv_heads = 3 does not divide"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "architecture 'LlamaForSequenceClassification'"),
    ],
    ids=str,
)
def test_refused_by_name(changes, message):
    """Guards against a feature that would change the numbers and is left out in silence."""
    with pytest.raises(CheckpointError, match=message):
        read({**LLAMA_3, **changes})


def without_rope(hf):
    """The same config.json without keys of RoPE."""
    return {key: value for key, value in hf.items() if not key.startswith("rope")}


NESTED = {"full_attention": {"rope_type": "default", "rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}
LINEAR = {"rope_type": "linear", "factor": 4.0}
MISTRAL = {**SIZES, "architectures": ["MistralForCausalLM"], "sliding_window": 100, "num_key_value_heads": 2}


@pytest.mark.parametrize(
    ("hf", "message"),
    [
        (
            {**LLAMA_3, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
            "rope_scaling = .* disagree; keep",
        ),
        ({**LLAMA_3, "model_type": "mistral"}, "'LlamaForCausalLM' and model_type = 'mistral' are of two families"),
        (
            {**MISTRAL, "layer_types": ["full_attention"] * 12},
            "layer_types = .*MistralForCausalLM has one kind of layers",
        ),
        ({**GEMMA_3, "attn_logit_softcapping": 50.0}, "attn_logit_softcapping = 50.0 is not supported"),
        ({**without_rope(GEMMA_3), "rope_parameters": LINEAR}, "rope_parameters = .*known: full_attention and sliding"),
    ],
    ids=["two_ropes", "two_families", "mistral_layers", "gemma_3_cap", "gemma_3_flat_rope"],
)
def test_what_disagrees_is_refused(hf, message):
    """Guards against one of two meanings that is taken in silence."""
    with pytest.raises(CheckpointError, match=message):
        read(hf)


def test_what_agrees_is_read():
    """Guards against refusals of a file that says the same twice, as some converters write it."""
    scaling = LLAMA_3["rope_scaling"]
    assert read({**LLAMA_3, "rope_parameters": {**scaling, "rope_theta": 500000.0}}) == read(LLAMA_3)
    assert read({**LLAMA_3, "model_type": "llama"}) == read(LLAMA_3)
    assert read({**MISTRAL, "layer_types": ["sliding_attention"] * 12}) == read(MISTRAL)
    assert read({**GEMMA_3, "attn_logit_softcapping": None}) == read(GEMMA_3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_theta": None}, "rope_theta = None; it must be a number"),
        ({"rope_parameters": "default"}, "rope_parameters = 'default'; it must be an object or null"),
        ({"rope_scaling": "linear"}, "rope_scaling = 'linear'; it must be an object or null"),
        ({"rope_scaling": {**LINEAR, "factor": "4"}}, "rope_scaling.factor = '4'; it must be a number"),
        ({"rope_scaling": {**LINEAR, "factor": None}}, "rope_scaling.factor = None; it must be a number"),
        ({"rope_scaling": {**LINEAR, "factor": 0}}, "config.json: RopeScaling.factor = 0"),
        ({"rope_scaling": {**LINEAR, "rope_type": 1}}, "rope_scaling.rope_type = 1; it must be a text or null"),
        (
            {"rope_parameters": {**NESTED, "full_attention": "default"}},
            "rope_parameters.full_attention = 'default'; it",
        ),
        (
            {"rope_parameters": {"full_attention": {"rope_theta": "1"}}},
            "full_attention.rope_theta = '1'; it must be a n",
        ),
        ({"num_hidden_layers": "2"}, "num_hidden_layers = '2'; it must be a whole number"),
        ({"num_hidden_layers": 2.0}, "num_hidden_layers = 2.0; it must be a whole number"),
        ({"num_hidden_layers": True}, "num_hidden_layers = True; it must be a whole number"),
        ({"rms_norm_eps": None}, "rms_norm_eps = None; it must be a number"),
        ({"rms_norm_eps": "1e-6"}, "rms_norm_eps = '1e-6'; it must be a number"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps = nan; it must be a number"),
        ({"layer_types": [["full_attention"]] * 12}, "layer_types = .*; it must be a list of texts or null"),
        ({"layer_types": "full_attention"}, "layer_types = 'full_attention'; it must be a list of texts or null"),
        ({"tie_word_embeddings": None}, "tie_word_embeddings = None; it must be true or false"),
        ({"architectures": "LlamaForCausalLM"}, "architectures = 'LlamaForCausalLM'; it must be a list of texts"),
        ({"hidden_act": None}, "hidden_act = None; it must be a text"),
    ],
    ids=str,
)
def test_wrong_types_are_told(changes, message):
    """Guards against tracebacks, and against a value that is taken for another, of a file that was edited by hand."""
    with pytest.raises(CheckpointError, match=message):
        read({**LLAMA_3, **changes})


def test_gemma_bidirectional_and_unknown_layers():
    """Guards against attention to the future, and kinds of layers that are taken for full attention."""
    with pytest.raises(CheckpointError, match="use_bidirectional_attention = True is not supported"):
        read({**GEMMA_3, "use_bidirectional_attention": True})
    with pytest.raises(CheckpointError, match=r"layer_types = .* is not supported.*12 times one of full_attention"):
        read({**GEMMA_3, "layer_types": ["chunked_attention"] * 12})


def test_written_settings_are_read_again():
    """Guards against a family that writes another model than it was given, for every family and both kinds of heads."""
    for hf in (LLAMA_3, GEMMA_3, QWEN, {**QWEN, "use_sliding_window": True, "max_window_layers": 9}):
        family, config = find_family(hf, "config.json"), read(hf)
        written = write_settings(family, config)
        assert written is not None
        again = read(written)
        assert dataclasses.replace(again, dtype=config.dtype) == config


def test_a_family_refuses_what_it_cannot_express():
    """Guards against an export that drops a bias, a window or a norm."""
    by_name = {family.name: family for family in FAMILIES}
    assert write_settings(by_name["llama"], read(QWEN)) is None
    assert write_settings(by_name["llama"], read(GEMMA_3)) is None
    assert write_settings(by_name["gemma2"], read(GEMMA_3)) is None
    assert write_settings(by_name["mistral"], read(LLAMA_3)) is not None
    prefixed = dataclasses.replace(read(LLAMA_3), logit_scale=None)
    assert all(write_settings(family, prefixed) is None for family in FAMILIES)
