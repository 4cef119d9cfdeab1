"""The run that is launched: its command line, the user's own gin files in it, and the buckets that it refers to."""

import dataclasses
import importlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from famjax.configuration.arguments import Arguments
from famjax.configuration.files import gin_root
from famjax.configuration.loading import Configuration, load
from famjax.errors import ConfigError
from famjax.pods.config import MeshConfig

# Where the user's own gin files are, and where buckets are mounted, in the container of a run.
GIN_FOLDER = "/etc/famjax/gin"
BUCKETS_FOLDER = "/gcs"
# Exit codes after which another start ends the same way: configuration, and numbers that are not finite.
FINAL_CODES = (2, 5)
# The exit code of a run that was stopped and has saved: it is started again, and not counted as a failure.
STOPPED_CODE = 143

# Run modes that several hosts share; the others are one process.
SHARED_MODES = ("train", "eval", "scan")
# Of a scan that is not in parts: JobSet numbers the hosts of a slice as an Indexed Job numbers the parts of a scan.
WHOLE_SCAN = ("SCAN_SHARD", "0/1")

_NUM_SLICES = "MeshConfig.num_slices"
_IN_BUCKET = re.compile(r"(?:gs:/|/gcs)/([^/]+)")
# The fields of a job in which stands where its results go.
_OUTPUTS = ("model_dir", "output_dir", "output")


@dataclasses.dataclass(frozen=True)
class LaunchedJob:
    """A run that loads, and what has to go with it.

    Attributes:
      run_mode: its mode.
      arguments: those of `famjax`, as the user gave them.
      names_elsewhere: what each gin file of the arguments is called on another machine.
      gin_files: text of each gin file that is not famjax's own, by its name there.
      buckets: each bucket that its settings mention, with one path in it.
      mounted: those of them that are mentioned as /gcs/BUCKET.
      output: where its results go; empty: to its standard output.
      output_setting: the name of the setting that says so.
      configuration: its settings.
    """

    run_mode: str
    arguments: tuple[str, ...]
    names_elsewhere: Mapping[str, str]
    gin_files: Mapping[str, str]
    buckets: Mapping[str, str]
    mounted: tuple[str, ...]
    output: str
    output_setting: str
    configuration: Configuration

    @property
    def command(self) -> tuple[str, ...]:
        """Program and arguments, with gin files where the user has them."""
        return ("famjax", *self.arguments)

    @property
    def remote_command(self) -> tuple[str, ...]:
        """The same for another machine, where the user's gin files lie in GIN_FOLDER."""
        kept = [argument for argument in self.arguments if not argument.startswith("--gin_search_paths=")]
        files = {f"--gin_file={here}": f"--gin_file={there}" for here, there in self.names_elsewhere.items()}
        kept = [files.get(argument, argument) for argument in kept]
        return ("famjax", *kept, *([f"--gin_search_paths={GIN_FOLDER}"] if self.gin_files else []))


def read_job(parsed: Arguments, job_module: str, job_class: str, num_slices: int = 1) -> LaunchedJob:
    """Loads a run's settings, and finds what it needs elsewhere.

    Args:
      parsed: the run's flags.
      job_module: where the class of its settings is.
      job_class: its name.
      num_slices: that the launch joins; the run is told, where its settings leave that open.

    Raises:
      ConfigError: the settings do not load, a flag is for a run on this machine alone, the run is set up for another
        number of slices, or a gin file cannot be had elsewhere under the name it is asked for.
    """
    _check_flags(parsed)
    cls = getattr(importlib.import_module(job_module), job_class)
    configuration = load(cls, parsed.gin_files, parsed.gin_bindings, parsed.gin_search_paths)
    mesh = getattr(configuration.job, "mesh", None)
    if isinstance(mesh, MeshConfig) and mesh.num_slices != num_slices:
        if mesh.num_slices > 1:
            raise ConfigError(
                f"MeshConfig.num_slices = {mesh.num_slices}, and the launch has --num_slices={num_slices}; leave out "
                "the first, which follows from the second."
            )
        parsed = dataclasses.replace(parsed, gin_bindings=(*parsed.gin_bindings, (_NUM_SLICES, str(num_slices))))
        configuration = load(cls, parsed.gin_files, parsed.gin_bindings, parsed.gin_search_paths)
    names, texts = _files_elsewhere(configuration.bindings.files, parsed.gin_files)
    mentioned = list(strings(configuration.job))
    buckets = {match[1]: text for text in mentioned if (match := _IN_BUCKET.match(text))}
    mounted = {match[1] for text in mentioned if text.startswith(BUCKETS_FOLDER) and (match := _IN_BUCKET.match(text))}
    setting = next(name for name in _OUTPUTS if hasattr(configuration.job, name))
    output = str(getattr(configuration.job, setting))
    return LaunchedJob(
        run_mode=parsed.run_mode,
        arguments=_arguments(parsed),
        names_elsewhere=names,
        gin_files=texts,
        buckets=buckets,
        mounted=tuple(sorted(mounted)),
        output="" if output == "-" else output,
        output_setting=f"{job_class}.{setting}",
        configuration=configuration,
    )


