"""How soon the command line answers. Targets: --help and a configuration error in 3 s, a tiny --dry_run in 15 s.

python benchmarks/startup.py [--rounds=3]
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from measuring import in_turns, print_figures

FILES = ("--gin_file=runs/pretrain.gin", "--gin_file=models/tiny.gin", "--gin_file=memory/fam.gin")
SETTINGS = (
    "--gin.MODEL_DIR='not-written'",
    "--gin.MIXTURE_OR_TASK_NAME='documents'",
    "--gin.TASK_FEATURE_LENGTHS={'targets': 1024}",
    "--gin.TRAIN_STEPS=1",
)
# By name: arguments, exit code, seconds allowed.
COMMANDS: dict[str, tuple[tuple[str, ...], int, float]] = {
    "help": (("--help",), 0, 3.0),
    "config_error": ((*FILES, *SETTINGS, "--gin.TRIAN_STEPS=1"), 2, 3.0),
    "dry_run": ((*FILES, *SETTINGS, "--dry_run"), 0, 15.0),
}


def main(arguments: Sequence[str]) -> int:
    """Measures and prints; returns 0 where all targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each command; default: 3")
    flags = parser.parse_args(arguments)
    seconds = in_turns({name: command(name) for name in COMMANDS}, flags.rounds)
    all_met = True
    for name, (_, _, target) in COMMANDS.items():
        figures: dict[str, Any] = {
            "command": name,
            "seconds": statistics.median(seconds[name]),
            "target": target,
            "rounds": flags.rounds,
        }
        all_met &= print_figures("startup", figures, met=figures["seconds"] <= target)
    return 0 if all_met else 1


def command(name: str) -> Callable[[], None]:
    """A function that runs one of the commands in a process of its own."""
    arguments, code, _ = COMMANDS[name]

    def run() -> None:
        process = subprocess.run(
            [sys.executable, "-m", "famjax.main", *arguments], capture_output=True, text=True, check=False
        )
        if process.returncode != code:
            raise RuntimeError(f"{name} ended with {process.returncode}, not {code}:\n{process.stderr}")

    return run


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
