"""config.json to the settings of a model, and back; both by the family's entry in the table.

What would change the numbers and is not implemented is refused by name.
"""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from famjax.errors import CheckpointError, ConfigError
from famjax.interop.config_types import require_types
from famjax.interop.families import FAMILIES, Family, HfConfig, has_window
from famjax.models.config import LayerKind, MemoryConfig, RopeScaling, RopeScalingKind, TransformerConfig

# The key in config.json, the setting, and both ways between their values where these differ.
_PLAIN = {
    "vocab_size": "vocab_size",
    "hidden_size": "emb_dim",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "mlp_dim",
}
_ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu"}
_HF_ACTIVATIONS = {"silu": "silu", "gelu": "gelu_pytorch_tanh"}
_LLAMA3_KEYS = {
    "low_freq_factor": "low_frequency_factor",
    "high_freq_factor": "high_frequency_factor",
    "original_max_position_embeddings": "original_length",
}
# Keys that mean another function where they have a value, and the values that mean none.
_REFUSED = {
    "quantization_config": (None,),
    "partial_rotary_factor": (None, 1, 1.0),
    "use_bidirectional_attention": (None, False),
}
# Settings of training, of speed and of the memory: another value of them is the same pretrained function.
_NOT_OF_THE_FUNCTION = ("memory", "residual_init_scale", "dropout_rate", "dtype", "remat_policy")


def find_family(hf: HfConfig, where: str) -> Family:
    """The family of a config.json.

    Raises:
      CheckpointError: it is none of the table's, says two of them, or a value is of a wrong type.
    """
    require_types(hf, where)
    named, model_type = (hf.get("architectures") or [None])[0], hf.get("model_type")
    for family in FAMILIES:
        if named == family.architecture or (named is None and model_type == family.model_type):
            if model_type not in (None, family.model_type):
                raise CheckpointError(
                    f"{where}: the architecture {named!r} and model_type = {model_type!r} are of two families; "
                    f"{named} has the model_type {family.model_type!r}."
                )
            return family
    known = ", ".join(family.architecture for family in FAMILIES)
    raise CheckpointError(f"{where}: the architecture {named or model_type!r} is not supported; known: {known}.")


def read_settings(family: Family, hf: HfConfig, memory: MemoryConfig, where: str) -> TransformerConfig:
    """The model that a config.json describes.

    Args:
      family: of the model.
      hf: config.json.
      memory: the working memory that it gets.
      where: the file, for messages.

    Raises:
      CheckpointError: a key is missing, or has a value that famjax's model cannot compute.
    """
    require_types(hf, where)
    for key, allowed in {**_REFUSED, **dict.fromkeys(family.without, (None,))}.items():
        if hf.get(key) not in allowed:
            raise _unsupported(where, key, hf[key])
    hf = {**family.defaults, **hf}
    if missing := [key for key in _PLAIN if hf.get(key) is None]:
        raise CheckpointError(f"{where} lacks {', '.join(missing)}.")
    settings: dict[str, Any] = {ours: hf[theirs] for theirs, ours in _PLAIN.items()}
    heads = settings["num_heads"]
    settings |= {
        "num_kv_heads": hf.get("num_key_value_heads") or heads,
        "head_dim": hf.get("head_dim") or settings["emb_dim"] // heads,
        "norm_epsilon": hf["rms_norm_eps"],
        "tie_embeddings": hf["tie_word_embeddings"],
        "mlp_activation": _read_activation(family, hf, where),
        "dtype": "bfloat16" if (hf.get("dtype") or hf.get("torch_dtype")) == "bfloat16" else "float32",
        **family.settings,
        **_read_biases(family, hf),
    }
    if family.scales_embedding:
        settings["embedding_scale"] = settings["emb_dim"] ** 0.5
    if family.query_scalar:
        settings["query_scale"] = hf["query_pre_attn_scalar"] ** -0.5
    if family.soft_caps:
        settings["attention_soft_cap"] = hf["attn_logit_softcapping"]
        settings["logit_soft_cap"] = hf["final_logit_softcapping"]
    settings |= _read_layers(family, hf, where)
    settings |= _read_rope(family, hf, "local" in settings.get("layer_pattern", ()), where)
    try:
        return TransformerConfig(**settings, memory=memory)
    except ConfigError as error:
        raise CheckpointError(f"{where}: {error}") from error


