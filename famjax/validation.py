"""Checks that the frozen settings of every package share. Imports nothing heavy."""

from typing import Any, get_args

from famjax.errors import ConfigError


def require_at_least(config: object, bound: float, *names: str) -> None:
    """Raises ConfigError unless each named field of `config` is `bound` or more, or None."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value < bound:
            raise ConfigError(f"{type(config).__name__}.{name} = {value!r}; allowed: {bound} or more.")


def require_above(config: object, bound: float, *names: str) -> None:
    """Raises ConfigError unless each named field of `config` is above `bound`, or None."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not value > bound:
            raise ConfigError(f"{type(config).__name__}.{name} = {value!r}; allowed: above {bound}.")


def require_fraction(config: object, *names: str) -> None:
    """Raises ConfigError unless each named field of `config` lies in [0, 1]."""
    for name in names:
        value = getattr(config, name)
        if not 0.0 <= value <= 1.0:
            raise ConfigError(f"{type(config).__name__}.{name} = {value!r}; allowed: 0 to 1.")


def require_ascending(config: object, name: str) -> None:
    """Raises ConfigError unless the field is None, or two whole numbers from 1 on, the smaller one first."""
    value = getattr(config, name)
    if value is not None and not 1 <= value[0] <= value[1]:
        raise ConfigError(f"{type(config).__name__}.{name} = {value}; allowed: (shortest, longest), from 1 on.")


def require_choice(config: object, name: str, choices: Any) -> None:
    """Raises ConfigError unless the field is one of the values of the `Literal` type `choices`."""
    value, allowed = getattr(config, name), get_args(choices)
    if value not in allowed:
        names = ", ".join(repr(choice) for choice in allowed)
        raise ConfigError(f"{type(config).__name__}.{name} = {value!r}; allowed: {names}.")
