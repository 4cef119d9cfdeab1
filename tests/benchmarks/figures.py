"""Runs a benchmark in this process and reads what it prints."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

MACHINE = {"device", "devices", "processor", "cores", "python", "jax"}
# One block and a bit more than the smallest of everything: a step compiles in a second or two.
TINY = ("--block_size=8", "--fam_length=2", "--emb_dim=8", "--num_layers=1", "--length=16", "--batch_size=8")


def figures_of(
    main: Callable[[Sequence[str]], int], arguments: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> list[dict[str, Any]]:
    """The figures of each line; the exit code says whether all targets are met."""
    code = main(arguments)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert code == (0 if all(line["met"] for line in lines) else 1)
    for line in lines:
        assert set(line["machine"]) == MACHINE
    return lines
