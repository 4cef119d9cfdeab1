"""Parameters from another run's checkpoint: all or some of them into a new run, or all of them for an evaluation."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from etils import epath
from flax.traverse_util import unflatten_dict

from famjax.errors import CheckpointError, ConfigError
from famjax.models.config import TransformerConfig
from famjax.pods.agreement import from_first
from famjax.training import checkpoint_files as files
from famjax.training import model_settings
from famjax.training.base import load_base, read_reference
from famjax.training.checkpoint_arrays import (
    PARAMS,
    Tree,
    by_path,
    read_arrays,
    read_params,
    require_shapes,
    with_arrays,
)
from famjax.training.config import RestoreConfig
from famjax.training.parameter_paths import select

Report = Callable[[str], None]

FLAG = "--gin.INITIAL_CHECKPOINT_PATH"
BASE_FLAG = "--gin.BASE_CHECKPOINT_PATH"
_OPTIMIZER = "opt_state"
_STEP = "step"
_EMBEDDING = "embedding/table"
# Where the settings of a run, or of an import, stand beside its checkpoints.
_SETTINGS_FILES = ("config.gin", "model.gin")


@dataclasses.dataclass(frozen=True)
class RestoreReport:
    """What came from the checkpoint.

    Attributes:
      path: the checkpoint.
      step: the step that it was saved after.
      taken: paths of the parameters read from it.
      initialised: paths of this run's parameters that keep their initial values.
      left: paths of the checkpoint's parameters that this run does not use.
      kept: what else was taken: "optimizer", "step".
      different: settings of the model that differ, but for its memory and its dtype, which a new run is free to choose:
        parameters that fit another function (another RoPE base, a norm's epsilon) are taken, and this says so.
    """

    path: str
    step: int
    taken: tuple[str, ...]
    initialised: tuple[str, ...]
    left: tuple[str, ...]
    kept: tuple[str, ...] = ()
    different: tuple[str, ...] = ()

    def __str__(self) -> str:
        fresh = [name for name in ("optimizer", "step") if name not in self.kept]
        lines = [f"Parameters from {self.path} (step {self.step}):"]
        for title in ("taken", "initialised", "left"):
            names = getattr(self, title)
            lines.append(f"  {title} ({len(names)}): {', '.join(names) or 'none'}")
        lines.append(f"  kept: {', '.join(self.kept) or 'nothing else'}; fresh: {', '.join(fresh) or 'nothing else'}")
        if self.different:
            lines.append(f"  this run's model is another one: {'; '.join(self.different)}")
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Initialized:
    """The start of a run from another run's checkpoint.

    Attributes:
      params: parameters, those taken replaced.
      opt_state: the optimizer's state, the checkpoint's or the fresh one.
      step: the checkpoint's step, or 0.
      report: what came from where, made to be printed.
    """

    params: Tree
    opt_state: Tree
    step: int
    report: RestoreReport


def initialize_from(
    config: RestoreConfig,
    params: Tree,
    opt_state: Tree,
    report: Report = logging.warning,
    model: TransformerConfig | None = None,
    vocabulary: str | None = None,
) -> Initialized:
    """Replaces parameters (and the optimizer's state and the step, as `config` says) by those of a checkpoint.

    Only what is taken is read. An array is cast to the dtype, and laid out in the sharding, of the one it replaces.

    Args:
      config: whose checkpoint, which parameters; `path` must be set.
      params: this run's initial parameters, unboxed.
      opt_state: this run's fresh optimizer state.
      report: called with one line for each damaged checkpoint that is passed over.
      model: this run's, to be compared with the checkpoint's; None: it is not compared.
      vocabulary: the fingerprint of this run's; an embedding table of another one is refused. None: any is taken.

    Raises:
      CheckpointError: there is no checkpoint, all are damaged, it does not hold its base, or a parameter's (or the
        optimizer's) shape differs.
      ConfigError: a pattern is no regular expression or matches nothing; the vocabulary is another one; or the
        optimizer's state is asked for while some parameters are initialised, to which the checkpoint's moments do not
        belong.
    """
    if config.path is None:
        raise ConfigError(f"RestoreConfig.path is not set ({FLAG}).")
    selected = select(params, config.parameters, "RestoreConfig.parameters")
    folder = find_together(config.path, report)
    require_whole(folder)
    stored = files.stored_arrays(folder.path)
    named, is_chosen = by_path(params), by_path(selected)
    taken = {path: leaf for path, leaf in named.items() if is_chosen[path] and f"{PARAMS}/{path}" in stored}
    parts = _parts(folder, config, stored, list(named), list(taken))
    if model is not None:
        parts = dataclasses.replace(parts, different=_different_settings(folder, model))
    _require_useful(config, parts)
    if vocabulary is not None and _EMBEDDING in taken:
        require_vocabulary(folder, vocabulary)
    require_shapes(folder, stored, {f"{PARAMS}/{path}": leaf for path, leaf in taken.items()})
    arrays = read_arrays(folder, {PARAMS: unflatten_dict(taken, sep="/")})
    return Initialized(
        params=with_arrays(params, arrays, f"{PARAMS}/"),
        opt_state=_read_optimizer(folder, stored, opt_state) if config.optimizer else opt_state,
        step=_read_step(folder) if config.step else 0,
        report=parts,
    )


def load_params(
    path: str | os.PathLike[str] | files.StepFolder,
    abstract_params: Tree,
    report: Report = logging.warning,
    setting: str = FLAG,
    base: str | os.PathLike[str] | None = None,
    base_setting: str = BASE_FLAG,
) -> Tree:
    """All parameters of a checkpoint, for an evaluation; nothing else is read.

    Those that a finetuning left as they were are read from its base.

    Args:
      path: a MODEL_DIR (its latest whole checkpoint), one checkpoint folder, or what `find_checkpoint` returned.
      abstract_params: jax.ShapeDtypeStruct leaves with shardings, unboxed.
      report: called with one line for each damaged checkpoint that is passed over.
      setting: the flag that set `path`, for the message.
      base: where a finetuning's base is now (a MODEL_DIR or a checkpoint folder); None: where it was.
      base_setting: the flag that sets `base`, for the message.

    Raises:
      CheckpointError: there is no checkpoint, all are damaged, a parameter is missing or of another shape, there are
        adapters that the model lacks, or a base that is gone or another one.
    """
    folder = find_checkpoint(path, report, setting)
    own, rest = split_by_holder(folder, abstract_params)
    if not rest:
        return load_own(folder, own)
    reference = read_reference(folder)
    if reference is None:
        raise CheckpointError(f"{folder.path} lacks {files.shortened([f'{PARAMS}/{name}' for name in rest])}.")
    found = load_base(reference, unflatten_dict(rest, sep="/"), str(folder.path), base, base_setting, report)
    arrays = {**by_path(load_own(folder, own)), **by_path(found.params)}
    return with_arrays(abstract_params, arrays)


def split_by_holder(folder: files.StepFolder, abstract_params: Tree) -> tuple[dict[str, Any], dict[str, Any]]:
    """The leaves that a checkpoint holds itself, and those that it does not: of its base, or missing. By path.

    Raises:
      CheckpointError: the checkpoint has adapters that the model lacks, and would be another model without them.
    """
    wanted = by_path(abstract_params)
    prefix = f"{PARAMS}/"
    stored = {name.removeprefix(prefix) for name in files.stored_arrays(folder.path) if name.startswith(prefix)}
    if adapters := [name for name in sorted(stored) if name.endswith(("/lora_a", "/lora_b")) and name not in wanted]:
        raise CheckpointError(
            f"{folder.path} has adapters that the model lacks: {files.shortened(adapters)}. Set TransformerConfig.lora "
            "as in the finetuning."
        )
    own = {name: leaf for name, leaf in wanted.items() if name in stored}
    return own, {name: leaf for name, leaf in wanted.items() if name not in own}


def load_own(folder: files.StepFolder, own: Mapping[str, Any]) -> Tree:
    """Reads parameters that a checkpoint holds itself.

    Args:
      folder: the checkpoint.
      own: jax.ShapeDtypeStruct leaves with shardings, by path.

    Raises:
      CheckpointError: one has another shape.
    """
    require_shapes(folder, files.stored_arrays(folder.path), {f"{PARAMS}/{name}": leaf for name, leaf in own.items()})
    return read_params(folder, unflatten_dict(own, sep="/"))


def read_model_config(
    path: str | os.PathLike[str] | files.StepFolder, report: Report = logging.warning, setting: str = FLAG
) -> TransformerConfig:
    """The settings of the model that a checkpoint was trained with, its memory's included.

    Args:
      path: a MODEL_DIR (its latest whole checkpoint), one checkpoint folder, or what `find_checkpoint` returned.
      report: called with one line for each damaged checkpoint that is passed over.
      setting: the flag that set `path`, for the message.

    Raises:
      CheckpointError: there is no checkpoint, all are damaged, or its settings do not fit this version.
    """
    folder = find_checkpoint(path, report, setting)
    return model_settings.from_json(files.read_json(folder.path, files.MODEL), str(folder.path))


def find_checkpoint(
    path: str | os.PathLike[str] | files.StepFolder, report: Report = logging.warning, setting: str = FLAG
) -> files.StepFolder:
    """The checkpoint that a path means: the folder itself, or the latest whole one of a MODEL_DIR.

    Its files are read once for their checksums: where several things are needed from one checkpoint, find it once and
    pass on what was found, which is not read again.

    Args:
      path: a MODEL_DIR, one checkpoint folder, or what this function returned.
      report: called with one line for each damaged checkpoint that is passed over.
      setting: the flag that set `path`, for the message.

    Raises:
      CheckpointError: there is none, or all are damaged.
    """
    if isinstance(path, files.StepFolder):
        return path
    return files.first_undamaged(files.candidates(path, setting), report)


def find_together(
    path: str | os.PathLike[str] | files.StepFolder, report: Report = logging.warning, setting: str = FLAG
) -> files.StepFolder:
    """`find_checkpoint` for all processes of a job: process 0 reads the files for their checksums.

    Raises:
      CheckpointError: as there, on every process.
    """

    def find() -> tuple[str, int]:
        found = find_checkpoint(path, report, setting)
        return str(found.path), found.step

    folder, step = from_first(find)
    return files.StepFolder(epath.Path(folder), step)


def _parts(
    folder: files.StepFolder, config: RestoreConfig, stored: Mapping[str, Any], own: list[str], taken: list[str]
) -> RestoreReport:
    """The report. `own`, `taken`: paths of this run's parameters, all and those that the checkpoint gives."""
    there = [name.removeprefix(f"{PARAMS}/") for name in stored if name.startswith(f"{PARAMS}/")]
    return RestoreReport(
        path=str(folder.path),
        step=folder.step,
        taken=tuple(taken),
        initialised=tuple(path for path in own if path not in taken),
        left=tuple(path for path in there if path not in taken),
        kept=tuple(name for name, is_kept in (("optimizer", config.optimizer), ("step", config.step)) if is_kept),
    )


def _different_settings(folder: files.StepFolder, model: TransformerConfig) -> tuple[str, ...]:
    """Settings that change what the parameters compute; see `RestoreReport.different`."""
    saved = dataclasses.replace(
        read_model_config(folder),
        memory=model.memory,
        dtype=model.dtype,
        residual_init_scale=model.residual_init_scale,  # Of initial values only.
        lora=model.lora,  # 0 at first.
    )
    return tuple(model_settings.differences(saved, model))


def require_whole(folder: files.StepFolder, setting: str = FLAG) -> None:
    """Raises CheckpointError where a checkpoint holds only what a finetuning has trained."""
    reference = read_reference(folder)
    if reference is not None:
        raise CheckpointError(
            f"{folder.path} ({setting}) is itself a finetuning, of {reference.path}, and holds only what it trained. "
            "Take its base, or make one checkpoint of the two: famjax --run_mode=merge --gin_file=runs/merge.gin "
            f"--gin.CHECKPOINT_PATH=\"'{folder.path}'\" --gin.OUTPUT_DIR=..."
        )


def require_vocabulary(checkpoint: files.StepFolder, fingerprint: str, than: str = "") -> None:
    """Refuses to read a checkpoint's ids as those of another vocabulary.

    Args:
      checkpoint: whose vocabulary's fingerprint may be known.
      fingerprint: of the vocabulary that it is to be used with.
      than: names that vocabulary, for the message.

    Raises:
      ConfigError: it was trained with another one.
    """
    trained_with = files.read_json(checkpoint.path, files.DATA_STATE).get("vocabulary")
    if trained_with is None or trained_with == fingerprint:
        return
    beside = [checkpoint.path.parent / name for name in _SETTINGS_FILES]
    place = next((file for file in beside if file.exists()), beside[0])
    raise ConfigError(
        f"{checkpoint.path} was trained with another vocabulary{than}; "
        f"set --gin.VOCABULARY and its settings as in {place}"
        + (", or give that file behind the other --gin_file." if place != beside[0] else ".")
    )


def _require_useful(config: RestoreConfig, parts: RestoreReport) -> None:
    if not parts.taken:
        raise CheckpointError(
            f"{parts.path} ({FLAG}) has none of the parameters that RestoreConfig.parameters = {config.parameters} "
            f"names; it has: {files.shortened(list(parts.left))}."
        )
    if config.optimizer and parts.initialised:
        raise ConfigError(
            "RestoreConfig.optimizer = True needs every parameter from the checkpoint; these would be initialised: "
            f"{files.shortened(list(parts.initialised))}. Set RestoreConfig.optimizer = False."
        )


def _read_optimizer(folder: files.StepFolder, stored: Mapping[str, Any], opt_state: Tree) -> Tree:
    wanted = {f"{_OPTIMIZER}/{name}": leaf for name, leaf in by_path(opt_state).items()}
    have = {name for name in stored if name.startswith(f"{_OPTIMIZER}/")}
    if different := sorted(have ^ set(wanted)):
        raise CheckpointError(
            f"{folder.path} has the state of another optimizer (or of other frozen parameters); only one of the two "
            f"has {files.shortened(different)}. Set RestoreConfig.optimizer = False."
        )
    require_shapes(folder, stored, wanted)
    return with_arrays(opt_state, read_arrays(folder, {_OPTIMIZER: opt_state}), f"{_OPTIMIZER}/")


def _read_step(folder: files.StepFolder) -> int:
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return int(read_arrays(folder, {_STEP: jax.ShapeDtypeStruct((), jnp.int32, sharding=device)})[_STEP])
