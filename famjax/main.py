"""famjax: the command line. Parses flags and gin files, and makes one call into a run mode."""

import dataclasses
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from absl import logging

from famjax.configuration import operative
from famjax.configuration.arguments import Arguments, parse_arguments
from famjax.configuration.dry_run import describe_run
from famjax.configuration.loading import load
from famjax.errors import CellsFailed, ConfigError, DataError, FamjaxError, Stopped
from famjax.platforms import leave_absent_tpus
from famjax.pods.hosts_config import HostsConfig

USAGE = """\
famjax trains and evaluates language models with working memory (TransformerFAM), driven by gin.

  famjax --gin_file=FILE [--gin_file=FILE ...] [--gin.NAME=VALUE ...] [--run_mode=MODE] [--dry_run]
  famjax launch render|submit ... --gin_file=FILE ...    on TPU slices or a GPU cluster (famjax launch --help)

  --run_mode=MODE           train (the default), eval, infer (answer prompts), scan (evaluate a grid of checkpoints,
                            memories, tasks and lengths), report (of scans), attention (pictures of it), merge (a
                            finetuning's checkpoint with its base) or plan (what a training takes of a TPU slice, found
                            out on a machine without TPU)
  --gin_file=FILE           may be repeated, in any order; looked for here, in the search paths, among famjax's own
  --gin_search_paths=A,B    further folders with gin files
  --gin.NAME=VALUE          sets a macro or a parameter, after the files; strings keep their quotes: "'/tmp/run'"
  --dry_run                 prints every setting and where it comes from, parameter count and batch shapes, and stops
  --slice=NAME              plan: for this slice: v5e-256, v5p-4x4x8, v4-64, v6e-8, or GPUs: h100-64
  --num_slices=N            plan: for so many of them; the job's NUM_SLICES, where it is not given
  --plan.search             plan: try batches, microbatches, remat policies and meshes, and say which is best
  --plan.trials=N           plan: compile at most so many (12) while searching, or for changes that make it fit
  --plan.rows=N             plan: rows of prefill and decode; one a data-parallel chip, where it is not given
  --plan.json=FILE          plan: write it as JSON too ('-': to the standard output, in place of the page)
  --plan.save=FOLDER        plan: save the compiled train steps, for --gin.COMPILED_STEPS="'FOLDER'" of the training

  --verbosity=N             -1 warnings (the default), 0 information, 1 debugging and tracebacks

  --coordinator_address=HOST:PORT --process_count=N --process_index=I
                            train, eval or scan in N processes (hosts), of which this is number I, from 0, and process 0
                            listens at HOST:PORT. On TPU pods, GKE and Slurm they are found without these flags;
                            --process_count=1 says that this process is by itself

Train a tiny FAM model on the sources of this Python's standard library, then evaluate it:

  famjax --gin_file=runs/pretrain.gin --gin_file=models/tiny.gin --gin_file=memory/fam.gin \\
      --gin.MODEL_DIR="'/tmp/run'" --gin.MIXTURE_OR_TASK_NAME="'documents'" \\
      --gin.TASK_FEATURE_LENGTHS="{'targets': 1024}" --gin.BLOCK_SIZE=64 --gin.FAM_LENGTH=8 --gin.TRAIN_STEPS=100

  famjax --run_mode=eval --gin_file=runs/eval.gin --gin.CHECKPOINT_PATH="'/tmp/run'" \\
      --gin.EVAL_OUTPUT_DIR="'/tmp/run/eval'" --gin.MIXTURE_OR_TASK_NAME="'documents'" \\
      --gin.TASK_FEATURE_LENGTHS="{'targets': 4096}"

  echo '{"prompt": "import "}' | famjax --run_mode=infer --gin_file=runs/infer.gin --gin.CHECKPOINT_PATH="'/tmp/run'"

Exit codes: 0 finished, 2 configuration, 3 data, 4 checkpoint, 5 numerics, 6 some cells of a scan failed, 7 a process
of the job is missing, lost or hangs (run it again), 130 stopped with Ctrl-C before there was anything to save, 143
stopped and saved (run it again).
"""


@dataclasses.dataclass(frozen=True)
class RunMode:
    """What `--run_mode` chooses. Modules are named, not imported: a wrong setting is reported before jax is loaded.

    Attributes:
      job_module: where the job's settings are.
      job_class: the dataclass in it that gin fills in.
      module: where the mode is.
      function: the function in it that takes the job.
      folder: the job's field with the folder that all its processes see; "" for a mode that runs in one process.
    """

    job_module: str
    job_class: str
    module: str
    function: str
    folder: str = ""


RUN_MODES = {
    "train": RunMode("famjax.training.config", "TrainJob", "famjax.training.loop", "train", "model_dir"),
    "eval": RunMode("famjax.evaluation.config", "EvalJob", "famjax.evaluation.evaluate", "evaluate", "output_dir"),
    "infer": RunMode("famjax.inference.job_config", "InferJob", "famjax.inference.infer", "infer"),
    "scan": RunMode("famjax.evaluation.scan.config", "ScanJob", "famjax.evaluation.scan.running", "scan", "output_dir"),
    "attention": RunMode("famjax.inference.attention_config", "AttentionJob", "famjax.inference.attention_map", "draw"),
    "merge": RunMode("famjax.training.merge_config", "MergeJob", "famjax.training.merge", "merge"),
    "plan": RunMode("famjax.training.config", "TrainJob", "famjax.planning.running", "plan"),
    "report": RunMode("famjax.evaluation.report.config", "ReportJob", "famjax.evaluation.report.writing", "report"),
}


