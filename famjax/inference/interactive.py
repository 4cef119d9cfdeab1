"""A terminal session: reads a document, then answers what is typed, token by token as it comes.

Every question is asked on a copy of what was read, so that questions do not disturb each other; after "/keep on" the
session goes on behind each answer. Ctrl-C stops an answer (or the reading of a file, which then counts as not begun),
Ctrl-D ends the session. It works without a terminal too, from a pipe: the standard output gets the answers alone.
"""

import ast
import contextlib
import dataclasses
import datetime as dt
import sys
import textwrap
import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.status import Status

from famjax.configuration.registry import parameter_types
from famjax.configuration.value_types import TypeMismatch, convert, describe
from famjax.data.chat import Chat
from famjax.data.json_objects import BadRecordError
from famjax.errors import ConfigError, DataError, FamjaxError
from famjax.inference.compiling import COMPILING, compiling_within
from famjax.inference.config import SamplingConfig
from famjax.inference.conversations import conversation_ids, until_turn_ends
from famjax.inference.decoding import stop_token_ids
from famjax.inference.job_config import QUESTION, InferJob
from famjax.inference.language_model import LanguageModel
from famjax.inference.session import Session
from famjax.inference.text_stream import encode_stream, read_text
from famjax.plurals import counted
from famjax.training.display import format_count

HELP = """\
Type a question, or
  /read FILE         read a text file on top of what was read (UTF-8; .gz is decompressed)
  /keep on|off       on: the session goes on behind each answer; off: each question is asked on a copy
  /set NAME VALUE    how answers are drawn: {settings}
  /status            what was read, and the settings
  /save FILE         write what was read to a file
  /load FILE         go on from such a file
  /adapter PATH      put what a finetuning trained on the base, and forget all that was read
  /reset             forget all that was read
  /quit              or Ctrl-D
Ctrl-C stops an answer. A question that begins with "/" needs a blank before it.
"""
# A session goes on with one answer, of which the text alone is printed.
_NOT_SET_HERE = ("num_samples", "logprobs")
_SETTINGS = tuple(field.name for field in dataclasses.fields(SamplingConfig) if field.name not in _NOT_SET_HERE)

_CONTROL_CHARACTERS = {*range(0x20), *range(0x7F, 0xA0)} - {ord("\n"), ord("\t")}
_HARMLESS = dict.fromkeys(_CONTROL_CHARACTERS, "\N{REPLACEMENT CHARACTER}")


def converse(model: LanguageModel, job: InferJob) -> None:
    """Answers what is typed, until the end of the standard input or "/quit".

    Raises:
      CheckpointError: the job's saved session cannot be read, or is of another model.
      DataError: the job's document cannot be read.
    """
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 (from then on, input() can edit its line)
    conversation = _Conversation(model, job)
    with compiling_within(conversation.compiling):
        conversation.begin()
        while conversation.go_on:
            conversation.turn()


