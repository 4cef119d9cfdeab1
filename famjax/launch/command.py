"""`famjax launch render|submit`: the command line."""

import dataclasses
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, get_args, get_origin, runtime_checkable

from absl import flags

from famjax.configuration.arguments import Arguments, parse_arguments
from famjax.configuration.loading import load
from famjax.configuration.origin import nearest
from famjax.configuration.registry import parameter_meanings, parameter_types
from famjax.errors import ConfigError
from famjax.launch.config import NEEDED_BY, PLATFORMS, TAKEN_BY, LaunchConfig
from famjax.launch.data import check_data, standard_library_tasks
from famjax.launch.devices import check_devices
from famjax.launch.job import read_job
from famjax.launch.quoting import on_one_line
from famjax.launch.rendered import Rendered
from famjax.launch.rendering import render

_ACTIONS = ("render", "submit")
_USAGE = """\
famjax launch writes what a platform needs for a run, and submits it.

  famjax launch render FLAGS RUN    writes the files and shows the command that would submit them
  famjax launch submit FLAGS RUN    checks the run as --dry_run does, and the buckets (and, with --plan, whether it
                                    fits); writes the files; submits

RUN is the run itself as `famjax` takes it: --run_mode, --gin_file, --gin.NAME=VALUE. FLAGS say where it runs:

{flags}  --launch_file         a gin file with these settings, as LaunchConfig.image = '...'; may be repeated; flags win

Train the 1B model on two slices of 256 chips, which Kueue admits when they are free:

  famjax launch submit --platform=gke --name=fam-1b --slice=v5e-256 --num_slices=2 --capacity=spot --queue=tpu \\
      --image=europe-west4-docker.pkg.dev/my-project/famjax/famjax:0.1.0 --bucket=gs://my-runs \\
      --gin_file=runs/pretrain.gin --gin_file=models/1b.gin --gin_file=memory/fam.gin \\
      --gin.MODEL_DIR="'gs://my-runs/fam-1b'" --gin.MIXTURE_OR_TASK_NAME="'documents'" \\
      --gin.Documents.paths="['/gcs/my-runs/books/*.jsonl.gz']" \\
      --gin.TASK_FEATURE_LENGTHS="{{'targets': 8192}}" --gin.TRAIN_STEPS=100000 --gin.BATCH_SIZE=512
"""


@runtime_checkable
class RunMode(Protocol):
    """What a launch has to know of a run mode: where the class of its settings is."""

    @property
    def job_module(self) -> str:
        """The module."""

    @property
    def job_class(self) -> str:
        """The class in it."""


def launch(arguments: Sequence[str], run_modes: Mapping[str, RunMode]) -> None:
    """Does what the arguments after `famjax launch` say.

    Args:
      arguments: those.
      run_modes: by the value of `--run_mode`.

    Raises:
      ConfigError: a setting of the launch or of the run is wrong, or the platform's client refused.
    """
    action, *rest = arguments or [""]
    if action in ("-h", "--help") or {"-h", "--help"} & set(rest):
        sys.stdout.write(usage())
        return
    if action not in _ACTIONS:
        hint = f"{nearest(action, _ACTIONS)} (famjax launch --help)"
        raise ConfigError(f"famjax launch {action}: expected {' or '.join(_ACTIONS)}.{hint}" if action else usage())
    config, parsed = _parse(rest, list(run_modes))
    if config.plan and action == "render":
        raise ConfigError("--plan is a check of `submit`; without submitting, plan with famjax --run_mode=plan.")
    mode = run_modes[parsed.run_mode]
    job = read_job(parsed, mode.job_module, mode.job_class, config.num_slices)
    rendered = render(config, job)
    check_data(job, config.buckets)
    check_devices(config, job.configuration.job)
    for task in standard_library_tasks(job.configuration.job):
        sys.stdout.write(
            f"note: no Documents.paths: the task {task!r} reads the sources of Python's standard library\n"
        )
    if action == "submit":
        from famjax.launch.submitting import check_before_submitting

        check_before_submitting(config, job)
    write(config, rendered)
    if action == "submit":
        from famjax.launch.submitting import submit

        submit(rendered)
    else:
        sys.stdout.write(f"submit with:\n  {on_one_line(rendered.command)}\n")
    for purpose, command in rendered.next_steps:
        sys.stdout.write(f"{purpose}:\n  {command}\n")


def write(config: LaunchConfig, rendered: Rendered) -> None:
    """Writes the files to the launch's folder, and says so."""
    folder = Path(config.folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in rendered.files.items():
        done = "overwrote" if (folder / name).exists() else "wrote"
        (folder / name).write_text(text, encoding="utf-8")
        sys.stdout.write(f"{done} {folder / name}\n")


def usage() -> str:
    """The help text, with every setting of a launch."""
    return _USAGE.format(flags="".join(_flag_help(field) for field in dataclasses.fields(LaunchConfig)))


def _flag_help(field: Any) -> str:
    meaning = parameter_meanings(LaunchConfig)[field.name]
    taken, needed = TAKEN_BY.get(field.name, PLATFORMS), NEEDED_BY.get(field.name, ())
    notes = []
    if taken != PLATFORMS:
        notes.append(", ".join(taken))
    if needed:
        notes.append("required" if needed == taken else f"required for {', '.join(needed)}")
    elif field.default not in ("", (), False):
        notes.append(f"default {field.default}")
    text = f"{meaning} [{'; '.join(notes)}]" if notes else meaning
    wrapped = textwrap.wrap(text, width=94)
    first, *rest = (f"{'--' + field.name:<22}{wrapped[0]}", *wrapped[1:])
    return "".join([f"  {first}\n", *(f"  {'':<22}{line}\n" for line in rest)])


def _parse(arguments: Sequence[str], run_modes: Sequence[str]) -> tuple[LaunchConfig, Arguments]:
    """Splits the flags into the launch and the run."""
    values = flags.FlagValues()
    for name, hint in parameter_types(LaunchConfig).items():
        _define(values, name, hint)
    flags.DEFINE_multi_string("launch_file", [], "A gin file with LaunchConfig.", flag_values=values)
    parsed = parse_arguments(arguments, run_modes, values)
    given = [
        (f"LaunchConfig.{name}", repr(values[name].value))
        for name in parameter_types(LaunchConfig)
        if values[name].present
    ]
    try:
        config = load(LaunchConfig, values.launch_file, given, parsed.gin_search_paths).job
    except ConfigError as error:
        # A flag's name stands in the message already.
        raise ConfigError(re.sub(r"\n  (\w+) is set at --gin\.LaunchConfig\.\1\b", "", str(error))) from error
    return config, parsed


def _define(values: flags.FlagValues, name: str, hint: Any) -> None:
    if hint is bool:
        flags.DEFINE_bool(name, None, "", flag_values=values)
    elif hint is int:
        flags.DEFINE_integer(name, None, "", flag_values=values)
    elif get_origin(hint) is tuple:
        flags.DEFINE_multi_string(name, None, "", flag_values=values)
    elif choices := [choice for choice in get_args(hint) if isinstance(choice, str)]:
        flags.DEFINE_enum(name, None, choices, "", flag_values=values)
    else:
        flags.DEFINE_string(name, None, "", flag_values=values)
