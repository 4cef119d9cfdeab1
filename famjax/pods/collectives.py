"""What a compiled program moves between devices: its collectives, read from the text of the optimised program.

    collectives_of(program.compile_step(length).as_text(), program.mesh)

The text is XLA's own (HLO). What is counted is what a device sends where the collective runs over a ring, which is the
least that it can send: with n devices in a group and an array of so many bytes before the collective (`operand`),

    all-gather            (n - 1) x operand          (the result is n times as large)
    reduce-scatter        (n - 1) / n x operand      (the result is an n-th)
    all-reduce            2 (n - 1) / n x operand    (a reduce-scatter and an all-gather)
    all-to-all            (n - 1) / n x operand
    collective-permute    operand
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jax.sharding import Mesh

Groups = list[tuple[int, ...]]

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute")

_BITS = {"pred": 8, "token": 0, "opaque": 0}  # Of the element types whose name does not say it.

_HEADER = re.compile(r"^(?P<entry>ENTRY\s+)?%?(?P<name>[\w.\-]+)\s.*->.*\{\s*$|^(?P<bare>ENTRY|%?[\w.\-]+)\s*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT\s+)?%?(?P<name>[\w.\-]+) = (?P<shape>.*?)\s(?P<opcode>[a-z][a-z0-9\-]*)\(")
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,<=]*)\]")
_NAME = re.compile(r"%?([A-Za-z_][\w.\-]*)")
_CALLED = re.compile(
    r"\b(?:calls|to_apply|body|condition|true_computation|false_computation|branch_computations|called_computations)="
    r"(\{[^}]*\}|%?[\w.\-]+)"
)
_TRIPS = re.compile(r'"known_trip_count":\s*\{\s*"n":\s*"?(\d+)"?')
_IOTA_GROUPS = re.compile(r"^\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH_GROUPS = re.compile(r"^mesh\[([^\]]*)\](?:,\s*device_ids=\((.*?)\))?\s*\{([^}]*)\}")
_PERMUTED = re.compile(r"^(?:<=)?\[([\d,]+)\]T\(([\d,]+)\)$")
_MESH_AXIS = re.compile(r"(?P<name>[\w'\"]+)(?::\((?P<before>\d+)\)(?P<size>\d+))?$")
_INTEGER = re.compile(r"^[su]\d+\[\]")
# A TPU may spread one collective over many fusions, each of which names it again: -1 is where it starts.
_CONTINUED = re.compile(r'"async_collective_fusion_config":\{"flag_start":"(?!-1")')
# What a TPU sends to other slices: a transfer that its runtime completes to the collective named there.
_BETWEEN_SLICES = re.compile(r'_xla_megascale_transfer_type="(\w+)"')


@dataclasses.dataclass(frozen=True)
class Collective:
    """A collective of a compiled program, as often as one call of the program runs it.

    Attributes:
      kind: one of KINDS.
      axes: mesh axes along which its devices differ, in the mesh's order.
      group_size: devices that take part in it together.
      operand_bytes: of what one device puts in, each time.
      times: how often it runs: the product of the turns of the loops around it. A loop whose number of turns is not in
        the program (decoding until the answer ends) counts as one.
      name: of the instruction.
      between_slices: whether it goes over the network between TPU slices, and not over that within one.
    """

    kind: str
    axes: tuple[str, ...]
    group_size: int
    operand_bytes: int
    times: int
    name: str
    between_slices: bool = False

    @property
    def bytes_once(self) -> int:
        """What a device sends each time."""
        return sent_bytes(self.kind, self.operand_bytes, self.group_size)

    @property
    def bytes(self) -> int:
        """What a device sends in one call of the program."""
        return self.times * self.bytes_once

    @property
    def whole_bytes(self) -> int:
        """Size of the array as one device has it at the most: before or behind the collective."""
        return self.operand_bytes * (self.group_size if self.kind == "all-gather" else 1)


@dataclasses.dataclass(frozen=True)
class _Instruction:
    """A line of the program: operands by name, and what stands behind its parenthesis."""

    name: str
    shape: str
    opcode: str
    operands: str
    attributes: str


_Computations = Mapping[str, Sequence[_Instruction]]


def sent_bytes(kind: str, operand_bytes: int, group_size: int) -> int:
    """Bytes that a device sends in a collective over a ring; see the module."""
    others = group_size - 1
    if kind == "all-gather":
        return others * operand_bytes
    if kind == "collective-permute":
        return operand_bytes
    factor = 2 if kind == "all-reduce" else 1
    return math.ceil(factor * others * operand_bytes / group_size)


def collectives_of(text: str, mesh: Mesh) -> list[Collective]:
    """The collectives that one call of a program runs, in the order of the text.

    Of the branches of a condition the one that sends most is counted. An asynchronous collective is counted where it
    starts.

    Args:
      text: of a compiled program (`jax.stages.Compiled.as_text`), for any platform.
      mesh: that it was compiled for.

    Raises:
      ValueError: the text is no program, or has groups of devices in a form that is not known here.
    """
    computations, entry = _parse(text)
    return list(_walk(computations, entry, 1, mesh))


def total_bytes(collectives: Sequence[Collective]) -> dict[tuple[str, tuple[str, ...]], int]:
    """What a device sends in a call, by kind and mesh axes; the largest first."""
    totals: dict[tuple[str, tuple[str, ...]], int] = {}
    for each in collectives:
        totals[each.kind, each.axes] = totals.get((each.kind, each.axes), 0) + each.bytes
    return dict(sorted(totals.items(), key=lambda item: -item[1]))


def shape_bytes(shape: str) -> int:
    """Bytes of an array, or of all arrays of a tuple, written as HLO writes it: "f32[16,256]{1,0}"."""
    total = 0
    for element, dimensions in _ARRAY.findall(shape):
        sizes = [int(size.removeprefix("<=")) for size in dimensions.split(",") if size]
        total += -(-math.prod(sizes) * _element_bits(element) // 8)
    return total


def _element_bits(element: str) -> int:
    if element in _BITS:
        return _BITS[element]
    width = re.match(r"[a-z]+(\d+)", element)
    if width is None:
        raise ValueError(f"{element!r} is no element type of an HLO shape.")
    return int(width[1])


def _parse(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    """The instructions of every computation by its name, and the name of the entry."""
    computations: dict[str, list[_Instruction]] = {}
    entry, current = None, None
    for line in text.splitlines():
        if not line.startswith((" ", "\t")):
            if header := _HEADER.match(line):
                name = header["name"] or header["bare"].removeprefix("%")
                current = computations.setdefault(name, [])
                entry = name if line.startswith("ENTRY") else entry
            continue
        if current is not None and (match := _INSTRUCTION.match(line)):
            operands, attributes = _split_call(line[match.end() :])
            current.append(_Instruction(match["name"], match["shape"], match["opcode"], operands, attributes))
    if entry is None:
        raise ValueError("This is no text of a compiled program: it has no line that begins with ENTRY.")
    return computations, entry


def _split_call(rest: str) -> tuple[str, str]:
    """What stands in the parentheses that were just opened, and what stands behind them."""
    depth = 1
    for index, character in enumerate(rest):
        depth += (character == "(") - (character == ")")
        if not depth:
            return rest[:index], rest[index + 1 :]
    return rest, ""


def _walk(computations: _Computations, name: str, times: int, mesh: Mesh) -> Iterator[Collective]:
    """The collectives of a computation and of all that it calls."""
    shapes = {instruction.name: instruction.shape for instruction in computations[name]}
    for instruction in computations[name]:
        kind = instruction.opcode.removesuffix("-start")
        if kind in KINDS:
            if _CONTINUED.search(instruction.attributes):
                continue
            # On TPU a reduce-scatter may be a fused all-reduce and slice, in a computation with this name.
            is_scatter = kind == "all-reduce" and name.startswith("all-reduce-scatter")
            collective = _collective(instruction, "reduce-scatter" if is_scatter else kind, shapes, times, mesh)
            if collective.group_size > 1:
                yield collective
            continue
        if instruction.opcode == "send" and (transfer := _BETWEEN_SLICES.search(instruction.attributes)):
            yield _between_slices(instruction, transfer[1], shapes, times, mesh)
            continue
        called = [callee for callee in _called(instruction) if callee in computations]
        if instruction.opcode == "conditional":
            branches = [list(_walk(computations, branch, times, mesh)) for branch in called]
            yield from max(branches, key=lambda found: sum(each.bytes for each in found))
            continue
        turns = times * _turns(instruction, computations) if instruction.opcode == "while" else times
        for callee in called:
            yield from _walk(computations, callee, turns, mesh)


def _between_slices(
    instruction: _Instruction, transfer: str, shapes: Mapping[str, str], times: int, mesh: Mesh
) -> Collective:
    """The part of a collective that goes from slice to slice, which only the first axis of a mesh does.

    The rest of it, within a slice, is a collective of its own, whose groups number one slice's devices.
    """
    kind = transfer.lower().replace("_", "-")
    return Collective(
        kind=kind if kind in KINDS else "collective-permute",
        axes=(str(mesh.axis_names[0]),),
        group_size=len({getattr(device, "slice_index", 0) for device in mesh.devices.flat}),
        operand_bytes=_operand_bytes(instruction, shapes),
        times=times,
        name=instruction.name,
        between_slices=True,
    )


def _called(instruction: _Instruction) -> list[str]:
    return [name for value in _CALLED.findall(instruction.attributes) for name in _NAME.findall(value)]


def _turns(loop: _Instruction, computations: _Computations) -> int:
    """Turns of a loop: what the compiler found out, or the bound that its condition compares with; 1 if unknown."""
    if known := _TRIPS.search(loop.attributes):
        return int(known[1])
    condition = re.search(r"\bcondition=%?([\w.\-]+)", loop.attributes)
    if condition is None:
        return 1
    compared, bounds = set(), set()
    pending = [condition[1]]
    while pending:
        for instruction in computations.get(pending.pop(), ()):
            pending += _called(instruction)
            if instruction.opcode == "compare":
                compared |= set(re.findall(r"direction=(\w+)", instruction.attributes))
            elif instruction.opcode == "constant" and _INTEGER.match(instruction.shape):
                bounds.add(int(instruction.operands))
    return max(bounds) if compared == {"LT"} and len(bounds) == 1 else 1


def _collective(instruction: _Instruction, kind: str, shapes: Mapping[str, str], times: int, mesh: Mesh) -> Collective:
    groups = _groups(instruction, mesh.size)
    is_permute = kind == "collective-permute"
    moved = [group for group in groups if len(set(group)) > 1]
    return Collective(
        kind=kind,
        axes=_axes(moved, mesh),
        group_size=(2 if moved else 1) if is_permute else max(map(len, groups)),
        operand_bytes=_operand_bytes(instruction, shapes),
        times=times,
        name=instruction.name,
    )


def _operand_bytes(instruction: _Instruction, shapes: Mapping[str, str]) -> int:
    """Bytes of the operands: written before each, or found where it is defined."""
    if _ARRAY.search(instruction.operands):
        return shape_bytes(instruction.operands)
    names = re.findall(r"%?([\w.\-]+)", re.sub(r"/\*.*?\*/", "", instruction.operands))
    missing = [name for name in names if name not in shapes]
    if missing or not names:
        raise ValueError(f"{instruction.name}: its operands ({instruction.operands}) are defined nowhere.")
    return sum(shape_bytes(shapes[name]) for name in names)


def _groups(instruction: _Instruction, num_devices: int) -> Groups:
    """The groups of devices, by their place in the mesh; of a permutation, the pairs."""
    attributes = instruction.attributes
    if pairs := re.search(r"source_target_pairs=(\{[{}\d,\s]*\})", attributes):
        return _listed(pairs[1])
    found = re.search(r"replica_groups=(\S.*)", attributes)
    if found is None or re.match(r"\{\s*\}", found[1]):
        return [tuple(range(num_devices))]
    if found[1].startswith("{"):
        return _listed(found[1])
    if named := _MESH_GROUPS.match(found[1]):
        return _along_axes(*named.groups())
    iota = _IOTA_GROUPS.match(found[1])
    if iota is None:
        raise ValueError(f"{instruction.name}: groups of devices in an unknown form: {found[1][:60]}")
    order = _iota(iota)
    return [tuple(map(int, row)) for row in order.reshape(-1, order.shape[-1])]


def _iota(match: re.Match[str]) -> np.ndarray:
    """Numbers in the form [4,2]<=[2,4]T(1,0): counted in the second shape, transposed, then laid out in the first."""
    shape, dimensions = _numbers(match[1]), _numbers(match[2])
    order = np.arange(math.prod(dimensions)).reshape(dimensions)
    return (order.transpose(_numbers(match[3])) if match[3] else order).reshape(shape)


def _along_axes(mesh: str, devices: str | None, grouped: str) -> Groups:
    """Groups in the form mesh['a'=2,'b'=4], device_ids=(...) {'a','b':(1)2}: those that differ along some axes.

    'b':(1)2 is a part of an axis: it is taken for several, the second of which has 2 devices and those before it 1.
    """
    sizes = {name: int(size) for name, size in (axis.split("=") for axis in mesh.split(","))}
    parts: dict[str, list[tuple[int, int]]] = {name: [] for name in sizes}
    for axis in grouped.split(","):
        match = _MESH_AXIS.match(axis.strip())
        if match is None or match["name"] not in sizes:
            raise ValueError(f"groups of devices in an unknown form: mesh[{mesh}] {{{grouped}}}")
        whole = (1, sizes[match["name"]])
        parts[match["name"]].append((int(match["before"]), int(match["size"])) if match["size"] else whole)
    shape, along = list[int](), list[int]()
    for name, size in sizes.items():
        done = 1
        for before, part in sorted(parts[name]):
            shape += [before // done, part]
            along.append(len(shape) - 1)
            done = before * part
        shape.append(size // done)
    order = _device_order(devices) if devices is not None else np.arange(math.prod(shape))
    rows = np.moveaxis(order.reshape(shape), along, range(-len(along), 0))
    return [tuple(map(int, row)) for row in rows.reshape(-1, math.prod(shape[axis] for axis in along))]


def _device_order(text: str) -> np.ndarray:
    """The devices of a mesh: listed, or as [2,4]T(1,0), counted in this shape and transposed."""
    permuted = _PERMUTED.match(text.strip())
    if permuted is None:
        return np.asarray(_numbers(text))
    dimensions = _numbers(permuted[1])
    return np.arange(math.prod(dimensions)).reshape(dimensions).transpose(_numbers(permuted[2])).ravel()


def _listed(value: str) -> Groups:
    """Groups written out: {{0,1},{2,3}}, at the beginning of a text."""
    inner = re.match(r"\{((?:\{[\d,\s]*\},?\s*)*)\}", value)
    if inner is None:
        raise ValueError(f"groups of devices in an unknown form: {value[:60]}")
    return [tuple(_numbers(group)) for group in re.findall(r"\{([\d,\s]*)\}", inner[1])]


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number.strip()]


def _axes(groups: Groups, mesh: Mesh) -> tuple[str, ...]:
    """The mesh axes along which the devices of a group differ; a device's number is its place in the mesh."""
    crossed = np.zeros(len(mesh.axis_names), bool)
    for group in groups:
        places = np.stack(np.unravel_index(np.asarray(group), mesh.devices.shape))
        crossed |= np.any(places != places[:, :1], axis=1)
    return tuple(str(name) for name, is_crossed in zip(mesh.axis_names, crossed, strict=True) if is_crossed)
