"""What a checkpoint is on disk: `MODEL_DIR/checkpoint_<step>`, its items, and checksums that tell a damaged one.

    checkpoint_1000/
      state/        the train state (orbax, StandardSave); arrays of size zero are not stored
      data_state/   the data iterator's state (JSON)
      model/        the model's settings, its memory's included (JSON)
      evaluation/   metrics of an evaluation at this step (JSON), where there was one
      base/         of a finetuning over a frozen base: where the parameters are that the state lacks (JSON)
      checksums.json  size and CRC-32 of every other file, written before the folder gets its final name

orbax itself detects a missing or shortened file, but reads a flipped byte inside an array as a value: hence the
checksums.
"""

import concurrent.futures
import dataclasses
import difflib
import json
import os
import platform
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from famjax.errors import CheckpointError

PREFIX = "checkpoint"
STATE, DATA_STATE, MODEL, EVALUATION, BASE = "state", "data_state", "model", "evaluation", "base"
REQUIRED_ITEMS = (STATE, DATA_STATE, MODEL)
CHECKSUMS = "checksums.json"
DAMAGED_SUFFIX = ".damaged"

_FOLDER = re.compile(rf"{PREFIX}_(\d+)")
# orbax rewrites these two while it gives the folder its final name; reading the items needs neither.
_WRITTEN_LAST = frozenset({"_CHECKPOINT_METADATA", "commit_success.txt"})
_TEMPORARY = ".orbax-checkpoint-tmp"
_CHUNK_BYTES = 1 << 23
_READERS = 4
_NUM_SHOWN = 6


@dataclasses.dataclass(frozen=True)
class StepFolder:
    """One checkpoint on disk.

    Attributes:
      path: the folder.
      step: the training step that it was saved after.
    """

    path: epath.Path
    step: int


def absolute_path(path: str | os.PathLike[str]) -> epath.Path:
    """The path with a leading "~" expanded, made absolute where it is local; "gs://..." stays."""
    folder = epath.Path(path)
    return folder if is_remote(folder) else folder.expanduser().absolute()


def is_remote(path: epath.Path) -> bool:
    """Whether the path names a bucket ("gs://..."), not a folder of this machine."""
    return "://" in os.fspath(path)


