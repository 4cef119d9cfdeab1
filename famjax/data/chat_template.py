"""Chat templates: Jinja sources that write a conversation as one text, rendered as `transformers` renders them.

A template sees `messages`, `add_generation_prompt`, the special tokens' texts, `tools` and `documents` (None), the
functions `raise_exception` and `strftime_now`, and the filter `tojson` that keeps Unicode. It runs in Jinja's immutable
sandbox. `{% generation %}` ... `{% endgeneration %}` says what the assistant wrote.
"""

import dataclasses
import datetime as dt
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from famjax.data.json_objects import BadRecordError
from famjax.errors import ConfigError, DataError

ROLES = ("system", "developer", "user", "assistant", "tool")
Message = Mapping[str, Any]

# Noncharacters, which Unicode leaves to programs' own use: around what a template marks as generated.
_BEGIN, _END = "\ufdd0", "\ufdd1"
# In place of an answer that is not known.
_ANSWER = "\ufdd2"
# What a template that does not fit a conversation raises.
_FAILURES = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


@dataclasses.dataclass(frozen=True)
class Rendered:
    """A conversation as one text.

    Attributes:
      text: the conversation.
      spans: (begin, end) of each of the assistant's turns in it, in characters, in order.
    """

    text: str
    spans: tuple[tuple[int, int], ...]


