"""A complete command line, and a way to run one in this process."""

import dataclasses
from collections.abc import Sequence

import pytest

from famjax.main import main

FILES = ("--gin_file=runs/pretrain.gin", "--gin_file=models/tiny.gin", "--gin_file=memory/fam.gin")
REQUIRED_FLAGS = (
    "--gin.MODEL_DIR='/tmp/run'",
    "--gin.MIXTURE_OR_TASK_NAME='documents'",
    "--gin.TASK_FEATURE_LENGTHS={'targets': 256}",
    "--gin.TRAIN_STEPS=10",
)
COMPLETE = (*FILES, *REQUIRED_FLAGS)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a command line did."""

    code: int
    stdout: str
    stderr: str


def invoke(capsys: pytest.CaptureFixture[str], arguments: Sequence[str]) -> Outcome:
    """Runs the command line in this process."""
    code = main(arguments)
    captured = capsys.readouterr()
    return Outcome(code, captured.out, captured.err)
