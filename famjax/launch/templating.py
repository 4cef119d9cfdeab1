"""Fills the templates of manifests and scripts."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from famjax.launch.job import FINAL_CODES, STOPPED_CODE
from famjax.launch.quoting import quote

# What YAML would read as something else than this text (true, 1234) has quotes.
_PLAIN = re.compile(r"[a-zA-Z][a-zA-Z0-9._/-]*")
_WORDS = frozenset({"y", "yes", "n", "no", "on", "off", "true", "false", "null"})


def _quoted(text: str) -> str:
    """A JSON string is a YAML string."""
    return json.dumps(text, ensure_ascii=False)


def _scalar(text: str) -> str:
    """A text as YAML, in quotes where it needs them."""
    return text if _PLAIN.fullmatch(text) and text.lower() not in _WORDS else _quoted(text)


_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    autoescape=False,
)
_ENVIRONMENT.filters |= {"quoted": _quoted, "scalar": _scalar, "shell": quote, "rstrip": str.rstrip}


def fill(template: str, values: Mapping[str, Any]) -> str:
    """The text of a template with these values, and with the meaning of famjax's exit codes."""
    codes = {"final_codes": list(FINAL_CODES), "stopped_code": STOPPED_CODE}
    return _ENVIRONMENT.get_template(template).render(codes | dict(values))