def write_settings(family: Family, config: TransformerConfig) -> dict[str, Any] | None:
    """The config.json of a model of this family; None where the family cannot express the model."""
    hf: dict[str, Any] = {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        **{theirs: getattr(config, ours) for theirs, ours in _PLAIN.items()},
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.norm_epsilon,
        "tie_word_embeddings": config.tie_embeddings,
        family.activation_key: _HF_ACTIVATIONS[config.mlp_activation],
    }
    biases = {"attention_bias": config.attention_bias, "mlp_bias": config.mlp_bias}
    hf |= {key: biases[key] for key in family.optional_biases}
    if family.query_scalar:
        hf["query_pre_attn_scalar"] = _scalar_of(config.query_scale or config.head_dim**-0.5)
    if family.soft_caps:
        hf["attn_logit_softcapping"] = config.attention_soft_cap
        hf["final_logit_softcapping"] = config.logit_soft_cap
    hf |= _write_layers(family, config)
    hf |= _write_rope(family, config)
    try:
        again = read_settings(family, hf, config.memory, "config.json")
    except CheckpointError:
        return None
    return hf if _function(again) == _function(config) else None


def _function(config: TransformerConfig) -> dict[str, Any]:
    """The settings that the pretrained function depends on, each said in one way."""
    values = {name: value for name, value in vars(config).items() if name not in _NOT_OF_THE_FUNCTION}
    values["layer_pattern"] = config.local_layers
    values["query_scale"] = config.query_scale or config.head_dim**-0.5
    if not any(config.local_layers):
        values |= {"local_window": None, "local_rope_base": None}
    return values