def check_output(job: LaunchedJob, buckets: tuple[str, ...]) -> None:
    """Refuses results on the disk of a machine that is gone when the run has ended.

    Raises:
      ConfigError: the results do not go to a bucket, or, for a scan, which appends to its files, to one that is not
        mounted.
    """
    root = BUCKETS_FOLDER if job.run_mode == "scan" else "gs:/"
    if job.output and not _IN_BUCKET.match(job.output):
        raise ConfigError(
            f"{job.output_setting} = {job.output!r} is on the machine's own disk, which is gone when the run ends. "
            f"Set it to a folder in a bucket: '{root}/{buckets[0]}/...'."
        )
    if job.run_mode == "scan" and not job.output.startswith(BUCKETS_FOLDER):
        mounted = job.output.replace("gs:/", BUCKETS_FOLDER, 1)
        raise ConfigError(
            f"{job.output_setting} = {job.output!r}: a scan appends to its files, for which the bucket has to be "
            f"mounted; set it to {mounted!r}."
        )


def _check_flags(parsed: Arguments) -> None:
    if parsed.dry_run:
        raise ConfigError("--dry_run is for this machine: leave out `launch`, or see the files that `render` writes.")
    for name in ("coordinator_address", "process_count", "process_index"):
        if getattr(parsed, name) is not None:
            raise ConfigError(f"--{name}: the processes of a launched run find each other; leave it out.")


def _arguments(parsed: Arguments) -> tuple[str, ...]:
    """The flags of a run, in one spelling."""
    return (
        f"--run_mode={parsed.run_mode}",
        *(f"--gin_file={name}" for name in parsed.gin_files),
        *([f"--gin_search_paths={','.join(map(str, parsed.gin_search_paths))}"] if parsed.gin_search_paths else []),
        *(f"--gin.{name}={value}" for name, value in parsed.gin_bindings),
        *([f"--verbosity={parsed.verbosity}"] if parsed.verbosity != -1 else []),
    )


def _files_elsewhere(files: Mapping[str, Path], asked: tuple[str, ...]) -> tuple[dict[str, str], dict[str, str]]:
    """What each `--gin_file` is called on another machine, and the text of each file that has to go there.

    Args:
      files: all gin files of a run, by the names that flags and includes ask for.
      asked: the names in flags.
    """
    names: dict[str, str] = {}
    texts: dict[str, str] = {}
    root = gin_root().resolve()
    for name, path in files.items():
        of_famjax = path.resolve().is_relative_to(root)
        elsewhere = str(path.resolve().relative_to(root)) if of_famjax else _relative(name)
        if name in asked:
            names[name] = elsewhere
        elif elsewhere != name:
            raise ConfigError(f"include {name!r}: another machine has no such path; include it as {elsewhere!r}.")
        if not of_famjax:
            text = path.read_text(encoding="utf-8")
            if texts.setdefault(elsewhere, text) != text:
                raise ConfigError(f"{name}: another gin file of this run is called {elsewhere} too; rename one.")
    return names, texts


def _relative(name: str) -> str:
    """A path below the working directory stays; of another one its last part."""
    path = PurePosixPath(name)
    return path.name if path.is_absolute() or ".." in path.parts else str(path)


def strings(value: Any) -> Iterator[str]:
    """Every string in a job."""
    if isinstance(value, str):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from strings(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings(item)
