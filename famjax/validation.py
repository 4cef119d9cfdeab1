"""Checks that the frozen settings of every package share. Imports nothing heavy."""

from collections.abc import Callable, Iterable
from typing import Any, get_args

from famjax.errors import ConfigError


def require_all(*checks: Callable[[], None]) -> None:
    """Makes all checks, and raises one ConfigError of all that they say."""
    problems = []
    for check in checks:
        try:
            check()
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))


def require_at_least(config: object, bound: float, *names: str) -> None:
    """Raises ConfigError unless each named field of `config` is `bound` or more, or None."""
    _require(config, names, lambda value: value >= bound, f"{bound} or more")


def require_above(config: object, bound: float, *names: str) -> None:
    """Raises ConfigError unless each named field of `config` is above `bound`, or None."""
    _require(config, names, lambda value: value > bound, f"above {bound}")


def require_fraction(config: object, *names: str) -> None:
    """Raises ConfigError unless each named field of `config` lies in [0, 1]."""
    _require(config, names, lambda value: 0.0 <= value <= 1.0, "0 to 1")


def _require(config: object, names: Iterable[str], is_allowed: Callable[[Any], bool], allowed: str) -> None:
    """Raises one ConfigError for all the fields that are neither allowed nor None."""
    values = {name: getattr(config, name) for name in names}
    wrong = [name for name, value in values.items() if value is not None and not is_allowed(value)]
    if wrong:
        raise ConfigError(
            "\n".join(f"{type(config).__name__}.{name} = {values[name]!r}; allowed: {allowed}." for name in wrong)
        )


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
