"""Checkpoints from and to the Hugging Face format: the command line (docs/interop.md).

python -m famjax.interop.huggingface import --source=FOLDER --output=FOLDER
python -m famjax.interop.huggingface export --checkpoint=MODEL_DIR --output=FOLDER
python -m famjax.interop.huggingface verify --source=FOLDER --checkpoint=MODEL_DIR
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from famjax.errors import CheckpointError, ConfigError, DataError
from famjax.interop.command_line import (
    GIGABYTE,
    ProgressLines,
    add_memory_flags,
    memory_of,
    positive_float,
    positive_int,
    run_command,
)
from famjax.interop.exporting import export_checkpoint
from famjax.interop.families import FAMILIES
from famjax.interop.importing import Imported, import_checkpoint, memory_in
from famjax.interop.tensor_files import FAM_FILE
from famjax.interop.tokenizer import HUGGING_FACE, SENTENCE_PIECE
from famjax.interop.verifying import tokens_of, verify
from famjax.interop.writing import MODEL_FILE, shown
from famjax.models.config import MemoryConfig
from famjax.plurals import counted
from famjax.training.checkpoint_files import shortened
from famjax.training.restore import read_model_config


def main(arguments: Sequence[str]) -> int:
    """Does what the arguments say and returns the exit code; a user's mistake is told in a line, without a traceback.

    Args:
      arguments: the command line after the module's name.
    """
    return run_command(make_parser(), arguments)


def _import(flags: argparse.Namespace) -> None:
    trained_with = memory_in(flags.source)
    if trained_with is not None:
        _require_memory(flags, trained_with)
    made = import_checkpoint(flags.source, flags.output, trained_with or memory_of(flags), ProgressLines())
    size = made.num_bytes / GIGABYTE
    ignored = f", not needed: {shown(made.ignored)}" if made.ignored else ""
    sys.stdout.write(
        f"{made.checkpoint}: {made.num_tensors} tensors ({size:.3g} GB) of {flags.source}, family {made.family.name}"
        f"{ignored}.\n{_memory_line(trained_with)}{_vocabulary_lines(made, flags.source, flags.output)}"
        f"To train: --gin_file=runs/finetune.gin --gin_file=memory/fam.gin --gin_file={flags.output / MODEL_FILE} "
        f"--gin.INITIAL_CHECKPOINT_PATH=\"'{flags.output}'\" ...\n"
    )


def _require_memory(flags: argparse.Namespace, trained_with: MemoryConfig) -> None:
    """ConfigError where a flag asks for another memory than fam.safetensors has."""
    for name in ("block_size", "num_segments"):
        given, stored = getattr(flags, name), getattr(trained_with, name)
        if given not in (None, stored):
            raise ConfigError(
                f"--{name}={given}; {flags.source / FAM_FILE} has {stored}, the memory that its FAM was trained with. "
                "Leave the flag out; a job may set another memory."
            )


def _memory_line(memory: MemoryConfig | None) -> str:
    """What is said of the memory of fam.safetensors, where there is one."""
    if memory is None:
        return ""
    return f"Memory: C = {memory.block_size}, M = {memory.num_segments}, F = {memory.fam_length}, by {FAM_FILE}.\n"


def _vocabulary_lines(made: Imported, source: Path, output: Path) -> str:
    vocabulary = made.vocabulary
    if vocabulary is None:
        return (
            f"Vocabulary: unknown, as {source} has neither {HUGGING_FACE} nor {SENTENCE_PIECE}; a job reads bytes "
            "unless it sets --gin.VOCABULARY.\n"
        )
    name = type(vocabulary).__name__
    flags = f'--gin.VOCABULARY="@{name}()" --gin.{name}.path="\'{vocabulary.path}\'"'
    if vocabulary.table_size is not None:
        flags += f" --gin.{name}.table_size={vocabulary.table_size}"
    lines = f"Vocabulary: that of its tokenizer; {output / MODEL_FILE} sets it, and other jobs take {flags}.\n"
    if not made.left_out:
        return lines
    texts = shortened([repr(text) for text in made.left_out])
    return f"{lines}Left out of it, as the model's embedding table has {made.config.vocab_size} rows: {texts}.\n"


def _export(flags: argparse.Namespace) -> None:
    made = export_checkpoint(
        flags.checkpoint,
        flags.output,
        family=flags.family,
        like=flags.like,
        dtype=flags.dtype,
        shard_bytes=round(flags.shard_gigabytes * GIGABYTE),
    )
    fam = ", FAM in a file of its own" if made.has_fam else ""
    folded = f", the logits' factor {made.folded:.6g} in the last norm" if made.folded != 1.0 else ""
    count = f"{counted(made.num_tensors, 'tensor')} in {counted(len(made.files), 'file')}"
    sys.stdout.write(f"{flags.output}: {count}, family {made.family.name}{fam}{folded}.\n")


def _verify(flags: argparse.Namespace) -> None:
    if flags.text_file is None:
        vocab_size = read_model_config(flags.checkpoint, setting="--checkpoint").vocab_size
        tokens = np.random.default_rng(0).integers(0, vocab_size, flags.length).tolist()
        text = f"{flags.length} random tokens"
    else:
        try:
            tokens = tokens_of(flags.source, flags.text_file.read_text(encoding="utf-8"), flags.length)
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{flags.text_file} cannot be read: {error}.") from error
        text = f"{len(tokens)} tokens of {flags.text_file}"
    report = verify(
        flags.source,
        flags.checkpoint,
        tokens,
        block_size=flags.block_size,
        num_segments=flags.num_segments,
        fam_length=flags.fam_length,
    )
    sys.stdout.write(f"{flags.checkpoint} and {flags.source}: logits in float32, {text}.\n{report}\n")
    if not report.is_equal:
        raise CheckpointError(f"{flags.checkpoint} is not what transformers computes from {flags.source}.")


def make_parser() -> argparse.ArgumentParser:
    """The command line's flags."""
    parser = argparse.ArgumentParser(
        prog="python -m famjax.interop.huggingface",
        description="Checkpoints from and to the Hugging Face format.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(required=True, metavar="import|export|verify")
    known = ", ".join(family.name for family in FAMILIES)

    importing = commands.add_parser("import", help=f"a folder of safetensors to a checkpoint; families: {known}")
    importing.add_argument("--source", type=Path, required=True, help="folder with config.json and safetensors")
    importing.add_argument("--output", type=Path, required=True, help="folder for the checkpoint and model.gin")
    add_memory_flags(importing)
    importing.set_defaults(command=_import)

    exporting = commands.add_parser("export", help="a checkpoint to a folder that transformers loads")
    exporting.add_argument("--checkpoint", required=True, help="MODEL_DIR or one checkpoint in it")
    exporting.add_argument("--output", type=Path, required=True, help="folder for config.json and safetensors")
    exporting.add_argument("--family", help=f"as which to write it: {known}; default: the first that can express it")
    exporting.add_argument(
        "--like", type=Path, help="the folder it was imported from, for tokenizer and special tokens"
    )
    exporting.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="default: the checkpoint's")
    exporting.add_argument(
        "--shard_gigabytes", type=positive_float, default=5.0, help="of a file of tensors at most; default: 5"
    )
    exporting.set_defaults(command=_export)

    verifying = commands.add_parser("verify", help="an import against transformers' own model, and FAM's step 0")
    verifying.add_argument("--source", type=Path, required=True, help="the folder that was imported")
    verifying.add_argument("--checkpoint", required=True, help="what it was imported to")
    verifying.add_argument("--text_file", type=Path, help="text to read; default: random tokens")
    verifying.add_argument("--length", type=positive_int, default=512, help="tokens of it at most; default: 512")
    verifying.add_argument("--block_size", type=positive_int, help="C; default: the checkpoint's")
    verifying.add_argument("--num_segments", type=int, help="M; default: the checkpoint's")
    verifying.add_argument(
        "--fam_length", type=positive_int, default=64, help="F, of a checkpoint without FAM; default: 64"
    )
    verifying.set_defaults(command=_verify)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
