"""LoRA's adapters in the format of Hugging Face's library peft: `python -m famjax.interop.peft` (docs/interop.md).

The folder gets adapter_config.json and adapter_model.safetensors, with the names that transformers gives the matrices
(all families of `famjax.interop.families` have the same for those that may have adapters; within a model that reads
images too they have another beginning, `famjax.interop.text_halves`), and what FAM starts from in
a file of its own, as an export of a whole model has it: peft leaves it alone.
"""

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict
from jax.sharding import SingleDeviceSharding
from numpy.typing import NDArray

from famjax.errors import CheckpointError
from famjax.interop.command_line import run_command
from famjax.interop.exporting import write_fam
from famjax.interop.families import FAMILIES, tensor_names
from famjax.interop.importing import HALF_OF
from famjax.interop.layouts import FAM_PARAMETERS
from famjax.interop.tensor_files import CONFIG_FILE as HF_CONFIG_FILE
from famjax.interop.tensor_files import read_json, save_tensors
from famjax.interop.text_halves import MODEL, TEXT_HALVES, TextHalf, find_text_half
from famjax.models.config import TransformerConfig
from famjax.models.lora_config import ADAPTABLE, LoraConfig
from famjax.models.transformer import parameter_shapes
from famjax.training import checkpoint_files as files
from famjax.training.base import read_reference
from famjax.training.restore import find_checkpoint, load_own, read_model_config

CONFIG_FILE = "adapter_config.json"
ADAPTER_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_FLAG = "--checkpoint"


@dataclasses.dataclass(frozen=True)
class ExportedAdapter:
    """What an export made.

    Attributes:
      num_matrices: that have an adapter, those of each layer counted.
      half: what the adapters' base is a half of; None: they fit the text model by itself.
    """

    num_matrices: int
    half: TextHalf | None


