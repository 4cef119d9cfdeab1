"""Parameters of decoders trained with t5x: the command line (docs/interop.md).

python -m famjax.interop.t5x list --source=MODEL_DIR
python -m famjax.interop.t5x import --source=MODEL_DIR --output=FOLDER --set=num_heads=12
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from famjax.interop.command_line import GIGABYTE, ProgressLines, add_memory_flags, memory_of, run_command
from famjax.interop.t5x_importing import T5xImport, import_t5x, parse_settings
from famjax.interop.t5x_layouts import open_checkpoint
from famjax.interop.t5x_mapping import NAMED, read_mapping
from famjax.interop.writing import MODEL_FILE
from famjax.plurals import counted


def main(arguments: Sequence[str]) -> int:
    """Does what the arguments say and returns the exit code; a user's mistake is told in a line, without a traceback.

    Args:
      arguments: the command line after the module's name.
    """
    return run_command(make_parser(), arguments)


def _list(flags: argparse.Namespace) -> None:
    checkpoint = open_checkpoint(flags.source)
    arrays = checkpoint.arrays
    size = sum(array.num_bytes for array in arrays.values()) / GIGABYTE
    sys.stdout.write(
        f"{checkpoint.folder} ({checkpoint.layout} layout): {counted(len(arrays), 'array')}, {size:.3g} GB\n"
    )
    width = max(len(name) for name in arrays)
    for name, array in sorted(arrays.items()):
        sys.stdout.write(f"  {name:<{width}}  {array.dtype:<8}  {list(array.shape)}\n")


def _import(flags: argparse.Namespace) -> None:
    mapping, given = read_mapping(flags.mapping), parse_settings(flags.set)
    made = import_t5x(flags.source, flags.output, memory_of(flags), mapping, given, ProgressLines())
    size = made.num_bytes / GIGABYTE
    sys.stdout.write(
        f"{made.checkpoint}: {made.num_tensors} tensors ({size:.3g} GB) of {made.source.folder}, {made.source.layout} "
        f"layout.\n{_assumptions(made)}"
        f"To train: --gin_file={flags.output / MODEL_FILE} "
        f"--gin.INITIAL_CHECKPOINT_PATH=\"'{flags.output}'\" (runs/finetune.gin).\n"
    )


def _assumptions(made: T5xImport) -> str:
    """What the user has to check, since no array tells it."""
    lines = ["Check, since a t5x checkpoint does not tell it (--set=NAME=VALUE):\n"]
    width = max(len(name) for name in made.unseen)
    lines += [
        f"  {name:<{width}} = {getattr(made.config, name)!r}  ({source})\n" for name, source in made.unseen.items()
    ]
    return "".join(lines)


def _mapping_file(text: str) -> Path:
    """The file of a mapping, which may be given by name."""
    return NAMED.get(text, Path(text))


def make_parser() -> argparse.ArgumentParser:
    """The command line's flags."""
    parser = argparse.ArgumentParser(
        prog="python -m famjax.interop.t5x",
        description="Parameters of decoders trained with t5x, in its legacy layout and in Orbax's.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(required=True, metavar="list|import")
    listing = commands.add_parser("list", help="the paths and shapes that a mapping is written for")
    listing.add_argument("--source", type=Path, required=True, help="a t5x MODEL_DIR or one checkpoint in it")
    listing.set_defaults(command=_list)

    importing = commands.add_parser("import", help="a t5x checkpoint's parameters to a checkpoint")
    importing.add_argument("--source", type=Path, required=True, help="a t5x MODEL_DIR or one checkpoint in it")
    importing.add_argument("--output", type=Path, required=True, help="folder for the checkpoint and model.gin")
    importing.add_argument(
        "--mapping",
        type=_mapping_file,
        default="decoder_only",
        help="which array is which parameter: a JSON file; decoder_only (default), that of t5x/examples/decoder_only; "
        "or famjax, that of famjax's own model trained with t5x",
    )
    importing.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a field of TransformerConfig that no array's shape tells, as num_heads=12; may be repeated",
    )
    add_memory_flags(importing)
    importing.set_defaults(command=_import)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
