"""Checkpoints that read images too: the text model in them, as a checkpoint of its family would have it. One table."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from famjax.errors import CheckpointError
from famjax.interop.families import FAMILIES, Family, HfConfig

# What names begin with in a family.
MODEL = "model."

_TEXT = "text_config"
# Keys that stand outside of the text model's part.
_OUTER = ("dtype", "torch_dtype", "bos_token_id", "eos_token_id", "pad_token_id", "quantization_config")


@dataclasses.dataclass(frozen=True)
class TextHalf:
    """An architecture whose text model is a family's.

    Attributes:
      architecture: the first of config.json's "architectures".
      model_type: config.json's "model_type".
      family: the name of the text model's family.
      defaults: what a key that "text_config" lacks means, besides the family's own.
      beginnings: of the text model's tensors' names, and what they are in its family, the longest first.
      others: beginnings of the names of what is left out.
      modules: what the names of its modules begin with in transformers 5, in place of its family's `MODEL`.
    """

    architecture: str
    model_type: str
    family: str
    defaults: HfConfig
    beginnings: Mapping[str, str]
    others: tuple[str, ...]
    modules: str

    @property
    def text_family(self) -> Family:
        """The text model's family."""
        return next(family for family in FAMILIES if family.name == self.family)


TEXT_HALVES = (
    TextHalf(
        architecture="Gemma3ForConditionalGeneration",
        model_type="gemma3",
        family="gemma3",
        defaults={
            "vocab_size": 262_208,
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "num_hidden_layers": 26,
            "num_attention_heads": 8,
        },
        beginnings={
            "language_model.model.": "model.",
            "language_model.lm_head.": "lm_head.",
            "model.language_model.": "model.",
            "lm_head.": "lm_head.",
        },
        others=("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector."),
        modules="model.language_model.",
    ),
)


def find_text_half(hf: HfConfig) -> TextHalf | None:
    """The table's entry for a config.json; None: the model is of text alone, or unknown."""
    named = hf.get("architectures")
    for half in TEXT_HALVES:
        if named == [half.architecture] or (not named and hf.get("model_type") == half.model_type):
            return half
    return None


def text_config(hf: HfConfig, where: str) -> HfConfig:
    """The config.json of the text model alone: `hf` itself, where the model reads nothing else.

    Raises:
      CheckpointError: the text model's part is missing.
    """
    half = find_text_half(hf)
    if half is None:
        return hf
    text = hf.get(_TEXT)
    if not isinstance(text, Mapping):
        raise CheckpointError(f"{where}: {_TEXT} = {text!r}; {half.architecture} needs an object there.")
    family = half.text_family
    config: dict[str, Any] = {**half.defaults, **{key: hf[key] for key in _OUTER if key in hf}, **text}
    if "tie_word_embeddings" in hf:
        config["tie_word_embeddings"] = hf["tie_word_embeddings"]
    return {"model_type": family.model_type, **config, "architectures": [family.architecture]}


def text_names(half: TextHalf | None, names: Sequence[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """What the tensors of the text model are called in its family, and those that are left out.

    Args:
      half: the table's entry; None: all tensors are the text model's, and have their names.
      names: of all tensors.
    """
    if half is None:
        return {name: name for name in names}, ()
    kept, left = {}, list[str]()
    for name in names:
        beginning = next((each for each in half.beginnings if name.startswith(each)), None)
        if beginning is not None:
            kept[name] = half.beginnings[beginning] + name.removeprefix(beginning)
        elif name.startswith(half.others):
            left.append(name)
        else:
            kept[name] = name
    return kept, tuple(left)
