"""What lm-evaluation-harness may set on a famjax model: `--model_args` and a task's generation settings."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from famjax.data.config import ByteVocabulary, HuggingFaceVocabulary, SentencePieceVocabulary, VocabularyConfig
from famjax.errors import ConfigError
from famjax.inference.config import MemoryOverrides, SamplingConfig

_WHERE = "--model_args"
_SPECIAL_TOKENS = ("pad_token", "bos_token", "eos_token")
_OF_FILES = ("chat_template", "table_size")
_DRAWING = ("temperature", "top_k", "top_p")
# Settings of other decoders, at the values that ask for nothing.
_NEUTRAL = {"num_beams": 1, "num_return_sequences": 1, "repetition_penalty": 1.0}


@dataclasses.dataclass(frozen=True)
class HarnessModelArgs:
    """`--model_args` of the harness's model "famjax".

    Attributes:
      checkpoint: a MODEL_DIR (its latest checkpoint) or one checkpoint folder in it.
      base: where the base of a finetuning is now; None: where it was.
      vocabulary: "bytes", or the path of a SentencePiece .model or of a tokenizer.json.
      pad_token, bos_token, eos_token: special tokens of a tokenizer.json, as written there.
      chat_template: a file with a chat template, in place of the one beside the vocabulary.
      table_size: leaves out a tokenizer's added tokens with ids from there on; None: all tokens are kept.
      block_size: tokens in a block; None: as the model was trained.
      num_segments: past blocks that stay as keys and values; None: as the model was trained.
      with_fam: False reads without feedback memory.
      batch_size: rows read at once; the harness's --batch_size sets the same.
      chunk_blocks: blocks read by one call of the compiled program.
      seed: of drawn answers.
    """

    checkpoint: str
    base: str | None = None
    vocabulary: str = "bytes"
    pad_token: str | None = None
    bos_token: str | None = None
    eos_token: str | None = None
    chat_template: str | None = None
    table_size: int | None = None
    block_size: int | None = None
    num_segments: int | None = None
    with_fam: bool = True
    batch_size: int = 1
    chunk_blocks: int = 8
    seed: int = 0

    @property
    def memory(self) -> MemoryOverrides:
        """The memory that the checkpoint is read with."""
        return MemoryOverrides(self.block_size, self.num_segments, self.with_fam)

    @property
    def vocabulary_config(self) -> VocabularyConfig:
        """The vocabulary's settings.

        Raises:
          ConfigError: the path is of no known kind, or special tokens are given to a vocabulary that brings its own.
        """
        if self.vocabulary.endswith(".json"):
            return HuggingFaceVocabulary(
                self.vocabulary, self.pad_token, self.bos_token, self.eos_token, self.chat_template, self.table_size
            )
        if given := [name for name in _SPECIAL_TOKENS if getattr(self, name) is not None]:
            raise ConfigError(f"{_WHERE} {given[0]}=... is for a vocabulary=.../tokenizer.json only.")
        if self.vocabulary.endswith(".model"):
            return SentencePieceVocabulary(self.vocabulary, self.chat_template, self.table_size)
        if self.vocabulary == "bytes":
            if given := [name for name in _OF_FILES if getattr(self, name) is not None]:
                raise ConfigError(f"{_WHERE} {given[0]}=... is for a .model or a tokenizer.json, not for bytes.")
            return ByteVocabulary()
        raise ConfigError(
            f"{_WHERE} vocabulary={self.vocabulary}; allowed: bytes, or the path of a .model (SentencePiece) or of a "
            "tokenizer.json."
        )


def parse_model_args(arguments: Mapping[str, Any]) -> HarnessModelArgs:
    """The arguments as settings; numbers may come as text.

    Raises:
      ConfigError: an argument that does not exist, a value of another kind, or no checkpoint.
    """
    fields = {field.name: field for field in dataclasses.fields(HarnessModelArgs)}
    # The harness adds it for data sets, where the user allows them to run code of their own.
    given = {name: value for name, value in arguments.items() if name != "trust_remote_code"}
    for name in given:
        if name == "device":
            raise ConfigError(f"{_WHERE} device=...: JAX chooses the device; JAX_PLATFORMS=cpu names one.")
        if name not in fields:
            raise ConfigError(f"{_WHERE} {name}=... does not exist; allowed: {', '.join(fields)}.")
    if given.get("checkpoint") is None:
        raise ConfigError(f"{_WHERE} has no checkpoint; set checkpoint=MODEL_DIR.")
    return HarnessModelArgs(**{name: _value(name, fields[name].type, value) for name, value in given.items()})


def _value(name: str, kind: Any, value: Any) -> Any:
    if kind is str or (kind == str | None and value is not None):
        return str(value)  # a folder may be named as a number is
    if value is None and kind not in (bool, int):
        return None
    if kind is bool:
        if isinstance(value, bool):
            return value
        raise ConfigError(f"{_WHERE} {name}={value}; allowed: True, False.")
    lowest = 1 if name in ("batch_size", "block_size", "chunk_blocks", "table_size") else 0
    number = int(value) if isinstance(value, str) and value.isdecimal() else value
    if type(number) is not int or number < lowest:
        raise ConfigError(f"{_WHERE} {name}={value}; allowed: a whole number, {lowest} or more.")
    return number


def sampling_config(generation_kwargs: Mapping[str, Any], seed: int) -> SamplingConfig:
    """How the harness asks for an answer, in famjax's settings: its names and its defaults (greedy, 256 tokens).

    Args:
      generation_kwargs: `generation_kwargs` of a task, with what --gen_kwargs changes.
      seed: of the drawing, where the settings name none.

    Raises:
      ConfigError: a setting that famjax does not have, or a value that it does not allow.
    """
    from lm_eval.models.utils import normalize_gen_kwargs

    given = {name: value for name, value in generation_kwargs.items() if value is not None}
    try:
        settings: dict[str, Any] = dict(normalize_gen_kwargs(given))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"generation_kwargs = {given}: {error}.") from error
    del settings["do_sample"]  # the temperature, 0 where nothing is to be drawn, says it
    stop_strings = tuple(text for text in settings.pop("until") if text)
    if not all(isinstance(text, str) for text in stop_strings):
        raise ConfigError(f"generation_kwargs: until = {list(stop_strings)}; allowed: texts.")
    drawing = {name: settings.pop(name) for name in _DRAWING if name in settings}
    known = {"max_new_tokens": settings.pop("max_gen_toks"), "seed": settings.pop("seed", seed)}
    for name, value in settings.items():
        if name not in _NEUTRAL or value != _NEUTRAL[name]:
            names = "until, max_gen_toks, do_sample, temperature, top_k, top_p, seed"
            raise ConfigError(f"generation_kwargs: {name} = {value!r} is not supported by famjax; allowed: {names}.")
    return SamplingConfig(stop_strings=stop_strings, **known, **_drawing(**drawing))


def _drawing(temperature: float = 0.0, top_k: int | None = None, top_p: float | None = None) -> dict[str, Any]:
    """The settings of the drawing: none where the answer is greedy, whatever a task says of its shape."""
    if not temperature:
        return {}
    # 0 and -1 are what Hugging Face and vLLM write for "among all".
    return {"temperature": temperature, "top_k": None if top_k in (0, -1) else top_k, "top_p": top_p}
