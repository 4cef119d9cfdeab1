"""What gets a line in a picture and a row in a table: a model with one memory; and its name."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

from famjax.evaluation.report.cells import Cell, Memory

_LETTERS = {"num_segments": "M", "block_size": "C", "fam_length": "F"}
_STEP_FOLDER = re.compile(r"(?P<run>.*)/checkpoint_\d+/?")

ScannedCell = tuple[str, Cell]  # the name of its scan, and the cell
Key = tuple[str, str, str, Memory]


@dataclasses.dataclass(frozen=True)
class Variant:
    """A model with one memory.

    Attributes:
      label: its name in tables and pictures.
      checkpoint: the latest one with results.
      steps: the training steps that were evaluated, in order.
      memory: its settings.
      parameters: their number, where it is known.
    """

    label: str
    checkpoint: str
    steps: tuple[int, ...]
    memory: Memory
    parameters: int | None

    @property
    def step(self) -> int | None:
        """The latest training step with results: the one that is shown where only one is."""
        return self.steps[-1] if self.steps else None


def key_of(scanned: ScannedCell) -> Key:
    """Cells with the same key belong to the same variant, though of several training steps."""
    scan, cell = scanned
    return (scan, cell.model, run_of(cell.checkpoint), cell.memory)


def run_of(checkpoint: str) -> str:
    """The MODEL_DIR of a checkpoint folder; a folder of another name is its own."""
    match = _STEP_FOLDER.fullmatch(checkpoint)
    return match["run"] if match else checkpoint.rstrip("/")


def variants_of(cells: Sequence[ScannedCell]) -> dict[Key, Variant]:
    """The variants, in the order in which they first appear."""
    grouped: dict[Key, list[Cell]] = {}
    for scanned in cells:
        grouped.setdefault(key_of(scanned), []).append(scanned[1])
    labels = _labels(list(grouped))
    return {key: _variant(labels[key], members) for key, members in grouped.items()}


def _variant(label: str, cells: Sequence[Cell]) -> Variant:
    done = [cell for cell in cells if cell.is_done]
    steps = sorted({cell.step for cell in done if cell.step is not None})
    latest = next((cell for cell in done if steps and cell.step == steps[-1]), cells[0])
    return Variant(label, latest.checkpoint, tuple(steps), latest.memory, latest.parameters)


def _labels(keys: Sequence[Key]) -> dict[Key, str]:
    """The model's name and what it takes to tell it from others of that name: its run, its memory, its scan."""
    labels = {}
    for key in keys:
        scan, model, run, memory = key
        same_name = [other for other in keys if other[:2] == (scan, model)]
        label = model
        if memories := _told_apart([other[3] for other in same_name]):
            label += f", {memories[memory]}"
        runs = list(dict.fromkeys(other[2] for other in same_name))
        origin = [scan] if scan else []
        if len(runs) > 1:
            origin.append(_distinct_ends(runs)[run])
        labels[key] = f"{label} ({', '.join(origin)})" if origin else label
    return labels


def _told_apart(memories: Iterable[Memory]) -> Mapping[Memory, str]:
    """Texts as "M=0, C=64"; none where all are the same. Settings that are the same in all but M and C stay out."""
    different = list(dict.fromkeys(memories))
    if len(different) == 1:
        return {}
    names = list(dict.fromkeys([*_LETTERS, *(name for memory in different for name, _ in memory)]))
    values = {name: {dict(memory).get(name) for memory in different} for name in names}
    shown = [name for name in names if len(values[name]) > 1 or (name in {"num_segments", "block_size"})]
    return {
        memory: ", ".join(
            f"{_LETTERS.get(name, name)}={value}" for name in shown if (value := dict(memory).get(name)) is not None
        )
        or "memory unknown"
        for memory in different
    }


def _distinct_ends(paths: Sequence[str]) -> dict[str, str]:
    """Each path's last parts, as many as tell them all apart."""
    parts = [path.split("/") for path in paths]
    for count in range(1, max(map(len, parts)) + 1):
        ends = ["/".join(part[-count:]) for part in parts]
        if len(set(ends)) == len(paths):
            return dict(zip(paths, ends, strict=True))
    return {path: path for path in paths}
