"""Train steps that were compiled before, for the devices of another machine: saved by a plan, loaded by a training.

A file holds what jax serialises of a compiled program, which is loaded by unpickling: load none that you do not trust.
With it stands what the program was made of and for, and a file that differs in any of it is not used.
"""

import dataclasses
import hashlib
import json
import pickle
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import jax
import jaxlib
from etils import epath
from jax.experimental.serialize_executable import deserialize_and_load, serialize
from jax.sharding import Mesh

from famjax.errors import ConfigError
from famjax.pods.agreement import from_each
from famjax.pods.heartbeats import Process

_MAGIC = b"famjax compiled step 1\n"


@dataclasses.dataclass(frozen=True)
class Origin:
    """What a compiled program was made of and for; only where all of it is the same may the program run.

    Attributes:
      program: digest of the program before its compilation: settings, shapes, shardings and famjax's code are in it.
      devices: kind of the devices, and their numbers in the order of the mesh.
      versions: of jax, jaxlib, and of libtpu for TPU.
    """

    program: str
    devices: str
    versions: str


class NotLoaded(Exception):
    """Why a compiled step is not used; one line."""


def step_path(folder: str, length: int) -> epath.Path:
    """Where the step for batches [B, length] lies."""
    return epath.Path(folder) / f"train_step_{length}.compiled"


def save_step(
    folder: str, length: int, lowered: jax.stages.Lowered, compiled: jax.stages.Compiled, mesh: Mesh
) -> epath.Path:
    """Writes a compiled train step, in place of what is there.

    Args:
      folder: made where it does not exist.
      length: tokens of a row [T].
      lowered: what was compiled.
      compiled: the step.
      mesh: that it is for.

    Raises:
      ConfigError: the folder cannot be written.
    """
    payload, _, _ = serialize(compiled)
    header = json.dumps({**dataclasses.asdict(_origin(lowered, mesh)), "payload": _digest(payload)}).encode()
    path = step_path(folder, length)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.parent / f"{path.name}.unfinished"
        unfinished.write_bytes(_MAGIC + header + b"\n" + payload)
        unfinished.replace(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror or error}); set another --plan.save.") from error
    return path


def load_step(folder: str, length: int, lowered: jax.stages.Lowered, mesh: Mesh) -> jax.stages.Compiled:
    """Loads a compiled train step onto the mesh's devices: on every process of the job the same one, or on none.

    Processes that run programs which were compiled apart may wait in different sums of gradients, for ever.

    Raises:
      NotLoaded: a process has none, or it is of another program, other devices or other versions; or the processes have
        different ones. It names the process, where there are several.
    """
    path = step_path(folder, length)
    step, digest, refusal = None, "", ""
    try:
        payload = _read(path, lowered, mesh)
        step, digest = _deserialize(path, payload, lowered, mesh), _digest(payload)
    except NotLoaded as error:
        refusal = str(error)
    process = str(Process(jax.process_index(), jax.process_count()))
    # Steps are loaded where they are compiled: beside the main thread, which may vote on a signal meanwhile.
    _require_agreement(path, from_each([process, digest, refusal], channel="compiled steps"))
    assert step is not None
    return step


def _require_agreement(path: epath.Path, outcomes: Sequence[Sequence[str]]) -> None:
    """Of each process: its name, the digest of what it has loaded, and why it has loaded nothing.

    Raises:
      NotLoaded: one has not, or has loaded something else.
    """
    refusals = [
        f"{process}: {refusal}" if len(outcomes) > 1 else refusal for process, _, refusal in outcomes if refusal
    ]
    if refusals:
        others = {1: "", 2: " (1 other process has none either)"}
        raise NotLoaded(refusals[0] + others.get(len(refusals), f" ({len(refusals) - 1} others have none either)"))
    first, digest, _ = outcomes[0]
    for process, other, _ in outcomes:
        if other != digest:
            raise NotLoaded(f"{path} of {process} is another file than that of {first}")


def _read(path: epath.Path, lowered: jax.stages.Lowered, mesh: Mesh) -> bytes:
    """The serialised program, if it is that of what is lowered."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise NotLoaded(f"{path} cannot be read ({error.strerror or error})") from error
    if not content.startswith(_MAGIC):
        raise NotLoaded(f"{path} is no compiled step of this version of famjax")
    header, _, payload = content[len(_MAGIC) :].partition(b"\n")
    try:
        saved = json.loads(header)
    except ValueError as error:
        raise NotLoaded(f"{path} is damaged") from error
    if saved.pop("payload", None) != _digest(payload):
        raise NotLoaded(f"{path} is damaged")
    _require_same(path, saved, _origin(lowered, mesh))
    return payload


def _deserialize(path: epath.Path, payload: bytes, lowered: jax.stages.Lowered, mesh: Mesh) -> jax.stages.Compiled:
    in_tree = jax.tree.structure(lowered.args_info)
    devices = mesh.devices.flatten().tolist()
    try:
        return deserialize_and_load(payload, in_tree, lowered.out_tree, devices[0].client, devices)
    except (jax.errors.JaxRuntimeError, pickle.UnpicklingError, ValueError, KeyError, EOFError) as error:
        raise NotLoaded(f"{path} is refused: {str(error).splitlines()[0]}") from error


def _require_same(path: epath.Path, saved: dict[str, str], present: Origin) -> None:
    meanings = {
        "program": "of another program: other settings, or another version of famjax",
        "devices": "for other devices, {saved}, and these are {present}",
        "versions": "of other versions, {saved}, and these are {present}",
    }
    # Versions and devices first: where they differ, the program may for that reason alone.
    for name in ("versions", "devices", "program"):
        before, now = saved.get(name, ""), getattr(present, name)
        if before != now:
            raise NotLoaded(f"{path} is {meanings[name].format(saved=_short(before), present=_short(now))}")


def _origin(lowered: jax.stages.Lowered, mesh: Mesh) -> Origin:
    devices = mesh.devices.flatten().tolist()
    numbers = ",".join(str(device.id) for device in devices)
    versions = f"jax {jax.__version__}, jaxlib {jaxlib.__version__}"
    if devices[0].platform == "tpu":
        versions += f", libtpu {_version('libtpu')}"
    return Origin(
        program=_digest(lowered.as_text().encode()),
        devices=f"{len(devices)} x {devices[0].device_kind} {dict(mesh.shape)}: {numbers}",
        versions=versions,
    )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def _short(text: Any) -> str:
    """Without the devices' numbers."""
    return str(text).partition(":")[0] if len(str(text)) > 120 else str(text)
