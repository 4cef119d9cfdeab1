"""A model's settings as JSON beside its parameters, and how two models' settings differ. Imports nothing heavy."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from famjax.errors import CheckpointError, ConfigError
from famjax.models.config import MemoryConfig, TransformerConfig

# They change how the model is trained, not what it computes from its parameters: a resumed run may set them anew.
FREE = frozenset({"dropout_rate", "remat_policy"})


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
        return TransformerConfig(**{**values, "memory": MemoryConfig(**values["memory"])})
    except (TypeError, KeyError, ConfigError) as error:
        raise CheckpointError(f"{where}: its model settings do not fit this version of famjax ({error}).") from error


def differences(
    checkpoint: TransformerConfig, run: TransformerConfig, saved_name: str = "checkpoint", own_name: str = "this run"
) -> list[str]:
    """One "emb_dim: checkpoint 128, this run 256" for each setting that differs, those in FREE left out."""
    saved, current = _flat(to_json(checkpoint)), _flat(to_json(run))
    return [
        f"{name}: {saved_name} {saved[name]!r}, {own_name} {value!r}"
        for name, value in current.items()
        if name not in FREE and saved[name] != value
    ]


def _flat(values: Mapping[str, Any], below: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat.update(_flat(value, f"{below}{name}.") if isinstance(value, Mapping) else {f"{below}{name}": value})
    return flat
