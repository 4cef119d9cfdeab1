"""Commands as a shell reads them, and as a person does."""

import re
import shlex
from collections.abc import Sequence

# What a backslash goes before within double quotes.
_SPECIAL = re.compile(r'([\\$`"])')


def quote(argument: str) -> str:
    """One argument: as it is, --flag="value", or "value"."""
    if shlex.quote(argument) == argument:
        return argument
    # Within double quotes an interactive shell still sees an exclamation mark.
    if "!" in argument:
        return shlex.quote(argument)
    flag, equals, value = argument.partition("=")
    if not (equals and flag.startswith("-") and shlex.quote(flag) == flag):
        flag, equals, value = "", "", argument
    escaped = _SPECIAL.sub(r"\\\1", value)
    return f'{flag}{equals}"{escaped}"'


def on_one_line(command: Sequence[str]) -> str:
    """A command for a shell."""
    return " ".join(quote(argument) for argument in command)


def one_flag_a_line(command: Sequence[str], indent: int = 4) -> str:
    """A command for a shell: its words, then each flag on a line of its own."""
    first = next((number for number, argument in enumerate(command) if argument.startswith("-")), len(command))
    words, rest = " ".join(quote(word) for word in command[:first]), [quote(argument) for argument in command[first:]]
    return f" \\\n{' ' * indent}".join([words, *rest])
