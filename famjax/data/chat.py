"""Conversations as tokens: a chat template, and the tokenizer that it was written for."""

import dataclasses
import datetime as dt
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from famjax.data.chat_template import ChatTemplate, Message, Rendered
from famjax.data.marked import Marked
from famjax.data.tokenizer_files import TokenizerFiles
from famjax.errors import DataError

# What to do about a vocabulary without one.
NO_TEMPLATE = (
    "A chat template is chat_template.jinja, or in tokenizer_config.json, beside the tokenizer's file; "
    "--gin.HuggingFaceVocabulary.chat_template (or --gin.SentencePieceVocabulary.chat_template) names another."
)


@dataclasses.dataclass(frozen=True)
class Chat:
    """A chat template with its tokenizer.

    Attributes:
      template: writes a conversation as one text.
      encode: the tokens of such a text, in which special tokens are written out; marked: those of its spans.
    """

    template: ChatTemplate
    encode: Callable[[Rendered], Marked]

    def prompt(self, messages: Sequence[Message], now: dt.datetime) -> NDArray[np.int32]:
        """Ids of a conversation up to where the assistant is to write [n]; see `ChatTemplate.prompt`."""
        return self.ids(self.template.prompt(messages, now))

    def next_turn(self, question: str, now: dt.datetime) -> NDArray[np.int32]:
        """Ids of what follows an answer, up to where the assistant is to write again [n]; see the template's."""
        return self.ids(self.template.next_turn(question, now))

    @functools.cached_property
    def turn_end(self) -> int | None:
        """The special token that ends the assistant's turns; None where none does."""
        text = self.template.turn_end(dt.datetime.now())
        return None if text is None else int(self.ids(text)[0])

    def ids(self, text: str) -> NDArray[np.int32]:
        """Ids of a text in which special tokens are written out [n]."""
        return self.encode(Rendered(text, ())).tokens

    def conversation(self, messages: Sequence[Message], now: dt.datetime | None) -> Marked:
        """Tokens of a whole conversation; marked: the assistant's turns. See `ChatTemplate.conversation`."""
        return self.encode(self.template.conversation(messages, now))


def open_chat(
    files: TokenizerFiles,
    special: Mapping[str, str],
    written: Iterable[str],
    left_out: Sequence[str],
    encode: Callable[[Rendered], Marked],
) -> Chat | None:
    """The chat template of a tokenizer; None: it has none.

    Args:
      files: what lies beside the tokenizer.
      special: texts of special tokens by their names.
      written: texts of all special tokens.
      left_out: texts of tokens that the vocabulary lacks.
      encode: see `Chat`.

    Raises:
      DataError: a mistake in the template, or it writes a token that is left out.
    """
    if files.chat_template is None:
        return None
    template = ChatTemplate(files.chat_template, files.template_path, special, tuple(written))
    for text in filter(template.may_write, left_out):
        raise DataError(
            f"{files.template_path}: the chat template writes {text!r}, which is beyond the model's embedding table "
            "(table_size) and cannot be left out; take the token out of the template."
        )
    return Chat(template, encode)


def mark_by_places(
    tokens: NDArray[np.int32], begins: NDArray[np.int64], ends: NDArray[np.int64], rendered: Rendered
) -> Marked:
    """Marks the tokens that share a character with a span.

    Args:
      tokens: of the text [n].
      begins: where each lies in the text, in characters [n].
      ends: the same; tokens of one character share it.
      rendered: the text and its spans.
    """
    # Some tokenizers leave the blanks of a token out of its place: it begins where the one before it ends.
    begins = np.minimum(begins, np.maximum.accumulate(np.concatenate([[0], ends[:-1]])))
    answers = np.zeros(len(tokens), np.bool_)
    for begin, end in rendered.spans:
        if begin < end:
            answers |= (ends > begin) & (begins < end)
    return Marked(tokens, answers)


def mark_by_beginnings(text: str, rendered: Rendered, place: int, encode: Callable[[str], NDArray[np.int32]]) -> Marked:
    """Marks the tokens of a part of a text, of a tokenizer that does not tell where tokens lie.

    A token belongs to a span if it is not one that the text before the span has, encoded alone.

    Args:
      text: the part.
      rendered: the whole text and its spans.
      place: where the part begins in it.
      encode: the ids of a beginning of the part.
    """
    tokens = encode(text)
    answers = np.zeros(len(tokens), np.bool_)

    def number_at(character: int) -> int:
        if character <= 0:
            return 0
        before = tokens if character >= len(text) else encode(text[:character])
        shared = min(len(before), len(tokens))
        same = before[:shared] == tokens[:shared]
        return shared if same.all() else int(same.argmin())

    for begin, end in rendered.spans:
        if begin < place + len(text) and end > place:
            answers[number_at(begin - place) : number_at(end - place)] = True
    return Marked(tokens, answers)