def _read_activation(family: Family, hf: HfConfig, where: str) -> str:
    name = hf[family.activation_key]
    if not isinstance(name, str):
        raise CheckpointError(f"{where}: {family.activation_key} = {name!r}; it must be a text.")
    name = family.activations.get(name, name)
    if name not in _ACTIVATIONS:
        raise _unsupported(where, family.activation_key, name, f"known: {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def _read_biases(family: Family, hf: HfConfig) -> dict[str, bool]:
    settings: dict[str, bool] = {}
    if "attention_bias" in family.optional_biases and hf.get("attention_bias"):
        settings |= {"attention_bias": True, "attention_out_bias": True}
    if "mlp_bias" in family.optional_biases and hf.get("mlp_bias"):
        settings |= {"mlp_bias": True}
    return settings


def _read_layers(family: Family, hf: HfConfig, where: str) -> dict[str, Any]:
    """The settings of the layers' kinds."""
    num_layers, window = hf["num_hidden_layers"], hf.get("sliding_window")
    if family.sliding == "from_layer" and not hf["use_sliding_window"]:
        window = None
    is_local = [window is not None and has_window(family, hf, layer) for layer in range(num_layers)]
    types = hf.get("layer_types")
    if types is not None:
        known = {"full_attention": False, "sliding_attention": True}
        if len(types) != num_layers or not set(types) <= set(known):
            raise _unsupported(where, "layer_types", types, f"known: {num_layers} times one of {', '.join(known)}")
        if not family.layer_types and is_local != [known[name] for name in types]:
            raise _unsupported(where, "layer_types", types, f"{family.architecture} has one kind of layers")
        is_local = [known[name] for name in types]
        if any(is_local) and window is None:
            raise CheckpointError(f"{where}: layer_types has sliding_attention, and there is no sliding_window.")
    if not any(is_local):
        return {}
    return {"layer_pattern": _shortest_period(is_local), "local_window": window}


def _write_layers(family: Family, config: TransformerConfig) -> dict[str, Any]:
    local = config.local_layers
    hf: dict[str, Any] = {"sliding_window": config.local_window} if family.sliding != "none" else {}
    if family.layer_types:
        hf["layer_types"] = ["sliding_attention" if is_local else "full_attention" for is_local in local]
    if family.sliding == "from_layer":
        hf |= {"use_sliding_window": any(local), "max_window_layers": local.index(True) if any(local) else len(local)}
    return hf


def _shortest_period(is_local: Sequence[bool]) -> tuple[LayerKind, ...]:
    """The shortest pattern that, repeated, gives the kinds of all layers."""
    for period in range(1, len(is_local) + 1):
        if all(flag == is_local[layer % period] for layer, flag in enumerate(is_local)):
            break
    return tuple("local" if flag else "global" for flag in is_local[:period])


def _read_rope(family: Family, hf: HfConfig, has_local: bool, where: str) -> dict[str, Any]:
    """The settings of RoPE, from "rope_parameters" (transformers 5) or from "rope_theta" and "rope_scaling"."""
    parameters, local_base = hf.get("rope_parameters"), hf.get("rope_local_base_freq")
    older = hf["rope_scaling"]
    if parameters is None:
        parameters = {**(older or {}), "rope_theta": hf["rope_theta"]}
    elif family.local_rope and "full_attention" not in parameters:
        known = "known: full_attention and sliding_attention, each with its own"
        raise _unsupported(where, "rope_parameters", parameters, known)
    elif "full_attention" in parameters:
        local = parameters.get("sliding_attention") or {}
        if _rope_type(local) != "default":
            raise _unsupported(where, "rope_parameters", local, "known for sliding_attention: default")
        parameters, local_base = parameters["full_attention"], local.get("rope_theta", local_base)
    scaling = _read_rope_scaling(parameters, where)
    if older is not None and _read_rope_scaling(older, where) != scaling:
        raise CheckpointError(
            f"{where}: rope_scaling = {older!r} and rope_parameters = {hf['rope_parameters']!r} disagree; keep the one "
            "that the model was trained with."
        )
    base = parameters["rope_theta"] if "rope_theta" in parameters else hf["rope_theta"]
    settings: dict[str, Any] = {"rope_base": float(base), "rope_scaling": scaling}
    if family.local_rope and has_local and local_base is not None:
        settings["local_rope_base"] = float(local_base)
    return settings


def _read_rope_scaling(parameters: Mapping[str, Any], where: str) -> RopeScaling | None:
    kind = _rope_type(parameters)
    if parameters.get("partial_rotary_factor") not in _REFUSED["partial_rotary_factor"]:
        raise _unsupported(where, "partial_rotary_factor", parameters["partial_rotary_factor"])
    if kind == "default":
        return None
    if kind not in get_args(RopeScalingKind):
        known = ", ".join(("default", *get_args(RopeScalingKind)))
        raise _unsupported(where, "RoPE scaling", kind, f"known: {known}")
    keys = _scaling_keys(kind)
    if missing := [key for key in keys if key not in parameters]:
        raise CheckpointError(f"{where}: its RoPE scaling {kind!r} lacks {', '.join(missing)}.")
    try:
        return RopeScaling(**{"kind": kind, **{ours: parameters[theirs] for theirs, ours in keys.items()}})
    except ConfigError as error:
        raise CheckpointError(f"{where}: {error}") from error


def _scaling_keys(kind: str) -> dict[str, str]:
    """The keys of a RoPE scaling, with the fields that they set."""
    return {"factor": "factor", **(_LLAMA3_KEYS if kind == "llama3" else {})}


def _write_rope(family: Family, config: TransformerConfig) -> dict[str, Any]:
    """In the form that transformers 4 and 5 both read."""
    hf: dict[str, Any] = {"rope_theta": config.rope_base, "rope_scaling": None}
    if scaling := config.rope_scaling:
        values = {theirs: getattr(scaling, ours) for theirs, ours in _scaling_keys(scaling.kind).items()}
        hf["rope_scaling"] = {"rope_type": scaling.kind, **values}
    if family.local_rope:
        hf["rope_local_base_freq"] = config.local_rope_base or config.rope_base
    return hf


def _rope_type(parameters: Mapping[str, Any]) -> str:
    return parameters.get("rope_type") or parameters.get("type") or "default"


def _scalar_of(scale: float) -> float:
    """x such that x ** -0.5 is the scale, a whole number where one is."""
    whole = round(scale**-2)
    return whole if whole**-0.5 == scale else scale**-2


def _unsupported(where: str, key: str, value: object, known: str = "") -> CheckpointError:
    more = f"; {known}" if known else ""
    return CheckpointError(
        f"{where}: {key} = {value!r} is not supported, and leaving it out would change the model{more}."
    )
