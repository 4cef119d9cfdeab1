"""From gin files and flags to a checked job."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from famjax.configuration.bindings import Bindings, read_bindings
from famjax.configuration.files import own_files_with
from famjax.configuration.resolving import Missing, Node, Resolver, map_nodes
from famjax.configuration.value_types import describe
from famjax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Configuration:
    """A checked configuration.

    Attributes:
      job: the job, built.
      root: where each of its values comes from.
      bindings: what was bound and used: the part of the gin files and flags that the job depends on.
    """

    job: Any
    root: Node
    bindings: Bindings


def load(
    job_class: type, files: Sequence[str], flags: Sequence[tuple[str, str]], search_paths: Sequence[Path] = ()
) -> Configuration:
    """Reads, checks and builds a job.

    Args:
      job_class: TrainJob or another job's class.
      files: gin files, in order.
      flags: (name, value) of each `--gin.name=value`.
      search_paths: folders where gin files are looked for.

    Raises:
      ConfigError: whatever is wrong, all of it at once as far as it can be known.
    """
    bindings = read_bindings(files, flags, search_paths)
    resolver = Resolver(bindings)
    root = resolver.resolve(job_class)
    problems = resolver.problems
    missing = [*resolver.missing.values()]
    missing += [Missing(name, "", None, origin, depth=0) for name, origin in bindings.awaited.items()]
    if missing:
        problems.append(_missing_message(job_class, missing))
    # Only of a whole job can it be said what it does not use.
    problems = problems or _useless_flags(bindings, resolver, job_class)
    if problems:
        raise ConfigError("\n".join(problems))
    used = Bindings(resolver.used_macros, resolver.used_parameters, bindings.imports, files=bindings.files)
    return Configuration(job=build(root), root=root, bindings=used)


def build(node: Node) -> Any:
    """Builds a node's dataclass and those below it.

    Raises:
      ConfigError: the dataclass refuses its values; the message is followed by the places that set them.
    """
    values = {name: map_nodes(setting.value, build) for name, setting in node.settings.items()}
    # Only this node's own refusal is caught here: its children are built already.
    try:
        return node.cls(**values)
    except ConfigError as error:
        raise ConfigError(str(error) + _places(node, str(error))) from error


def _places(node: Node, message: str) -> str:
    """Returns the lines that say where the settings named in a message were set."""
    places = [
        f"\n  {name} is set at {setting.source}"
        for name, setting in node.settings.items()
        if setting.origin is not None and re.search(rf"\b{name}\b", message)
    ]
    return "".join(places)


def _useless_flags(bindings: Bindings, resolver: Resolver, job_class: type) -> list[str]:
    """Returns a message for each flag that the job does not depend on; a file may serve more than one job."""
    useless = [
        (binding.origin, f"the macro {name}")
        for name, binding in bindings.macros.items()
        if binding.origin.is_flag and name not in resolver.used_macros
    ]
    useless += [
        (binding.origin, str(key))
        for key, binding in bindings.parameters.items()
        if binding.origin.is_flag and key not in resolver.used_parameters
    ]
    return [
        f"{origin} has no effect: {job_class.__name__}, as configured, does not use {what}." for origin, what in useless
    ]


def _missing_message(job_class: type, missing: Sequence[Missing]) -> str:
    lines = [f"{job_class.__name__} lacks {len(missing)} required setting{'s' if len(missing) > 1 else ''}:"]
    for setting in missing:
        expected = describe(setting.hint) if setting.meaning else ""
        lines.append(f"  --gin.{setting.name}={_example(expected)}")
        explanation = [f"{setting.meaning} ({expected})"] if setting.meaning else []
        if setting.wanted_at is not None:
            explanation.append(f"asked for at {setting.wanted_at}")
        if explanation:
            lines.append(f"      {'; '.join(explanation)}")
        # As models/8b.gin binds MODEL to an object.
        if files := own_files_with(rf"^{re.escape(setting.name)} *= *@"):
            lines.append(f"      or --gin_file= one of {', '.join(files)}")
    return "\n".join(lines)


def _example(expected: str) -> str:
    if expected.startswith("a string"):
        return "\"'...'\""
    if expected.startswith("a dict"):
        return "\"{'...': ...}\""
    return "..." if not expected.startswith("@") else "@...()"