def make_writable(folder: epath.Path | Path) -> None:
    """Makes a folder with its parents, and writes a file to it and removes it; OSError where that fails.

    Processes that share the folder may do so at once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".write_probe_{platform.node()}_{os.getpid()}"  # In containers all have the same pid.
    probe.write_text("famjax")
    probe.unlink()


def step_folders(model_dir: epath.Path) -> list[StepFolder]:
    """The finished checkpoints of a MODEL_DIR, latest first; folders moved aside and temporary ones are none."""
    if not model_dir.is_dir():
        return []
    matches = ((path, _FOLDER.fullmatch(path.name)) for path in model_dir.iterdir() if path.is_dir())
    found = [StepFolder(path, int(match.group(1))) for path, match in matches if match]
    return sorted(found, key=lambda folder: folder.step, reverse=True)


def remove_temporary(model_dir: epath.Path) -> None:
    """Deletes what a process that was killed in the middle of a save has left. No save may be under way.

    orbax would do it too (`cleanup_tmp_directories`), but in the background, and in a bucket it takes every folder
    without its commit file, other tools' folders included, for a temporary one.
    """
    if not model_dir.is_dir():
        return
    for temporary in ocp.path.step.all_temporary_paths(model_dir):
        if temporary.get().name.startswith(f"{PREFIX}_"):
            temporary.get().rmtree()


def candidates(path: str | os.PathLike[str], setting: str) -> list[StepFolder]:
    """The checkpoints that a path given by a user means, in the order in which to try them.

    Args:
      path: a MODEL_DIR (all its checkpoints, latest first) or one checkpoint folder.
      setting: the flag that sets it, for the message.

    Raises:
      CheckpointError: nothing is there; the message names what is.
    """
    folder = absolute_path(path)
    if (match := _FOLDER.fullmatch(folder.name)) and folder.is_dir():
        return [StepFolder(folder, int(match.group(1)))]
    if found := step_folders(folder):
        return found
    reason = "has no checkpoint" if folder.is_dir() else "does not exist"
    raise CheckpointError(f"{folder} ({setting}) {reason}. {_what_is_there(folder)}")


def first_undamaged(folders: list[StepFolder], report: Any) -> StepFolder:
    """The first checkpoint that is whole; each damaged one before it is reported in one line.

    Args:
      folders: at least one, in the order in which to try them.
      report: called with a line for each damaged checkpoint, and one for what is used in its place.

    Raises:
      CheckpointError: all are damaged; the message names each with the cause.
    """
    causes: list[str] = []
    for folder in folders:
        cause = damage(folder.path)
        if cause is None:
            if causes:
                report(f"Using {folder.path} in its place.")
            return folder
        causes.append(f"{folder.path}: {cause}")
        report(f"Damaged checkpoint {causes[-1]}.")
    raise CheckpointError(all_damaged(causes))


def all_damaged(causes: list[str]) -> str:
    """The message for a run none of whose checkpoints can be read. `causes`: "<path>: <cause>" of each."""
    return (
        "No checkpoint can be used; restore the files, or delete the folders to do without them. Damaged: "
        + "; ".join(causes)
        + "."
    )


def seal(model_dir: epath.Path, step: int, known: Mapping[str, list[int]] | None = None) -> None:
    """Writes the checksums of a checkpoint that is about to get, or has, its final name.

    Args:
      model_dir: MODEL_DIR.
      step: of the checkpoint.
      known: [bytes, CRC-32] of files that need not be read again, by their names below the checkpoint.
    """
    final = model_dir / f"{PREFIX}_{step}"
    temporary = sorted(model_dir.glob(f"{final.name}{_TEMPORARY}*"))
    folder = temporary[-1] if temporary else final
    files = dict(known or {})
    names = [name for name in _file_names(folder) if name not in files]
    # Reading and summing up leave the interpreter to other threads.
    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        files |= zip(names, pool.map(lambda name: _fingerprint(folder / name), names), strict=True)
    # A rename, so that a kill in the middle of the write cannot make a whole checkpoint look damaged.
    partial = folder / f"{CHECKSUMS}.partial"
    partial.write_text(json.dumps({"files": files}))
    partial.rename(folder / CHECKSUMS)


def damage(folder: epath.Path) -> str | None:
    """Why a checkpoint cannot be trusted: the first missing, shortened or altered file. None: it is whole."""
    for item in REQUIRED_ITEMS:
        if not (folder / item).is_dir():
            return f"the item {item} is missing"
    if not (folder / CHECKSUMS).exists():
        return f"{CHECKSUMS} is missing"
    try:
        files: dict[str, list[int]] = json.loads((folder / CHECKSUMS).read_text())["files"]
    except (ValueError, KeyError, TypeError) as error:
        return f"{CHECKSUMS} cannot be read ({error})"
    return next((cause for name, written in files.items() if (cause := _changed(folder, name, written))), None)


def read_json(folder: epath.Path, item: str) -> dict[str, Any]:
    """A JSON item of a checkpoint; FileNotFoundError or ValueError where it cannot be read."""
    return dict(ocp.JsonCheckpointHandler().restore(folder / item))


def array_paths(tree: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """The arrays of a tree that a checkpoint stores, by path ("opt_state/0/mu/embedding/table"); none of size zero."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    return {
        name: jax.ShapeDtypeStruct(tuple(leaf.shape), leaf.dtype) for name, leaf in named.items() if 0 not in leaf.shape
    }


def stored_arrays(folder: epath.Path) -> dict[str, jax.ShapeDtypeStruct]:
    """Path, shape and dtype of every array of a checkpoint's train state, without reading the arrays."""
    return array_paths(ocp.PyTreeCheckpointHandler().metadata(folder / STATE).tree)


def shortened(names: list[str]) -> str:
    """The first few of many names, for a message."""
    more = len(names) - _NUM_SHOWN
    return ", ".join(names[:_NUM_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _file_names(folder: epath.Path, below: str = "") -> Iterator[str]:
    for path in sorted(folder.iterdir()):
        name = f"{below}{path.name}"
        if path.is_dir():
            yield from _file_names(path, f"{name}/")
        elif name not in _WRITTEN_LAST and not name.startswith(CHECKSUMS):
            yield name


def _fingerprint(path: epath.Path) -> list[int]:
    """[bytes, CRC-32]."""
    size = checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            size, checksum = size + len(chunk), zlib.crc32(chunk, checksum)
    return [size, checksum]


def _changed(folder: epath.Path, name: str, written: list[int]) -> str | None:
    path = folder / name
    if not path.exists():
        return f"{name} is missing"
    try:
        size, checksum = _fingerprint(path)
    except OSError as error:
        return f"{name} cannot be read ({error.strerror or error})"
    if size != written[0]:
        return f"{name} has {size} bytes; {written[0]} were written"
    return None if checksum == written[1] else f"{name} is not what was written (its checksum differs)"


def _what_is_there(folder: epath.Path) -> str:
    """A sentence on the nearest folder that exists."""
    while not folder.is_dir() and folder.parent != folder:
        name, folder = folder.name, folder.parent
        if folder.is_dir():
            names = sorted(path.name for path in folder.iterdir() if path.is_dir())
            if close := difflib.get_close_matches(name, names, n=1, cutoff=0.6):
                return f"Did you mean {folder / close[0]}?"
            return f"{folder} has the folders: {shortened(names)}." if names else f"{folder} has no folders."
    names = sorted(path.name for path in folder.iterdir())
    return f"It has: {shortened(names)}." if names else "It is empty."
