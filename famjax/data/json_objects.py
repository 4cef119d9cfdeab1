"""A line of JSON lines as a record, and what is wrong with one that is none."""

import json
from collections.abc import Mapping
from typing import Any

# A record's decoded fields.
Fields = Mapping[str, Any]


class BadRecordError(Exception):
    """A record that cannot be used: why, and under which name it is counted."""

    def __init__(self, reason: str, kind: str) -> None:
        super().__init__(reason)
        self.kind = kind


def how_to_skip(config: object) -> str:
    """What a message about a bad record ends in."""
    return f"--gin.{type(config).__name__}.bad_records=\"'skip'\" leaves such records out"


def json_object(raw: bytes) -> Fields:
    """Decodes a line of JSON lines; BadRecordError of what is no object in UTF-8."""
    try:
        record = json.loads(raw.decode())
    except UnicodeDecodeError as error:
        reason = f"byte {error.start} of it, 0x{raw[error.start]:02x}, is not UTF-8: {error.reason}"
        raise BadRecordError(reason, "undecodable") from None
    except json.JSONDecodeError as error:
        raise BadRecordError(f"invalid JSON: {error.msg}, column {error.colno}", "invalid_json") from None
    except (ValueError, RecursionError) as error:  # Python's limits: digits of an integer, nesting
        raise BadRecordError(f"JSON that cannot be decoded: {error}", "undecodable") from None
    if not isinstance(record, dict):
        raise BadRecordError(f"a JSON {type(record).__name__}, not an object", "invalid_json")
    return record
