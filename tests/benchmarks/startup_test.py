"""benchmarks/startup.py, one run of each command."""

import pytest
import startup
from figures import figures_of


def test_figures(capsys):
    """All three commands of the promise are timed."""
    lines = figures_of(startup.main, ["--rounds=1"], capsys)
    assert [(line["command"], line["target"]) for line in lines] == [("help", 3), ("config_error", 3), ("dry_run", 15)]
    for line in lines:
        assert line["benchmark"] == "startup"
        assert line["met"] == (0 < line["seconds"] <= line["target"])


def test_a_command_that_ends_otherwise_is_no_measurement(monkeypatch):
    """A command that fails early is fast."""
    monkeypatch.setitem(startup.COMMANDS, "help", (("--no_such_flag",), 0, 3.0))
    with pytest.raises(RuntimeError, match="no_such_flag"):
        startup.command("help")()
