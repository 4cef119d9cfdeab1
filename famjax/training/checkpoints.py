"""Checkpoints of a run: saved in the background, each complete or not there, resumed from the latest whole one."""

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from famjax.errors import CheckpointError, ConfigError
from famjax.models.config import TransformerConfig
from famjax.pods.agreement import all_agree
from famjax.training import checkpoint_files as files
from famjax.training import model_settings
from famjax.training.base import BaseReference, read_reference
from famjax.training.config import CheckpointConfig
from famjax.training.model_dir import FLAG

State = Any  # A pytree of jax.Array: the train state. Its abstract form has jax.ShapeDtypeStruct leaves with shardings.

_CAUSE_LENGTH = 160

# What has one number for each row of streamed documents.
_ROWS = "stream/num_tokens"


@dataclasses.dataclass(frozen=True)
class Restored:
    """What a run goes on from.

    Attributes:
      step: the step after which the checkpoint was saved.
      state: the train state, each array with the sharding asked for.
      data_state: the data iterator's state that belongs to it.
      base: where the parameters are that the state lacks; None: it lacks none.
    """

    step: int
    state: State
    data_state: dict[str, Any]
    base: BaseReference | None = None


@dataclasses.dataclass
class LatestAndBest:
    """orbax's preservation policy: the latest checkpoints stay, and besides them the best by a metric.

    Attributes:
      keep: how many of the latest; None keeps all.
      keep_best: how many of the best.
      mode: whether the best is the "min" or the "max".
      values: the metric of each step that has one; NaN is none.
    """

    keep: int | None
    keep_best: int
    mode: str
    values: dict[int, float] = dataclasses.field(default_factory=dict)

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Whether each checkpoint (anything with a `step`) stays: orbax's interface, which has protocols as types."""
        del context  # Empty in orbax.
        steps = sorted(info.step for info in checkpoints)
        stay = set(steps if self.keep is None else steps[-self.keep :])
        measured = [step for step in steps if not math.isnan(self.values.get(step, math.nan))]
        measured.sort(key=self.values.__getitem__, reverse=self.mode == "max")
        stay.update(measured[: self.keep_best])
        return [info.step in stay for info in checkpoints]


