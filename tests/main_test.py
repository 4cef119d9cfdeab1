"""famjax.main: the command line, its exit codes, and how soon it answers."""

import os
import shlex
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from command_line import COMPLETE
from famjax import errors, main
from famjax.configuration import operative
from famjax.training.config import TrainJob

ROOT = Path(__file__).parent.parent


def in_subprocess(arguments, folder):
    """Runs `python -m famjax.main` from another folder; returns the process and its seconds."""
    started = time.monotonic()
    process = subprocess.run(
        [sys.executable, "-m", "famjax.main", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    return process, time.monotonic() - started


@pytest.fixture
def jobs(monkeypatch):
    """The jobs that a stand-in for the run mode `train` is given."""
    given = []
    module = types.ModuleType("stand_in_for_a_run_mode")
    module.train = given.append
    monkeypatch.setitem(sys.modules, module.__name__, module)
    mode = main.RunMode("famjax.training.config", "TrainJob", module.__name__, "train")
    monkeypatch.setitem(main.RUN_MODES, "train", mode)
    yield given
    operative._current.clear()


def test_one_call_with_the_job(jobs):
    """The entry point hands over what gin says, and remembers it for config.gin."""
    assert main.main(COMPLETE) == 0
    assert len(jobs) == 1
    assert isinstance(jobs[0], TrainJob)
    assert jobs[0].total_steps == 10
    assert operative._current[0].job is jobs[0]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError, 2),
        (errors.DataError, 3),
        (errors.CheckpointError, 4),
        (errors.NumericsError, 5),
        (errors.HostsError, 7),
        (errors.Stopped, 143),
    ],
)
def test_exit_codes(jobs, monkeypatch, capsys, error, code):
    """Job schedulers decide on them whether to run the job again."""

    def fail(job):
        raise error("what happened")

    monkeypatch.setattr(sys.modules["stand_in_for_a_run_mode"], "train", fail)
    assert main.main(COMPLETE) == code
    assert capsys.readouterr().err == "what happened\n"


def test_a_bug_keeps_its_traceback(jobs, monkeypatch):
    """Only a user's mistakes are told without one."""

    def fail(job):
        raise ZeroDivisionError

    monkeypatch.setattr(sys.modules["stand_in_for_a_run_mode"], "train", fail)
    with pytest.raises(ZeroDivisionError):
        main.main(COMPLETE)


def test_out_of_memory_is_told_with_what_to_lower(jobs, monkeypatch, capsys):
    """The most common of all failures, in jax's words forty lines long."""

    def fail(job):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 426918316208 bytes.\nand so on")

    monkeypatch.setattr(sys.modules["stand_in_for_a_run_mode"], "train", fail)
    assert main.main(COMPLETE) == 2
    stderr = capsys.readouterr().err
    assert "426918316208 bytes" in stderr
    assert "--gin.BATCH_SIZE" in stderr
    assert len(stderr.splitlines()) == 2


def test_ctrl_c_is_told_in_a_word(jobs, monkeypatch, capsys):
    """Guards against a page of traceback for one who stops a job before it has begun, and against exit code 0 or 1."""

    def fail(job):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["stand_in_for_a_run_mode"], "train", fail)
    assert main.main(COMPLETE) == 130
    assert capsys.readouterr().err == "Interrupted.\n"


def test_a_reader_that_has_ended(jobs, monkeypatch, capsys):
    """Guards against two tracebacks, the second at exit, where the output goes to `head`."""
    reader, writer = os.pipe()
    os.close(reader)
    stream = open(writer, "w")  # noqa: SIM115 (closed below, as the interpreter does at exit)
    monkeypatch.setattr(sys, "stdout", stream)
    assert main.main([*COMPLETE, "--dry_run"]) == 3
    stream.close()
    assert capsys.readouterr().err == "The program that read the standard output has ended.\n"


def test_modes_of_one_process_refuse_several(capsys):
    """Guards against several processes that write the same answers, each as if it were alone."""
    place = ["--coordinator_address=10.0.0.1:80", "--process_count=2", "--process_index=1"]
    files = ["--run_mode=infer", "--gin_file=runs/infer.gin", "--gin.CHECKPOINT_PATH='/tmp/run'"]
    assert main.main([*files, *place]) == 2
    assert "--run_mode=infer runs in one process" in capsys.readouterr().err
    assert not main._must_leave_at_once


def test_dry_run_does_not_run(jobs, capsys):
    """Whoever asks what a job would do has not asked for it."""
    assert main.main([*COMPLETE, "--dry_run"]) == 0
    assert "total_steps" in capsys.readouterr().out
    assert not jobs


def test_help_names_every_flag(capsys):
    """The usage is written by hand."""
    assert main.main(["--help"]) == 0
    usage = capsys.readouterr().out
    for flag in ("--coordinator_address", "--process_count", "--process_index"):
        assert flag in usage
    for flag in ("--run_mode", "--gin_file", "--gin_search_paths", "--gin.NAME", "--dry_run", "--verbosity"):
        assert flag in usage
    for mode in main.RUN_MODES:
        assert mode in usage


def test_without_arguments_the_usage_is_shown(capsys):
    """A first try is answered with examples, and is no success to a scheduler."""
    assert main.main([]) == 2
    assert "--gin_file=runs/pretrain.gin" in capsys.readouterr().err


def test_examples_of_the_usage_are_right(capsys):
    """The usage's examples are the first thing a newcomer copies."""
    lines = main.USAGE.replace("\\\n", " ").splitlines()
    examples = [shlex.split(line)[1:] for line in lines if line.startswith("  famjax") and "FILE" not in line]
    assert len(examples) == 2
    for arguments in examples:
        assert main.main([*arguments, "--dry_run"]) == 0, capsys.readouterr().err


def test_light_modules_import_nothing_heavy(tmp_path):
    """A config error, or --help, that first loads jax or tensorflow takes ten seconds."""
    script = (
        "import sys, famjax.main, famjax.launch.command;"
        "from famjax.configuration import loading, registry; registry.register_all();"
        "print(sorted({'jax', 'jaxlib', 'flax', 'optax', 'numpy', 'tensorflow', 'seqio'} & set(sys.modules)))"
    )
    process = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "code", "limit"),
    [(["--help"], 0, 3.0), ([*COMPLETE, "--gin.TRIAN_STEPS=1"], 2, 3.0), ([*COMPLETE, "--dry_run"], 0, 15.0)],
    ids=["help", "config_error", "dry_run"],
)
def test_answers_soon(tmp_path, arguments, code, limit):
    """From any working directory, within the seconds that the project promises (with room to spare when idle)."""
    process, seconds = in_subprocess(arguments, tmp_path)
    assert process.returncode == code, process.stderr
    assert "Traceback" not in process.stderr
    assert seconds < limit
