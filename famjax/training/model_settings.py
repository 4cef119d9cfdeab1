"""A model's settings as JSON beside its parameters, and how two models' settings differ. Imports nothing heavy."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from famjax.errors import CheckpointError, ConfigError
from famjax.models.config import MemoryConfig, RopeScaling, TransformerConfig
from famjax.models.lora_config import LoraConfig

# They change how the model is trained, not what it computes from its parameters: a resumed run may set them anew.
FREE = frozenset({"dropout_rate", "remat_policy", "lora.dropout"})


def to_json(config: TransformerConfig) -> dict[str, Any]:
    """The settings as nested dicts."""
    return dataclasses.asdict(config)


def from_json(values: Mapping[str, Any], where: str) -> TransformerConfig:
    """The settings from nested dicts; a field that the dicts lack (an older checkpoint) takes its default.

    Args:
      values: what `to_json` gave.
      where: the checkpoint, for the message.

    Raises:
      CheckpointError: the settings are none of this version's.
    """
    try:
        rebuilt: dict[str, Any] = {"memory": MemoryConfig(**values["memory"])}
        if values.get("rope_scaling") is not None:
            rebuilt["rope_scaling"] = RopeScaling(**values["rope_scaling"])
        if (lora := values.get("lora")) is not None:
            rebuilt["lora"] = LoraConfig(**{**lora, "patterns": tuple(lora["patterns"])})
        if "layer_pattern" in values:
            rebuilt["layer_pattern"] = tuple(values["layer_pattern"])  # JSON has lists.
        return TransformerConfig(**{**values, **rebuilt})
    except (TypeError, KeyError, ConfigError) as error:
        raise CheckpointError(f"{where}: its model settings do not fit this version of famjax ({error}).") from error


def differences(
    checkpoint: TransformerConfig, run: TransformerConfig, saved_name: str = "checkpoint", own_name: str = "this run"
) -> list[str]:
    """One "emb_dim: checkpoint 128, this run 256" for each setting that differs, those in FREE left out."""
    saved, current = _flat(to_json(checkpoint)), _flat(to_json(run))
    # A part that only one of the two has (RopeScaling's fields, LoraConfig's) is None in the other.
    return [
        f"{name}: {saved_name} {saved.get(name)!r}, {own_name} {current.get(name)!r}"
        for name in {**current, **saved}
        if name not in FREE and saved.get(name) != current.get(name)
    ]


def _flat(values: Mapping[str, Any], below: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat.update(_flat(value, f"{below}{name}.") if isinstance(value, Mapping) else {f"{below}{name}": value})
    return flat