class Checkpointer:
    """Saves and restores the checkpoints of one run. Every process of the run makes one and calls it alike.

    `save` returns as soon as the arrays are copied off the devices, so the train step may donate its state at once; the
    files are written by a background thread into a temporary folder, which is renamed when it is complete. A process
    that is killed leaves at most a temporary folder, and the next start deletes it.

    A damaged checkpoint is reported, and once an older one has been restored in its place it is renamed to
    "checkpoint_<step>.damaged" (nothing of a user's is deleted unasked), so that the run can save that step again.

    Args:
      model_dir: MODEL_DIR; made where it does not exist (`famjax.training.model_dir.prepare_model_dir` checks it).
      config: when to save, what to keep.
      model: the model's settings, stored with every checkpoint and compared on restore.
      report: called with one line for each damaged checkpoint; a logged warning where not given.
    """

    def __init__(
        self,
        model_dir: str | os.PathLike[str],
        config: CheckpointConfig,
        model: TransformerConfig,
        report: Callable[[str], None] = logging.warning,
    ):
        self._model_dir = files.absolute_path(model_dir)
        self._config = config
        self._model = model
        self._report = report
        self._policy = LatestAndBest(config.keep, config.keep_best, config.best_mode, self._read_metrics())
        self._saving = -1
        self._base: BaseReference | None = None
        if jax.process_index() == 0:
            files.remove_temporary(self._model_dir)
        all_agree(True)  # No process begins before that is done.
        self._manager = ocp.CheckpointManager(
            self._model_dir,
            options=ocp.CheckpointManagerOptions(
                step_prefix=files.PREFIX,
                preservation_policy=self._policy,
                # orbax calls it when all items are written and the folder has not got its final name yet.
                async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
            ),
        )

    def latest_step(self) -> int | None:
        """The latest checkpoint's step, one still being written included."""
        return self._manager.latest_step()

    def refer_to(self, base: BaseReference) -> None:
        """Writes this reference into all checkpoints from now on: the states to be saved lack the base's parameters."""
        self._base = base

    def save(
        self,
        step: int,
        state: State,
        data_state: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
        force: bool = False,
    ) -> bool:
        """Starts to save a checkpoint, where this is a step to save at. Waits first for the one being written.

        Args:
          step: training steps done.
          state: the train state; its buffers may be donated as soon as this returns.
          data_state: the data iterator's state (JSON), the same on every process.
          metrics: of an evaluation of this very state, by name; None where there was none.
          force: save also where `step` is no multiple of the period.

        Returns:
          Whether a save was started; False off the period, and for a step that has a checkpoint already.

        Raises:
          CheckpointError: this save cannot start, or the one before it failed (a full disk, say).
          ConfigError: `metrics` lack the metric that decides which checkpoints are best.
        """
        if not force and step % self._config.period:
            return False
        self.wait()
        if step in self._manager.all_steps():
            return False
        items: dict[str, ocp.args.CheckpointArgs] = {
            files.STATE: ocp.args.StandardSave(_without_empty(state)),
            files.DATA_STATE: ocp.args.JsonSave(dict(data_state)),
            files.MODEL: ocp.args.JsonSave(model_settings.to_json(self._model)),
        }
        if self._base is not None:
            items[files.BASE] = ocp.args.JsonSave(dataclasses.asdict(self._base))
        if metrics is not None:
            values = {name: float(value) for name, value in metrics.items()}
            self._note_metric(step, values)
            items[files.EVALUATION] = ocp.args.JsonSave(values)
        self._saving = step
        try:
            return self._manager.save(step, args=ocp.args.Composite(**items), force=True)
        except jax.errors.JaxRuntimeError:
            raise  # The step whose arrays are saved, not the files.
        except Exception as error:  # orbax and tensorstore raise ValueError, Exception, ... for a disk that is full.
            raise self._save_failed(error) from error

    def restore(self, abstract_state: State) -> Restored | None:
        """The latest whole checkpoint, on the devices that `abstract_state` names; None where there is none.

        Args:
          abstract_state: jax.ShapeDtypeStruct leaves with shardings; on any number of devices.

        Raises:
          CheckpointError: the checkpoint is of another model or another kind of train state (named setting by setting),
            all checkpoints are damaged (each is named), or some processes of the job cannot read what others can.
        """
        self.wait()
        causes: list[str] = []
        damaged: list[files.StepFolder] = []
        for folder in files.step_folders(self._model_dir):
            restored, cause = self._try(folder, abstract_state)
            if restored is not None:
                self._move_aside(damaged)
                return restored
            causes.append(f"{folder.path}: {cause}")
            damaged.append(folder)
            self._report(f"Damaged checkpoint {causes[-1]}; trying the one before it.")
        if causes:
            raise CheckpointError(files.all_damaged(causes))
        return None

    def wait(self) -> None:
        """Returns when the checkpoint being written is complete; CheckpointError where it failed."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:  # The writing thread passes on whatever it met, tensorstore's errors too.
            raise self._save_failed(error) from error

    def close(self) -> None:
        """Waits for the checkpoint being written and ends the background threads."""
        try:
            self.wait()
        except CheckpointError:
            with contextlib.suppress(Exception):  # It meets the same failure again, in each of its threads.
                self._manager.close()
            raise
        self._manager.close()

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _seal(self) -> None:
        if jax.process_index() == 0:
            files.seal(self._model_dir, self._saving)

    def _save_failed(self, error: Exception) -> CheckpointError:
        return CheckpointError(
            f"{self._model_dir / f'{files.PREFIX}_{self._saving}'} could not be written: {_one_line(error)}. Free "
            f"space, or set {FLAG} to a folder on another disk."
        )

    def _note_metric(self, step: int, metrics: Mapping[str, float]) -> None:
        name = self._config.best_metric
        if not self._config.keep_best or name is None:
            return
        if name not in metrics:
            raise ConfigError(
                f"CheckpointConfig.best_metric = {name!r} is no metric of this run's evaluation; it has: "
                f"{', '.join(sorted(metrics))}."
            )
        self._policy.values[step] = metrics[name]

    def _read_metrics(self) -> dict[int, float]:
        """The deciding metric of the checkpoints that are there; one that cannot be read counts as none."""
        values: dict[int, float] = {}
        for folder in files.step_folders(self._model_dir):
            try:
                metrics = files.read_json(folder.path, files.EVALUATION)
            except (OSError, ValueError):
                continue  # No evaluation at this step, or a damaged one: `restore` reports damage.
            if self._config.best_metric in metrics:
                values[folder.step] = float(metrics[self._config.best_metric])
        return values

    def _try(self, folder: files.StepFolder, abstract_state: State) -> tuple[Restored | None, str]:
        """The restored checkpoint, or None and why it is damaged."""
        # One process reads all files for the checksums; all processes follow its verdict.
        cause = files.damage(folder.path) if jax.process_index() == 0 else None
        if not all_agree(cause is None):
            return None, cause or "found damaged by process 0"
        self._require_same(folder, abstract_state)
        restored, cause = self._read(folder, abstract_state)
        # What one host alone cannot read is whole; no process may go on from another checkpoint than the others.
        if not all_agree(restored is not None) and restored is not None:
            raise CheckpointError(
                f"{folder.path} is read by process {jax.process_index()}, but not by every process of the job. The "
                "same command tries it again."
            )
        return restored, cause or ""

    def _read(self, folder: files.StepFolder, abstract_state: State) -> tuple[Restored | None, str | None]:
        """What this process reads of a checkpoint, or None and why it cannot."""
        try:
            state = self._manager.restore(
                folder.step,
                args=ocp.args.Composite(**{files.STATE: ocp.args.StandardRestore(_without_empty(abstract_state))}),
            )[files.STATE]
            data_state = files.read_json(folder.path, files.DATA_STATE)
        except jax.errors.JaxRuntimeError:
            raise  # The devices (out of memory), not the files.
        except Exception as error:  # noqa: BLE001  (orbax and tensorstore raise bare Exception for unreadable files)
            return None, _one_line(error)
        return Restored(folder.step, _with_empty(state, abstract_state), data_state, read_reference(folder)), None

    def _require_same(self, folder: files.StepFolder, abstract_state: State) -> None:
        """Raises CheckpointError where the checkpoint is whole but of another model or another kind of train state."""
        saved = model_settings.from_json(files.read_json(folder.path, files.MODEL), str(folder.path))
        if different := model_settings.differences(saved, self._model):
            raise CheckpointError(
                f"{folder.path} is of another model: {'; '.join(different)}. Set the model as it was, or start a new "
                f"run in another {FLAG} (with INITIAL_CHECKPOINT_PATH to take parameters from this one)."
            )
        stored, wanted = files.stored_arrays(folder.path), files.array_paths(abstract_state)
        if _ROWS in stored and _ROWS in wanted and stored[_ROWS].shape != wanted[_ROWS].shape:
            (before,), (now,) = stored[_ROWS].shape, wanted[_ROWS].shape
            raise CheckpointError(
                f"{folder.path} carries the documents of {before} rows, and this run has {now}: a run that streams "
                f"documents keeps its batch. Set --gin.BATCH_SIZE={before}, or start a new run in another {FLAG}."
            )
        if different := _state_differences(stored, wanted):
            raise CheckpointError(
                f"{folder.path} has another train state (another optimizer, curriculum, frozen parameters or streamed "
                f"rows?): {files.shortened(different)}. Set them as they were, or start a new run in another {FLAG}."
            )

    def _move_aside(self, damaged: Sequence[files.StepFolder]) -> None:
        if not damaged:
            return
        if jax.process_index() == 0:
            for folder in damaged:
                aside = folder.path.parent / f"{folder.path.name}{files.DAMAGED_SUFFIX}"
                if aside.exists():
                    aside.rmtree()
                folder.path.rename(aside)
                self._report(f"The damaged checkpoint is now {aside}; delete it when you do not need it.")
        all_agree(True)  # No process lists the folders before they are renamed.
        for folder in damaged:
            self._policy.values.pop(folder.step, None)
        self._manager.reload()


def _without_empty(tree: State) -> State:
    """The tree with None for each array of size zero (a FAM of no rows [L, 0, D]), which orbax cannot store."""
    return jax.tree.map(lambda leaf: None if 0 in leaf.shape else leaf, tree)


def _with_empty(tree: State, abstract: State) -> State:
    """`tree` with the arrays that `_without_empty` took out made again, as `abstract` describes them."""
    leaves = iter(jax.tree.leaves(tree))
    return jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding) if 0 in leaf.shape else next(leaves),
        abstract,
    )


def _state_differences(
    stored: Mapping[str, jax.ShapeDtypeStruct], wanted: Mapping[str, jax.ShapeDtypeStruct]
) -> list[str]:
    only_stored = [f"{path}: only in the checkpoint" for path in stored if path not in wanted]
    only_wanted = [f"{path}: only in this run" for path in wanted if path not in stored]
    unequal = [
        f"{path}: checkpoint {describe(stored[path])}, this run {describe(wanted[path])}"
        for path in wanted
        if path in stored and describe(stored[path]) != describe(wanted[path])
    ]
    return unequal + only_wanted + only_stored


def describe(array: jax.ShapeDtypeStruct) -> str:
    """Its dtype and shape, as float32[2, 8]."""
    return f"{np.dtype(array.dtype).name}{list(array.shape)}"


def _one_line(error: BaseException) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= _CAUSE_LENGTH else f"{text[:_CAUSE_LENGTH]}..."