class _Conversation:
    """What was read, and how questions about it are answered."""

    def __init__(self, model: LanguageModel, job: InferJob) -> None:
        self.go_on = True
        self._model, self._job, self._sampling = model, job, job.sampling
        self._session = model.session()
        self._keep = False
        self._is_answered = False  # whether what was read ends with an answer
        self._console = Console()
        self._is_terminal = sys.stdin.isatty() and self._console.is_terminal
        self._commands = {
            "/read": self._read,
            "/keep": self._set_keep,
            "/set": self._set,
            "/status": self._status,
            "/save": self._save,
            "/load": self._load,
            "/adapter": self._adapt,
            "/reset": self._reset,
            "/quit": self._quit,
            "/help": self._help,
        }

    def begin(self) -> None:
        """Reads what the job says is to be read first."""
        self._note(f"{self._model.checkpoint.path}, step {self._model.checkpoint.step}. /help shows what can be typed.")
        if self._chat:
            self._note("Questions are written by the vocabulary's chat template (QUESTION_FORMAT = '{question}': not).")
        if self._job.snapshot is not None:
            self._load(self._job.snapshot)
        if self._job.document is not None:
            self._read(self._job.document)

    def compiling(self) -> None:
        """Says what the first answer waits for."""
        self._note(COMPILING)

    def turn(self) -> None:
        """Takes one line and does what it says; a user's mistake is told, and the session goes on."""
        try:
            line = input("> " if self._is_terminal else "")
        except EOFError:
            self.go_on = False
            self._note("")
            return
        except KeyboardInterrupt:
            self._note("")
            return
        except UnicodeDecodeError as error:
            raise DataError(f"The standard input is not UTF-8: {error.reason}.") from error
        try:
            self._do(line)
        except FamjaxError as error:
            self._tell(f"{error}\n")
        except KeyboardInterrupt:
            self._note("(stopped)")

    def _do(self, line: str) -> None:
        if line.startswith("/"):
            name, _, argument = line.partition(" ")
            if name not in self._commands:
                raise ConfigError(f"There is no command {name}; allowed: {', '.join(self._commands)}.")
            self._commands[name](argument.strip())
        elif line.strip():
            self._answer(line)

    def _answer(self, question: str) -> None:
        """Prints an answer as it is drawn."""
        session = self._session if self._keep else self._session.copy()
        self._ask(session, _encodable(question))
        began = time.monotonic()
        self._is_answered = self._keep or self._is_answered
        decoding = self._model.decoding(session.context, until_turn_ends(self._sampling, self._chat))
        try:
            for piece in decoding.stream():
                self._print(piece)
        finally:
            session.context = decoding.context()
            self._print("\n")
        (answer,) = decoding.answers
        rate = len(answer.tokens) / max(time.monotonic() - began, 1e-9)
        self._note(f"({answer.finish_reason}, {counted(len(answer.tokens), 'token')}, {format_count(rate)} tokens/s)")

    @property
    def _chat(self) -> Chat | None:
        """What writes questions, where no form of them is set."""
        return self._model.vocabulary.chat if self._job.question_format is None else None

    def _ask(self, session: Session, question: str) -> None:
        """Reads a question, in its form."""
        if self._chat is None:
            session.read((self._job.question_format or QUESTION).replace(QUESTION, question))
            return
        messages = [{"role": "user", "content": question}]
        try:
            if self._is_answered:
                ids = self._chat.next_turn(question, dt.datetime.now())
            else:
                goes_on = session.num_tokens > 0
                ids = conversation_ids(self._chat, self._model.vocabulary, messages, goes_on=goes_on)
        except BadRecordError as bad:
            raise DataError(f"The question cannot be asked: {bad}.") from None
        session.read_tokens(ids)

    def _go_on_from(self, session: Session) -> None:
        """Puts something else in place of what was read, or more; a conversation begins anew behind it."""
        self._session, self._is_answered = session, False

    def _read(self, path: str) -> None:
        _require(path, "/read FILE")
        before, began = self._session.num_tokens, time.monotonic()
        with self._console.status(f"reading {path}") as status:
            pieces = encode_stream(self._model.vocabulary, read_text(path), goes_on=before > 0)
            context = self._model.read(self._session.context, [_shown(pieces, path, status)])
        session = Session(self._model, context)
        if session.num_tokens == before:
            raise DataError(f"{path} is empty: there is nothing to read.")
        self._go_on_from(session)
        count, seconds = session.num_tokens - before, time.monotonic() - began
        rate = format_count(count / max(seconds, 1e-9))
        self._note(f"{path}: {counted(count, 'token')} in {seconds:.1f} s ({rate} tokens/s)")

    def _set_keep(self, argument: str) -> None:
        if argument not in ("on", "off"):
            raise ConfigError(f"/keep {argument!r}; allowed: on, off.")
        self._keep = argument == "on"

    def _set(self, argument: str) -> None:
        name, _, text = argument.partition(" ")
        if name not in _SETTINGS:
            raise ConfigError(f"/set NAME VALUE: there is no {name!r}; allowed: {', '.join(_SETTINGS)}.")
        hint = parameter_types(SamplingConfig)[name]
        try:
            value = convert(ast.literal_eval(text.strip()), hint)
        except (TypeMismatch, ValueError, SyntaxError):
            raise ConfigError(f"/set {name} {text}: the value is not {describe(hint)}.") from None
        sampling = dataclasses.replace(self._sampling, **{name: value})
        for token in sampling.stop_tokens:
            stop_token_ids(token, self._model.vocabulary)
        self._sampling = sampling

    def _status(self, _: str) -> None:
        settings = ", ".join(f"{name} {getattr(self._sampling, name)!r}" for name in _SETTINGS)
        keep = "on" if self._keep else "off"
        form = "as they are" if self._job.question_format is None else f"as {self._job.question_format!r}"
        form = "by the chat template" if self._chat else form
        self._tell(f"{counted(self._session.num_tokens, 'token')} read; keep {keep}; questions {form}; {settings}\n")

    def _save(self, path: str) -> None:
        _require(path, "/save FILE")
        self._session.save(path)
        self._note(f"{path}: {counted(self._session.num_tokens, 'token')} saved")

    def _load(self, path: str) -> None:
        _require(path, "/load FILE")
        self._go_on_from(self._model.load(path))
        self._note(f"{path}: {counted(self._session.num_tokens, 'token')}")

    def _adapt(self, path: str) -> None:
        if not path:
            raise ConfigError("/adapter PATH: the checkpoint is missing.")
        self._model = self._model.with_adapter(path, memory=self._job.memory)
        self._go_on_from(self._model.session())
        self._note(f"{self._model.checkpoint.path}, step {self._model.checkpoint.step}")

    def _reset(self, _: str) -> None:
        self._go_on_from(self._model.session())

    def _quit(self, _: str) -> None:
        self.go_on = False

    def _help(self, _: str) -> None:
        settings = textwrap.fill(", ".join(_SETTINGS), 90, subsequent_indent=" " * 21)
        self._tell(HELP.format(settings=settings))

    def _note(self, message: str) -> None:
        """Says something beside the answers; on a terminal only."""
        if self._is_terminal:
            self._console.print(message, style="dim", markup=False, highlight=False, soft_wrap=True)

    def _tell(self, text: str) -> None:
        """Says what is no answer."""
        if self._is_terminal:
            self._print(text)
        else:
            sys.stderr.write(text)

    def _print(self, text: str) -> None:
        # An answer may hold what a terminal takes for a command.
        sys.stdout.write(text.translate(_HARMLESS) if self._is_terminal else text)
        sys.stdout.flush()


def _require(argument: str, usage: str) -> None:
    if not argument:
        raise ConfigError(f"{usage}: the file is missing.")


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"What was typed is not UTF-8, from character {error.start} on.") from error
    return text


def _shown(pieces: Iterator[NDArray[np.int32]], path: str, status: Status) -> Iterator[NDArray[np.int32]]:
    """The pieces; says how far they were read."""
    count, began = 0, time.monotonic()
    for piece in pieces:
        yield piece
        count += len(piece)
        rate = count / max(time.monotonic() - began, 1e-9)
        status.update(f"reading {path}: {format_count(count)} tokens, {format_count(rate)} tokens/s")
