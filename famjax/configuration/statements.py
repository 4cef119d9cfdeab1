"""Reads gin's grammar: statements with values, macros and references, each with its place. Binds nothing.

The parser is gin's own (`gin.config_parser`); what is added is a message for people, and lightweight references in
place of gin's, which would look a name up while it is being parsed.
"""

import dataclasses
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gin import config_parser

from famjax.configuration.origin import Origin, file_origin, flag_origin, quoted_for_shell
from famjax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Macro:
    """`%NAME`."""

    name: str

    def __repr__(self) -> str:
        return f"%{self.name}"


@dataclasses.dataclass(frozen=True)
class Reference:
    """`@scope/Class()`, or `@scope/Class` where `called` is False."""

    scope: tuple[str, ...]
    selector: str
    called: bool

    def __repr__(self) -> str:
        return f"@{'/'.join([*self.scope, self.selector])}{'()' if self.called else ''}"


REQUIRED = Macro("gin.REQUIRED")


@dataclasses.dataclass(frozen=True)
class Statement:
    """One statement and its place.

    Attributes:
      kind: "macro" (name = value), "parameter" (scope/selector.name = value), "block" (scope/selector:), "include" or
        "import"; the last two have the file or the module as `name`.
      origin: its place.
    """

    kind: str
    origin: Origin
    name: str = ""
    scope: str = ""
    selector: str = ""
    value: Any = None


class _Delegate(config_parser.ParserDelegate):
    """Builds the values that are no literals."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Reference:
        *scope, selector = scoped_configurable_name.split("/")
        return Reference(tuple(scope), selector, evaluate)

    def macro(self, macro_name: str) -> Macro:
        return Macro(macro_name)


def parse_file(path: Path) -> Iterator[Statement]:
    """Yields the statements of a gin file.

    Raises:
      ConfigError: a line is not gin, or the file is one of t5x's.
    """
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    try:
        for statement in config_parser.ConfigParser(io.StringIO(text), _Delegate()):
            yield _to_statement(statement, file_origin(path, statement.location.line_num))
    except (SyntaxError, tokenize.TokenError) as error:
        number = min(_line_number(error), len(lines))
        raise ConfigError(_file_syntax_message(error, file_origin(path, number), lines[number - 1])) from error


def parse_flag(name: str, value: str) -> Statement:
    """Returns the statement that `--gin.name=value` stands for.

    Raises:
      ConfigError: it is not gin; a value that looks like a string without its quotes is shown with them.
    """
    origin = flag_origin(name)
    try:
        statements = list(config_parser.ConfigParser(f"{name} = {value}\n", _Delegate()))
    except (SyntaxError, tokenize.TokenError) as error:
        raise ConfigError(_flag_syntax_message(name, value, error)) from error
    if len(statements) != 1:
        raise ConfigError(f"{origin}={value}: one flag holds one setting.")
    return _to_statement(statements[0], origin)


def _to_statement(statement: Any, origin: Origin) -> Statement:
    match statement:
        case config_parser.BindingStatement(scope, selector, "", value):
            return Statement("macro", origin, name="/".join(filter(None, (scope, selector))), value=value)
        case config_parser.BindingStatement(scope, selector, name, value):
            return Statement("parameter", origin, name=name, scope=scope, selector=selector, value=value)
        case config_parser.BlockDeclaration(scope, selector):
            return Statement("block", origin, scope=scope, selector=selector)
        case config_parser.IncludeStatement(filename):
            return Statement("include", origin, name=filename)
        case config_parser.ImportStatement(module) if module.startswith("__gin__."):
            raise ConfigError(
                f"{origin}: this file is for t5x, whose gin files import what they name (__gin__). Give it to "
                "python -m t5x.main (docs/t5x.md); famjax's own run files are runs/*.gin."
            )
        case config_parser.ImportStatement(module):
            return Statement("import", origin, name=module)
    raise AssertionError(f"gin's parser gave {statement!r}")


def _line_number(error: SyntaxError | tokenize.TokenError) -> int:
    if isinstance(error, SyntaxError):
        return max(error.lineno or 1, 1)
    return max(int(error.args[1][0]), 1)


def _reason(error: SyntaxError | tokenize.TokenError) -> str:
    """Returns gin's reason without the source line that it appends."""
    reason = str(error.msg if isinstance(error, SyntaxError) else error.args[0])
    if token := re.search(r"Failed to parse token '(.*)'", reason):
        return f"{token[1]} is no number, True, False or None"
    return reason.splitlines()[0].rstrip(".")


def _looks_unquoted(value: str) -> bool:
    return bool(re.match(r"[\w./~:$*-]", value))


def _flag_syntax_message(name: str, value: str, error: SyntaxError | tokenize.TokenError) -> str:
    if not value:
        return f"--gin.{name}= has no value."
    message = f"--gin.{name}={value} is not a gin value ({_reason(error)})."
    if _looks_unquoted(value):
        message += f"\n  A string needs quotes that the shell leaves alone: {quoted_for_shell(name, value)}"
    return message


def _file_syntax_message(error: SyntaxError | tokenize.TokenError, origin: Origin, line: str) -> str:
    message = f"{origin}: this line is not gin ({_reason(error)}): {line.strip()}"
    name, equals, value = (part.strip() for part in line.partition("="))
    if equals and _looks_unquoted(value):
        message += f"\n  A string needs quotes: {name} = '{value}'"
    return message
