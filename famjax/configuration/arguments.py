"""The command line: t5x's flags, and `--gin.NAME=value`."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from famjax.errors import ConfigError
from famjax.planning.config import PlanSettings

_GIN_PREFIX = "--gin."


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What the command line says.

    Attributes:
      run_mode: a name of the modes given to `parse_arguments`.
      gin_files: in order.
      gin_bindings: (name, value) of each `--gin.name=value`, in order; they are read after the files.
      gin_search_paths: folders.
      dry_run: print the resolved configuration and stop.
      verbosity: absl's: -1 warnings, 0 information, 1 and more debugging and tracebacks.
      help: print the usage and stop.
      plan: what `--run_mode=plan` is asked; None in the other modes.
      coordinator_address, process_count, process_index: this process's place in a job of several; None: not given.
    """

    run_mode: str
    gin_files: tuple[str, ...]
    gin_bindings: tuple[tuple[str, str], ...]
    gin_search_paths: tuple[Path, ...]
    dry_run: bool
    verbosity: int
    help: bool
    plan: PlanSettings | None = None
    coordinator_address: str | None = None
    process_count: int | None = None
    process_index: int | None = None


def parse_arguments(
    arguments: Sequence[str], run_modes: Sequence[str], values: flags.FlagValues | None = None
) -> Arguments:
    """Parses the arguments that follow the program's name.

    Args:
      arguments: those.
      run_modes: what `--run_mode` may be.
      values: with further flags, whose values it holds afterwards, in place of those of `--run_mode=plan`; None: there
        are none.

    Raises:
      ConfigError: an unknown flag, a value that a flag does not take, a word that is no flag.
    """
    takes_plan = values is None
    usage = "famjax --help" if takes_plan else "famjax launch --help"
    values = flags.FlagValues() if values is None else values
    _define(values, run_modes)
    if takes_plan:
        _define_plan(values)
    bindings = [_parse_binding(argument) for argument in arguments if argument.startswith(_GIN_PREFIX)]
    try:
        rest = values(["famjax", *(a for a in arguments if not a.startswith(_GIN_PREFIX))])[1:]
    except flags.Error as error:
        raise ConfigError(f"{_in_flags_words(str(error))} ({usage} lists the flags)") from error
    if rest:
        raise ConfigError(f"{rest[0]!r} is not a flag; settings are given as --gin.NAME=value ({usage}).")
    return Arguments(
        run_mode=values.run_mode,
        gin_files=tuple(values.gin_file),
        gin_bindings=tuple(bindings),
        gin_search_paths=tuple(Path(path) for path in values.gin_search_paths),
        dry_run=values.dry_run,
        verbosity=values.verbosity,
        help=bool(values["help"].value),
        plan=_plan_settings(values) if takes_plan and not values["help"].value else None,
        coordinator_address=values.coordinator_address,
        process_count=values.process_count,
        process_index=values.process_index,
    )


def _in_flags_words(message: str) -> str:
    """absl's message; of a number that is none it passes on what Python's int() says."""
    return re.sub(r": invalid literal for int\(\) with base 10: .*", "; expected: a whole number.", message)


def _define(values: flags.FlagValues, run_modes: Sequence[str]) -> None:
    """Defines the flags on values of their own, so that a process may parse more than one command line."""
    flags.DEFINE_enum("run_mode", "train", list(run_modes), "What to do.", flag_values=values)
    flags.DEFINE_multi_string("gin_file", [], "A gin file; may be repeated.", flag_values=values)
    flags.DEFINE_list("gin_search_paths", [], "Folders to search, separated by commas.", flag_values=values)
    flags.DEFINE_bool("dry_run", False, "Print the resolved configuration and stop.", flag_values=values)
    flags.DEFINE_integer("verbosity", -1, "-1 warnings, 0 information, 1 tracebacks.", flag_values=values)
    flags.DEFINE_string("coordinator_address", None, "Process 0's host:port.", flag_values=values)
    flags.DEFINE_integer("process_count", None, "Processes of the job.", flag_values=values)
    flags.DEFINE_integer("process_index", None, "Of this process, from 0.", flag_values=values)
    flags.DEFINE_bool("help", False, "Print the usage and stop.", short_name="h", flag_values=values)


def _define_plan(values: flags.FlagValues) -> None:
    flags.DEFINE_string("slice", None, "A slice by name.", flag_values=values)
    flags.DEFINE_integer("num_slices", None, "Slices of this kind.", flag_values=values)
    flags.DEFINE_bool("plan.search", False, "Try other settings.", flag_values=values)
    flags.DEFINE_integer("plan.trials", PlanSettings.trials, "Compilations at most.", flag_values=values)
    flags.DEFINE_string("plan.json", None, "A file.", flag_values=values)
    flags.DEFINE_string("plan.save", None, "A folder.", flag_values=values)
    flags.DEFINE_integer("plan.rows", None, "Rows of inference.", flag_values=values)


# Flags of `--run_mode=plan`, and the settings that they are.
_PLAN_FLAGS = {
    "slice": "slice",
    "num_slices": "num_slices",
    "plan.search": "search",
    "plan.trials": "trials",
    "plan.json": "json",
    "plan.save": "save",
    "plan.rows": "rows",
}


def _plan_settings(values: flags.FlagValues) -> PlanSettings | None:
    given = [f"--{name}" for name in _PLAN_FLAGS if values[name].present]
    if values.run_mode != "plan":
        if given:
            raise ConfigError(f"{given[0]} belongs to --run_mode=plan, and this is --run_mode={values.run_mode}.")
        return None
    if values.slice is None:
        raise ConfigError("--run_mode=plan needs a slice to plan for, as --slice=v5e-256 (v4, v5e, v5p, v6e, or GPUs).")
    settings: dict[str, Any] = {field: values[name].value for name, field in _PLAN_FLAGS.items()}
    return PlanSettings(**settings)


def _parse_binding(argument: str) -> tuple[str, str]:
    name, equals, value = argument.removeprefix(_GIN_PREFIX).partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"{argument}: a setting is written --gin.NAME=value, without a space around the equals sign.")
    return name.strip(), value.strip()
