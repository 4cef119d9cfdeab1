"""The types of config.json's values: each key that is read holds what it is read as, or is refused by name."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from famjax.errors import CheckpointError

_Check = Callable[[Any], bool]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


_KINDS: dict[str, _Check] = {
    "a whole number": _is_whole,
    "a number": _is_number,
    "true or false": lambda value: isinstance(value, bool),
    "a text": lambda value: isinstance(value, str),
    "a list of texts": _are_texts,
    "an object": lambda value: isinstance(value, Mapping),
}
# The kind of a key's value, and whether it may be null. A size that is null is told as missing.
_KEYS = {
    "architectures": ("a list of texts", True),
    "model_type": ("a text", True),
    "vocab_size": ("a whole number", True),
    "hidden_size": ("a whole number", True),
    "num_hidden_layers": ("a whole number", True),
    "num_attention_heads": ("a whole number", True),
    "intermediate_size": ("a whole number", True),
    "num_key_value_heads": ("a whole number", True),
    "head_dim": ("a whole number", True),
    "sliding_window": ("a whole number", True),
    "sliding_window_pattern": ("a whole number", True),
    "max_window_layers": ("a whole number", False),
    "rms_norm_eps": ("a number", False),
    "rope_theta": ("a number", False),
    "rope_local_base_freq": ("a number", True),
    "query_pre_attn_scalar": ("a number", False),
    "attn_logit_softcapping": ("a number", True),
    "final_logit_softcapping": ("a number", True),
    "tie_word_embeddings": ("true or false", False),
    "use_sliding_window": ("true or false", False),
    "attention_bias": ("true or false", True),
    "mlp_bias": ("true or false", True),
    "layer_types": ("a list of texts", True),
    "rope_parameters": ("an object", True),
    "rope_scaling": ("an object", True),
}
_ROPE_KEYS = {
    "rope_type": ("a text", True),
    "type": ("a text", True),
    "rope_theta": ("a number", False),
    "factor": ("a number", False),
    "low_freq_factor": ("a number", False),
    "high_freq_factor": ("a number", False),
    "original_max_position_embeddings": ("a whole number", False),
    "full_attention": ("an object", False),
    "sliding_attention": ("an object", True),
}
_LAYER_KINDS = ("full_attention", "sliding_attention")
_ROPES = ("rope_parameters", "rope_scaling")


def require_types(hf: Mapping[str, Any], where: str) -> None:
    """Checks the values of a config.json; keys that are not read may hold anything.

    Args:
      hf: config.json, or the part of it that is read.
      where: the file, for messages.

    Raises:
      CheckpointError: a value of another type.
    """
    _require(hf, _KEYS, "", where)
    for name in _ROPES:
        values = hf.get(name) or {}
        _require(values, _ROPE_KEYS, f"{name}.", where)
        for kind in _LAYER_KINDS:
            _require(values.get(kind) or {}, _ROPE_KEYS, f"{name}.{kind}.", where)


def _require(values: Mapping[str, Any], keys: Mapping[str, tuple[str, bool]], place: str, where: str) -> None:
    for key, (kind, may_be_null) in keys.items():
        if key not in values or (may_be_null and values[key] is None) or _KINDS[kind](values[key]):
            continue
        allowed = f"{kind} or null" if may_be_null else kind
        raise CheckpointError(f"{where}: {place}{key} = {values[key]!r}; it must be {allowed}.")
