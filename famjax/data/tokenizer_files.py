"""What lies beside a tokenizer: its special tokens and its chat template, as Hugging Face's `transformers` writes them.

- `tokenizer_config.json`: `bos_token` and its like, `added_tokens_decoder`, `chat_template`;
- `special_tokens_map.json`: the special tokens of older tokenizers, where tokenizer_config.json has none;
- `added_tokens.json`: ids of older tokenizers' added tokens;
- `chat_template.jinja`: the chat template of newer ones, in place of tokenizer_config.json's.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from famjax.data.json_objects import BadRecordError, Fields, json_object
from famjax.errors import DataError

SPECIAL_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")
_CONFIG, _MAP, _ADDED, _TEMPLATE = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)


@dataclasses.dataclass(frozen=True)
class AddedToken:
    """A token that a tokenizer has besides those of its model.

    Attributes:
      id: of the token.
      special: whether it is no text: decoding leaves it out.
    """

    id: int
    special: bool


@dataclasses.dataclass(frozen=True)
class TokenizerFiles:
    """What was found in a folder; all of it empty where there are no such files.

    Attributes:
      special: texts of special tokens by their names, those of SPECIAL_TOKENS that are set.
      added: added tokens by their texts.
      chat_template: its source; None: there is none.
      template_path: the file that it comes from.
    """

    special: Mapping[str, str]
    added: Mapping[str, AddedToken]
    chat_template: str | None
    template_path: str


def read_tokenizer_files(folder: Path, template_path: str | None = None) -> TokenizerFiles:
    """Reads what lies in a folder.

    Args:
      folder: of the tokenizer.
      template_path: a file with a chat template, in place of the one in the folder.

    Raises:
      DataError: a file that cannot be read, or is none of these.
    """
    config, special_map = (_object(folder / name) for name in (_CONFIG, _MAP))
    special = {}
    for name in SPECIAL_TOKENS:
        text = _token_text(config.get(name), folder / _CONFIG, name)
        text = _token_text(special_map.get(name), folder / _MAP, name) if text is None else text
        if text is not None:
            special[name] = text
    template, path = _chat_template(config, folder, template_path)
    return TokenizerFiles(special, _added(config, special_map, folder), template, str(path))


def _chat_template(config: Fields, folder: Path, template_path: str | None) -> tuple[str | None, Path]:
    """The source of a chat template, and the file that it comes from."""
    path = folder / _TEMPLATE if template_path is None else Path(template_path).expanduser()
    if template_path is not None or path.is_file():
        try:
            return path.read_text(encoding="utf-8"), path
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: the chat template cannot be read: {error}") from error
    path = folder / _CONFIG
    template: Any = config.get("chat_template")
    if isinstance(template, list):  # several by name; the others are for tools
        named = {each.get("name"): each.get("template") for each in template if isinstance(each, Mapping)}
        template = named.get("default")
    if template is not None and not isinstance(template, str):
        raise DataError(f"{path}: chat_template is a {type(template).__name__}, not a text.")
    return template, path


def _added(config: Fields, special_map: Fields, folder: Path) -> dict[str, AddedToken]:
    """Added tokens by text: of tokenizer_config.json, else of added_tokens.json."""
    decoder = config.get("added_tokens_decoder")
    if decoder is None:
        more = special_map.get("additional_special_tokens", [])
        special = {_token_text(each, folder / _MAP, name) for name, each in special_map.items() if each is not more}
        special |= {_token_text(each, folder / _MAP, "additional_special_tokens") for each in more}
        entries = [(text, number, text in special) for text, number in _object(folder / _ADDED).items()]
    elif isinstance(decoder, Mapping) and all(isinstance(each, Mapping) for each in decoder.values()):
        entries = [(each.get("content"), number, bool(each.get("special"))) for number, each in decoder.items()]
    else:
        raise DataError(f"{folder / _CONFIG}: added_tokens_decoder is no object of tokens by their ids.")
    try:
        return {str(text): AddedToken(int(number), special) for text, number, special in entries}
    except (TypeError, ValueError):
        raise DataError(f"{folder}: an added token has no id ({_CONFIG}, {_ADDED}).") from None


def _token_text(value: Any, path: Path, name: str) -> str | None:
    """The text of a token, which is written as it is or as an object with its `content`."""
    text = value.get("content") if isinstance(value, Mapping) else value
    if text is not None and not isinstance(text, str):
        raise DataError(f"{path}: {name} is {value!r}; allowed: a token's text, or an object with its content.")
    return text or None


def _object(path: Path) -> Fields:
    """A file's JSON object; empty where there is no such file."""
    try:
        return json_object(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except BadRecordError as error:
        raise DataError(f"{path}: {error}") from error