def export_adapter(checkpoint: str, output: Path, base_model: str | None = None) -> ExportedAdapter:
    """Writes the adapters of a LoRA finetuning for peft. The base's parameters are not read.

    Where `base_model` is a folder, its config.json says whether the adapters' layers are within a model that reads
    images too; otherwise they are where the base was imported from.

    Args:
      checkpoint: of the finetuning: a MODEL_DIR (its latest whole checkpoint) or one checkpoint folder.
      output: a folder without adapter_config.json; made where it does not exist.
      base_model: what transformers loads the base by, a folder or a name; None: whoever loads the adapters says it.

    Raises:
      CheckpointError: there is no such checkpoint, it has no adapters, or the output is in use or cannot be written.
    """
    folder = find_checkpoint(checkpoint, setting=_FLAG)
    config = read_model_config(folder)
    if config.lora is None:
        raise CheckpointError(
            f"{folder.path} ({_FLAG}) has no adapters: it was trained without TransformerConfig.lora."
        )
    if (output / CONFIG_FILE).exists():
        raise CheckpointError(f"{output} holds adapters already; give another --output, or delete it.")
    device = SingleDeviceSharding(jax.local_devices()[0])
    wanted = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device)
        for path, leaf in parameter_shapes(config).items()
        if path.endswith(("/lora_a", "/lora_b")) or path in FAM_PARAMETERS
    }
    own = {path: np.asarray(leaf) for path, leaf in flatten_dict(load_own(folder, wanted), sep="/").items()}
    half = _find_half(folder, base_model)
    tensors = peft_tensors(config, config.lora, own, half)
    try:
        output.mkdir(parents=True, exist_ok=True)
        save_tensors(output / ADAPTER_FILE, tensors)
        write_fam(lambda path, _: own[path], config, output)
        values = peft_config(config, config.lora, base_model, half)
        (output / CONFIG_FILE).write_text(json.dumps(values, indent=2) + "\n")
    except OSError as error:
        raise CheckpointError(f"{output} cannot be written to: {error.strerror or error}.") from error
    return ExportedAdapter(len(tensors) // 2, half)


def peft_config(
    config: TransformerConfig, lora: LoraConfig, base_model: str | None, half: TextHalf | None = None
) -> dict[str, Any]:
    """What adapter_config.json says; the arguments are those of `export_adapter` and `peft_tensors`."""
    targets: str | list[str] = [_modules(config, path)[0].rpartition(".")[2] for path in _adapted(lora)]
    if half is not None:
        # Of whole names: what looks at images has matrices of the same last names, which get no adapters.
        names = [re.escape(_modules(config, path, half)[0]) for path in _adapted(lora)]
        targets = "|".join(name.replace(r"\.0\.", r"\.\d+\.") for name in names)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": lora.rank,
        "lora_alpha": lora.rank if lora.alpha is None else lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": targets,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }


def peft_tensors(
    config: TransformerConfig, lora: LoraConfig, adapters: dict[str, NDArray[Any]], half: TextHalf | None = None
) -> dict[str, NDArray[Any]]:
    """The adapters as peft names and lays them out, each layer's by itself: A [rank, inputs], B [outputs, rank].

    Args:
      config: the finetuned model.
      lora: its adapters' settings.
      adapters: by path, those of all layers on a first axis.
      half: what the model is a half of; None: it is by itself.
    """
    tensors = {}
    for path in _adapted(lora):
        place = path.removesuffix("kernel")
        a, b = adapters[f"{place}lora_a"], adapters[f"{place}lora_b"]
        for layer, module in enumerate(_modules(config, path, half)):
            tensors[f"{_PREFIX}{module}.lora_A.weight"] = np.ascontiguousarray(a[layer].reshape(-1, lora.rank).T)
            tensors[f"{_PREFIX}{module}.lora_B.weight"] = np.ascontiguousarray(b[layer].reshape(lora.rank, -1).T)
    return tensors


def main(arguments: Sequence[str]) -> int:
    """Does what the arguments say and returns the exit code; a user's mistake is told in a line, without a traceback.

    Args:
      arguments: the command line after the module's name.
    """
    return run_command(make_parser(), arguments)


def _export(flags: argparse.Namespace) -> None:
    made = export_adapter(flags.checkpoint, flags.output, flags.base_model)
    within = "" if made.half is None else f", those of the text model in {made.half.architecture}"
    sys.stdout.write(f"{flags.output}: adapters of {made.num_matrices} matrices{within}.\n")


def make_parser() -> argparse.ArgumentParser:
    """The command line's flags."""
    parser = argparse.ArgumentParser(
        prog="python -m famjax.interop.peft",
        description="A LoRA finetuning's adapters for Hugging Face's library peft.",
        allow_abbrev=False,
    )
    parser.add_argument("--checkpoint", required=True, help="MODEL_DIR of the finetuning or one checkpoint in it")
    parser.add_argument("--output", type=Path, required=True, help="folder for the two files of peft, and FAM's")
    parser.add_argument("--base_model", help="what transformers loads the base by: a folder or a name")
    parser.set_defaults(command=_export)
    return parser


def _adapted(lora: LoraConfig) -> list[str]:
    """Paths of the matrices that have adapters."""
    return [path for path in ADAPTABLE if lora.adapts(path)]


def _modules(config: TransformerConfig, path: str, half: TextHalf | None = None) -> list[str]:
    """What transformers calls the linear layer of a matrix, in each layer."""
    beginning = MODEL if half is None else half.modules
    names = tensor_names(FAMILIES[0], path, config)
    return [beginning + name.removeprefix(MODEL).removesuffix(".weight") for name in names]


def _find_half(folder: files.StepFolder, base_model: str | None) -> TextHalf | None:
    """What a finetuning's base is a half of in transformers; None: nothing, or it is not known."""
    if base_model is not None and (Path(base_model) / HF_CONFIG_FILE).is_file():
        return find_text_half(read_json(Path(base_model) / HF_CONFIG_FILE))
    reference = read_reference(folder)
    if reference is None:
        return None
    try:
        origin = files.read_json(epath.Path(reference.path), files.DATA_STATE)
    except (OSError, ValueError):
        return None  # The base has gone elsewhere; its parameters are not needed here.
    return next((half for half in TEXT_HALVES if half.architecture == origin.get(HALF_OF)), None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