_OF_TRAININGS = (
    "Plans are of trainings, as of --gin_file=runs/pretrain.gin. A training's page has prefill and decode as well; "
    "other runs have no plan."
)
# What a shell gives a program that SIGINT ended.
_INTERRUPTED = 130
_MEMORY_HINTS = {
    "train": "Lower --gin.BATCH_SIZE or --gin.TASK_FEATURE_LENGTHS, raise --gin.NUM_MICROBATCHES, or set "
    "--gin.TransformerConfig.remat_policy=\"'full'\".",
    "eval": "Lower --gin.BATCH_SIZE, --gin.TASK_FEATURE_LENGTHS or --gin.EvalJob.lengths.",
    "infer": "Lower --gin.BATCH_SIZE, --gin.InferJob.chunk_blocks or --gin.MemoryOverrides.block_size.",
    "scan": "Lower --gin.BATCH_SIZE, --gin.ScanJob.chunk_blocks or --gin.MemoryOverrides.block_size.",
    "attention": "Lower --gin.MemoryOverrides.block_size, or draw fewer blocks (--gin.BLOCKS).",
    "merge": "Raise --gin.MODEL_PARALLELISM.",
    "plan": "It is this machine's own memory: the compiler needs some GB for a large model.",
    "report": "It needs no device.",
}


def main(arguments: Sequence[str]) -> int:
    """Does what the arguments say and returns the exit code.

    A user's mistake is told in its own words on stderr, without a traceback (with one from --verbosity=1 on).

    Args:
      arguments: the command line after the program's name.
    """
    show_traceback, run_mode = False, ""
    try:
        if not arguments:
            raise ConfigError(USAGE)
        if arguments[0] == "launch":
            _launch(arguments[1:])
        else:
            parsed = parse_arguments(arguments, list(RUN_MODES))
            show_traceback, run_mode = parsed.verbosity >= 1, parsed.run_mode
            _run(parsed)
        sys.stdout.flush()
    except FamjaxError as error:
        if show_traceback:
            traceback.print_exc()
        else:
            sys.stderr.write(f"{error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        if show_traceback:
            traceback.print_exc()
        else:
            sys.stderr.write("Interrupted.\n")
        return _INTERRUPTED
    except BrokenPipeError:
        # What is left in Python's buffer would be written at exit, and fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.stderr.write("The program that read the standard output has ended.\n")
        return DataError.exit_code
    except RuntimeError as error:
        if show_traceback or "RESOURCE_EXHAUSTED" not in str(error):
            raise
        sys.stderr.write(f"Out of memory: {str(error).splitlines()[0]}\n  {_MEMORY_HINTS[run_mode]}\n")
        return ConfigError.exit_code
    return 0


def _launch(arguments: Sequence[str]) -> None:
    from famjax.launch.command import launch

    launch(arguments, RUN_MODES)


def _run(arguments: Arguments) -> None:
    if arguments.help:
        sys.stdout.write(USAGE)
        return
    mode = RUN_MODES[arguments.run_mode]
    logging.set_verbosity(arguments.verbosity)
    job_class = getattr(importlib.import_module(mode.job_module), mode.job_class)
    try:
        configuration = load(job_class, arguments.gin_files, arguments.gin_bindings, arguments.gin_search_paths)
    except ConfigError as error:
        if arguments.run_mode == "plan" and " lacks " in str(error):
            raise ConfigError(f"{error}\n{_OF_TRAININGS}") from error
        raise
    if arguments.dry_run:
        sys.stdout.write(describe_run(configuration))
        return
    function = getattr(importlib.import_module(mode.module), mode.function)
    if arguments.plan is not None:
        function(configuration.job, arguments.plan)
        return
    operative.remember(configuration)
    _connect(arguments, configuration.job, mode)
    function(configuration.job)


def _connect(arguments: Arguments, job: Any, mode: RunMode) -> None:
    """Connects the processes of a job of several, which the flags or the environment tell of.

    Raises:
      ConfigError: the mode runs in one process.
      HostsError: some are missing.
    """
    place = (arguments.coordinator_address, arguments.process_count, arguments.process_index)
    if arguments.run_mode == "report" and place == (None, None, None):
        return  # It needs no jax.
    from famjax.pods.connecting import connect, find_job

    hosts = job.hosts if mode.folder else HostsConfig()
    address = find_job(*place, hosts.connect_seconds)
    if address is None:
        return
    if not mode.folder:
        several = ", ".join(name for name, other in RUN_MODES.items() if other.folder)
        raise ConfigError(
            f"--run_mode={arguments.run_mode} runs in one process, and {address.source} says that there are "
            f"{address.count}. Several processes share: {several}. Start it once, with --process_count=1."
        )
    from famjax.training.checkpoint_files import absolute_path

    _must_leave_at_once.append(True)
    connect(address, hosts, absolute_path(getattr(job, mode.folder)))


# Filled by a process of a job of several.
_must_leave_at_once: list[bool] = []


def run() -> None:
    """The console command. Like `python -m`, it finds modules in the working directory (MIXTURE_OR_TASK_MODULE)."""
    sys.path.insert(0, "")
    leave_absent_tpus()
    try:
        code = main(sys.argv[1:])
    except Exception:
        if not _must_leave_at_once:
            raise
        traceback.print_exc()
        code = 1
    if _must_leave_at_once and code not in (0, CellsFailed.exit_code, Stopped.exit_code):
        # At its end the interpreter would have jax wait for the others, which may wait for this process.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    run()
