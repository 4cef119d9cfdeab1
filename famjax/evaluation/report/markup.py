"""HTML by construction: every text is escaped unless it is HTML already."""

import html
import re
from collections.abc import Iterable

_EMPTY = frozenset({"br", "img", "meta"})  # elements without an end tag


class Html(str):
    """Text that is HTML."""

    __slots__ = ()


def element(tag: str, *children: str | Iterable[str], **attributes: object) -> Html:
    """An element.

    Args:
      tag: its name.
      *children: texts, which are escaped; HTML; or several of either.
      **attributes: their values are escaped; None and False leave the attribute out, True has no value; an underscore
        at the end of a name falls away, others become hyphens (`class_`, `data_sort`).
    """
    names = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
    shown = "".join(
        f" {name}" if value is True else f' {name}="{html.escape(_printable(str(value)))}"'
        for name, value in names.items()
        if value is not None and value is not False
    )
    if tag in _EMPTY:
        return Html(f"<{tag}{shown}>")
    return Html(f"<{tag}{shown}>{joined(children)}</{tag}>")


def joined(parts: Iterable[str | Iterable[str]]) -> Html:
    """Texts, escaped, and HTML one after the other."""
    return Html("".join(_flat(part) for part in parts))


def anchor(text: str, taken: set[str]) -> str:
    """An id for a heading, not among those taken; adds it to them."""
    stem = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "section"
    name, copy = stem, 2
    while name in taken:
        name, copy = f"{stem}-{copy}", copy + 1
    taken.add(name)
    return name


def _flat(part: str | Iterable[str]) -> str:
    if isinstance(part, Html):
        return part
    return html.escape(_printable(part)) if isinstance(part, str) else joined(part)


def _printable(text: str) -> str:
    """The text without the control characters that HTML does not allow."""
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]", "\ufffd", text)