class ChatTemplate:
    """A compiled chat template."""

    def __init__(self, source: str, place: str, special: Mapping[str, str], end_tokens: Sequence[str]) -> None:
        """Compiles a template, and keeps its `source`.

        Args:
          source: Jinja.
          place: the file that it comes from, for messages.
          special: texts of special tokens by their names ("bos_token"), which the template may write.
          end_tokens: texts of all special tokens: one that ends a turn belongs to it, the blanks behind it do not.

        Raises:
          DataError: a mistake in the source.
        """
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise DataError(f"{place}: no chat template: line {error.lineno}: {error.message}") from error
        self.source = source
        self._place, self._special, self._end_tokens = place, dict(special), tuple(end_tokens)

    def prompt(self, messages: Sequence[Message], now: dt.datetime) -> str:
        """The text of a conversation, up to where the assistant is to write.

        Args:
          messages: as `checked_messages` gives them.
          now: the time that a template may ask for.

        Raises:
          BadRecordError: the template does not fit the conversation.
        """
        return self._unmarked(self._render(messages, now, add_generation_prompt=True)).text

    def unfinished(self, messages: Sequence[Message], now: dt.datetime) -> str:
        """The text of a conversation, up to the end of what its last message says: for an answer that is begun.

        Raises:
          BadRecordError: as `prompt`; or the template does not write that message out.
        """
        text, begun = self._unmarked(self._render(messages, now)).text, messages[-1].get("content") or ""
        for content in filter(None, (begun, begun.strip())):
            before, found, _ = text.rpartition(content)
            if found:
                return before + found
        raise BadRecordError(f"the chat template {self._place} writes the last message otherwise", "template_error")

    def next_turn(self, question: str, now: dt.datetime) -> str:
        """The text behind an answer of the assistant's: the end of its turn, a question, up to where it is to write.

        Raises:
          BadRecordError: as `prompt`; or the template does not write answers out.
        """
        contents = (("user", "?"), ("assistant", _ANSWER), ("user", question))
        messages = [{"role": role, "content": content} for role, content in contents]
        _, found, text = self.prompt(messages, now).partition(_ANSWER)
        if not found:
            raise BadRecordError(f"the chat template {self._place} leaves out what was answered", "template_error")
        return text

    def turn_end(self, now: dt.datetime) -> str | None:
        """The special token that ends the assistant's turns; None where none does."""
        try:
            text = self.next_turn("?", now).lstrip()
        except BadRecordError:
            return None
        return max((token for token in self._end_tokens if token and text.startswith(token)), key=len, default=None)

    def may_write(self, token: str) -> bool:
        """Whether a token stands in the source, or in a short conversation: a source may put it together."""
        if token in self.source:
            return True
        messages = [{"role": role, "content": "?"} for role in ("user", "assistant", "user")]
        try:
            return token in self.prompt(messages, dt.datetime.now())
        except BadRecordError:
            return False

    def conversation(self, messages: Sequence[Message], now: dt.datetime | None) -> Rendered:
        """The text of a whole conversation, and what the assistant wrote in it.

        That is what the template marks as generated. Where it marks nothing: of each turn, what comes behind the text
        that asks for it, up to the token that ends it.

        Args:
          messages: as `checked_messages` gives them.
          now: the time that a template may ask for; None: there is none, so that data do not depend on the day.

        Raises:
          BadRecordError: the template does not fit the conversation, or turns cannot be told apart in its text.
          ConfigError: the template asks for the time, and there is none.
        """
        whole = self._render(messages, now)
        if _BEGIN in whole or _END in whole:
            return self._unmarked(whole)
        turns = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
        spans = tuple(self._turn(messages, number, whole, now) for number in turns)
        return Rendered(whole, spans)

    def _turn(self, messages: Sequence[Message], number: int, whole: str, now: dt.datetime | None) -> tuple[int, int]:
        """Where a turn lies in the whole text: behind the text that asks for it."""
        before = self._before(messages, number, now)
        until = self._render(messages[: number + 1], now)
        if not (until.startswith(before) and whole.startswith(until)):
            raise BadRecordError(
                f"message {number + 1}: the chat template {self._place} writes the beginning of a conversation "
                "otherwise than the beginning of the whole, so that turns cannot be told apart; mark them in it with "
                "{% generation %} ... {% endgeneration %}",
                "template_error",
            )
        written = until[len(before) :].rstrip()
        is_ended = written.endswith(self._end_tokens)
        return len(before), len(before) + len(written) if is_ended else len(until)

    def _before(self, messages: Sequence[Message], number: int, now: dt.datetime | None) -> str:
        """The text that asks for a turn."""
        try:
            return self._render(messages[:number], now, add_generation_prompt=True)
        except BadRecordError as error:
            if number:
                raise
            raise BadRecordError(
                f"the conversation begins with the assistant, and the chat template {self._place} cannot write what "
                f"asks for a first message ({error}), so that it cannot be told apart; begin with a message of the "
                "user's or the system's, or mark turns in the template with {% generation %} ... {% endgeneration %}",
                "template_error",
            ) from error

    def _unmarked(self, text: str) -> Rendered:
        """Takes the marks out, and says where they stood."""
        marks = re.findall(f"[{_BEGIN}{_END}]", text)
        if marks != [_BEGIN, _END] * (len(marks) // 2):
            raise BadRecordError(
                f"the chat template {self._place} cuts, turns or nests what {{% generation %}} marks, so that what the "
                "assistant wrote cannot be told apart",
                "template_error",
            )
        plain, spans, length = [], [], 0
        for number, part in enumerate(text.replace(_END, _BEGIN).split(_BEGIN)):
            if number % 2:
                spans.append((length, length + len(part)))
            plain.append(part)
            length += len(part)
        return Rendered("".join(plain), tuple(spans))

    def _render(
        self, messages: Sequence[Message], now: dt.datetime | None, *, add_generation_prompt: bool = False
    ) -> str:
        """Renders messages; what is generated stands between marks."""

        def strftime_now(form: str) -> str:
            if now is None:
                raise ConfigError(
                    f"The chat template {self._place} asks for the date; set one, so that the data are the same every "
                    "day, as --gin.Instructions.date=\"'2024-07-26'\"."
                )
            return now.strftime(form)

        if any(mark in json.dumps(messages, ensure_ascii=False) for mark in (_BEGIN, _END)):
            raise BadRecordError("a message has U+FDD0 or U+FDD1, which are no characters", "undecodable")
        try:
            return self._template.render(
                messages=messages,
                add_generation_prompt=add_generation_prompt,
                tools=None,
                documents=None,
                strftime_now=strftime_now,
                **self._special,
            )
        except _FAILURES as error:
            reason = str(error) or type(error).__name__
            raise BadRecordError(f"the chat template {self._place} fails: {reason}", "template_error") from error


def checked_messages(value: Any, where: str) -> tuple[Message, ...]:
    """A conversation from a record.

    Args:
      value: a list of objects with "role" (one of ROLES) and "content" (text; it may be missing beside "tool_calls").
        Whatever else they have is left to the template.
      where: the field that holds it, for messages.

    Raises:
      BadRecordError: it is no conversation.
    """
    if not isinstance(value, list) or not value:
        raise BadRecordError(f"field {where!r} is no list of messages", "missing_field")
    for number, message in enumerate(value, start=1):
        place = f"message {number} of field {where!r}"
        if not isinstance(message, Mapping) or "role" not in message:
            raise BadRecordError(f"{place} has no 'role'", "missing_field")
        if message["role"] not in ROLES:
            raise BadRecordError(f"{place} has the role {message['role']!r}; allowed: {', '.join(ROLES)}", "wrong_role")
        content = message.get("content")
        if not isinstance(content, str) and (content is not None or not message.get("tool_calls")):
            raise BadRecordError(f"{place} has no text as its 'content'", "missing_field")
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (UnicodeEncodeError, TypeError):
        raise BadRecordError(f"field {where!r} has text that no UTF-8 text can hold", "undecodable") from None
    return tuple(value)


class _Generation(Extension):
    """The tag `generation`: puts marks around what stands in it."""

    tags = {"generation"}  # noqa: RUF012 - the base class declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("mark"), [], [], body).set_lineno(line)

    def mark(self, caller: Any) -> str:
        return f"{_BEGIN}{caller()}{_END}"


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is, where Jinja's own filter writes it for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
