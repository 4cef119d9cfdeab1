r"""Which array of a t5x checkpoint is which parameter: a table of regular expressions, for any decoder made with t5x.

A mapping is a JSON file. `decoder_only.json` beside this module is that of t5x/examples/decoder_only, and an example:

    {"settings": {"query_scale": 1.0},
     "parameters": {"decoder/layers_(?P<layer>\\d+)/mlp/wo/kernel": "layers/mlp/down/kernel",
                    "decoder/blocks/mlp/wo/kernel": {"parameter": "layers/mlp/down/kernel", "layers_axis": 0}},
     "ignored": ["decoder/.*/statistics"],
     "refused": {"decoder/relpos_bias/.*": "relative position biases"}}
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from famjax.errors import CheckpointError, ConfigError
from famjax.interop.layouts import is_stacked
from famjax.interop.t5x_layouts import DTYPES, Stack, StackedLayer, StoredArray, T5xCheckpoint
from famjax.interop.tensor_files import read_json
from famjax.interop.writing import Tensor, shown

DECODER_ONLY = Path(__file__).parent / "decoder_only.json"
# Of famjax's own model, trained with `famjax.interop.t5x_model`.
FAMJAX = Path(__file__).parent / "t5x_model.json"
# Those that have a name on the command line.
NAMED = {"decoder_only": DECODER_ONLY, "famjax": FAMJAX}
LAYER = "layer"  # The group of a pattern that is a layer's number.
_LAYERS_AXIS = 1  # t5x's param_scan_axis.
_KEYS = ("settings", "parameters", "ignored", "refused")
_RULE_KEYS = ("parameter", "layers_axis", "axes")


@dataclasses.dataclass(frozen=True)
class Rule:
    r"""Which parameter an array is.

    Attributes:
      pattern: of the array's whole path. A group named "layer" tells whose part of a stacked parameter the array is;
        where there is none, or it took no part in the match, the array has all layers.
      parameter: its path; \1 and \g<name> are groups of the pattern.
      layers_axis: of the layers, in an array that has all of them.
      axes: the array's axes, the layers' left out, in the order in which the parameter has them; None: as they are.
    """

    pattern: re.Pattern[str]
    parameter: str
    layers_axis: int = _LAYERS_AXIS
    axes: tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True)
class PathMapping:
    """Where a kind of t5x decoders has its parameters.

    Attributes:
      file: that it was read from, for messages.
      rules: the table.
      settings: fields of `TransformerConfig` that all these decoders share and that no array's shape tells.
      ignored: patterns of arrays that are not needed.
      refused: patterns of arrays that famjax's model has no counterpart for, each with what they are.
    """

    file: Path
    rules: tuple[Rule, ...]
    settings: Mapping[str, Any]
    ignored: tuple[re.Pattern[str], ...]
    refused: Mapping[re.Pattern[str], str]


@dataclasses.dataclass(frozen=True)
class Found:
    """A tensor of a checkpoint that belongs to a parameter.

    Attributes:
      tensor: the array, or one layer of it.
      path: of the parameter.
      layer: whose part of a stacked parameter it is; None where it is not stacked.
      axes: see `Rule`.
    """

    tensor: Tensor
    path: str
    layer: int | None
    axes: tuple[int, ...] | None

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape, its axes in the parameter's order."""
        shape = self.tensor.shape
        if self.axes is None or sorted(self.axes) != list(range(len(shape))):
            return shape
        return tuple(shape[axis] for axis in self.axes)


def read_mapping(file: Path) -> PathMapping:
    """A mapping from its JSON file.

    Raises:
      ConfigError: it is no mapping; the message names the entry.
      CheckpointError: the file cannot be read.
    """
    values = read_json(file)
    _require_keys(file, "a mapping", values, _KEYS)
    entries = values.get("parameters")
    if not isinstance(entries, dict) or not entries:
        raise ConfigError(f'{file} (--mapping) needs "parameters": patterns with the parameters that they are.')
    rules = tuple(_rule(file, pattern, entry) for pattern, entry in entries.items())
    refused = {_pattern(file, pattern): str(reason) for pattern, reason in dict(values.get("refused", {})).items()}
    ignored = tuple(_pattern(file, pattern) for pattern in values.get("ignored", []))
    return PathMapping(file, rules, values.get("settings", {}), ignored, refused)


