"""Prompts as JSON lines.

A record has "prompt" (text), "tokens" (ids) or "messages" (a conversation: objects with "role" and "content"), and may
have

id              any JSON value, given back with the result
metadata        the same, for whatever else belongs to the record
document        path of a text file that the prompt is about; it is read first, and once for many records
snapshot        path of a saved session that the prompt goes on from, in place of a document
adapter         path of a finetuning's checkpoint: what it trained is put on the base for this prompt
max_new_tokens, seed, stop    in place of the run's settings; stop is a list of stop strings
"""

import itertools
import json
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

from famjax.errors import DataError
from famjax.inference.text_stream import open_bytes

_PROMPTS = ("prompt", "tokens", "messages")
_LONGEST_SHOWN = 40
_NUM_SEEDS = 1 << 32  # jax's random keys take no more bits of a seed


def read_records(path: str | os.PathLike[str], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The records of a file, checked; blank lines are left out.

    Args:
      path: a file; ".gz" is decompressed.
      name: of the file, for people.

    Yields:
      The place of each, as "prompts.jsonl:3", and the record.

    Raises:
      DataError: the file cannot be read, or a line is no such record.
    """
    with open_bytes(path) as stream:
        offset = 0
        for number, raw in enumerate(stream, start=1):
            place = f"{name}:{number}"
            text = _decode(raw, place, offset).removeprefix("\ufeff" if number == 1 else "")
            offset += len(raw)
            if text.strip():
                record = _object(text, place)
                _check(record, place)
                yield place, record


def _decode(raw: bytes, place: str, offset: int) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        where = f"byte {offset + error.start} of the file, 0x{raw[error.start]:02x}"
        raise DataError(f"{place}: {where}, is not UTF-8: {error.reason}.") from None


def _object(text: str, place: str) -> dict[str, Any]:
    """One line's object."""
    hint = "\n  Prompts of plain text, a file each, need --gin.PROMPT_FORMAT=\"'text'\"."
    try:
        record = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise DataError(f"{place}: invalid JSON: {error.msg}, column {error.colno}.{hint}") from None
    except (ValueError, RecursionError) as error:  # Python's limits (digits of an integer, nesting), and those below
        raise DataError(f"{place}: JSON that cannot be decoded: {error}.") from None
    if not isinstance(record, dict):
        raise DataError(f"{place}: a JSON {type(record).__name__}, not an object.{hint}")
    return record


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _finite(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        raise ValueError(f"{digits} is too large")
    return number


def _is_text(value: Any) -> bool:
    if not isinstance(value, str) or not value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_list_of(value: Any, is_entry: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(is_entry, value))


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# What each field of a record may be: in words, and as a test.
_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "prompt": ("text, without halves of surrogate pairs", _is_text),
    "tokens": ("a list of ids", lambda value: _is_list_of(value, _is_whole)),
    "messages": ("a list of messages", lambda value: isinstance(value, list)),
    "id": ("anything", lambda _: True),
    "metadata": ("anything", lambda _: True),
    "document": ("the path of a text file", _is_text),
    "snapshot": ("the path of a saved session", _is_text),
    "adapter": ("the path of a finetuning's checkpoint", _is_text),
    "max_new_tokens": ("a whole number, 1 or more", lambda value: _is_whole(value) and value >= 1),
    "seed": ("a whole number from 0 to 2^32 - 1", lambda value: _is_whole(value) and 0 <= value < _NUM_SEEDS),
    "stop": ("a list of strings, none of them empty", lambda value: _is_list_of(value, _is_text)),
}


def _check(record: dict[str, Any], place: str) -> None:
    if unknown := [name for name in record if name not in _FIELDS]:
        allowed = ", ".join(_FIELDS)
        raise DataError(
            f"{place}: there is no field {unknown[0]!r}; allowed: {allowed} (your own data go in metadata)."
        )
    for first, second in (*itertools.combinations(_PROMPTS, 2), ("document", "snapshot")):
        if first in record and second in record:
            raise DataError(f'{place}: both "{first}" and "{second}"; allowed: one of them.')
    if not record.keys() & set(_PROMPTS):
        raise DataError(f'{place}: no prompt: the record has neither "prompt" nor "tokens" nor "messages".')
    if record.get("prompt") == "" or record.get("tokens") == []:
        raise DataError(f"{place}: an empty prompt.")
    for name, value in record.items():
        meaning, is_allowed = _FIELDS[name]
        if not is_allowed(value):
            raise DataError(f'{place}: "{name}" is {_shown(value)}; allowed: {meaning}.')


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."