def find_parameters(mapping: PathMapping, checkpoint: T5xCheckpoint) -> dict[str, Found]:
    """Which tensor is which parameter, by the tensor's name; an array with all layers is a tensor for each.

    Raises:
      CheckpointError: an array is none of the mapping's, two are the same parameter, or one is what famjax's model has
        not or what is not read.
      ConfigError: two of the mapping's patterns match an array.
    """
    found: dict[str, Found] = {}
    extra = []
    for name, array in checkpoint.arrays.items():
        for pattern, reason in mapping.refused.items():
            if pattern.fullmatch(name):
                raise CheckpointError(f"{checkpoint.folder} has {name}: {reason}.")
        matches = [(rule, match) for rule in mapping.rules if (match := rule.pattern.fullmatch(name))]
        if len(matches) > 1:
            patterns = " and ".join(repr(rule.pattern.pattern) for rule, _ in matches)
            raise ConfigError(f"{mapping.file} (--mapping): both {patterns} match {name}; a path needs one pattern.")
        if matches:
            found |= _parts(mapping, name, array, *matches[0])
        elif not any(pattern.fullmatch(name) for pattern in mapping.ignored):
            extra.append(name)
    if extra:
        raise CheckpointError(
            f"{checkpoint.folder} has {shown(extra)}, which {mapping.file} (--mapping) has no pattern for; what is not "
            'needed goes under "ignored" there.'
        )
    _require_one_each(checkpoint.folder, found)
    return found


def _parts(mapping: PathMapping, name: str, array: StoredArray, rule: Rule, match: re.Match[str]) -> dict[str, Found]:
    """The tensors of an array that a rule matches."""
    if array.dtype not in DTYPES:
        raise CheckpointError(f"{array.file}: {name} has the dtype {array.dtype}; known: {', '.join(DTYPES)}.")
    try:
        path = match.expand(rule.parameter)
    except (re.error, IndexError) as error:
        raise ConfigError(f"{mapping.file} (--mapping): {rule.parameter!r}: {error}.") from error
    layer = match.groupdict().get(LAYER)
    if not is_stacked(path):
        if layer is not None:
            raise ConfigError(f"{mapping.file} (--mapping): {path} is no parameter of a layer, and {name} is of one.")
        return {name: Found(array, path, None, rule.axes)}
    if layer is not None:
        return {name: Found(array, path, int(layer), rule.axes)}
    if rule.layers_axis >= len(array.shape):
        raise CheckpointError(
            f"{array.file}: {name} has the shape {list(array.shape)}; {mapping.file} (--mapping) says that it has the "
            f"layers on axis {rule.layers_axis}."
        )
    stack = Stack(array, rule.layers_axis)
    return {
        f"{name} (layer {number})": Found(StackedLayer(stack, number), path, number, rule.axes)
        for number in range(stack.num_layers)
    }


def _require_one_each(folder: Path, found: Mapping[str, Found]) -> None:
    taken: dict[tuple[str, int | None], str] = {}
    for name, part in found.items():
        if other := taken.get((part.path, part.layer)):
            where = part.path if part.layer is None else f"{part.path} of layer {part.layer}"
            raise CheckpointError(f"{folder}: both {other} and {name} are {where}.")
        taken[part.path, part.layer] = name


def _rule(file: Path, pattern: str, entry: Any) -> Rule:
    values = {"parameter": entry} if isinstance(entry, str) else entry
    if not isinstance(values, dict) or not isinstance(values.get("parameter"), str):
        raise ConfigError(f'{file} (--mapping): {pattern!r} needs a parameter\'s path, or an object with "parameter".')
    _require_keys(file, repr(pattern), values, _RULE_KEYS)
    axis, axes = values.get("layers_axis", _LAYERS_AXIS), values.get("axes")
    if not _is_index(axis):
        raise ConfigError(f"{file} (--mapping): {pattern!r} has the layers_axis {axis!r}; allowed: 0 or more.")
    if axes is not None and (
        not isinstance(axes, list) or sorted(map(str, axes)) != sorted(map(str, range(len(axes))))
    ):
        raise ConfigError(f"{file} (--mapping): {pattern!r} has the axes {axes!r}; allowed: 0, 1, ... in some order.")
    return Rule(_pattern(file, pattern), values["parameter"], axis, None if axes is None else tuple(axes))


def _is_index(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _pattern(file: Path, pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"{file} (--mapping): {pattern!r} is no regular expression: {error}.") from error


def _require_keys(file: Path, what: str, values: Mapping[str, Any], allowed: Sequence[str]) -> None:
    if unknown := [key for key in values if key not in allowed]:
        raise ConfigError(f"{file} (--mapping): {what} has {json.dumps(unknown[0])}; allowed: {', '.join(allowed)}.")
