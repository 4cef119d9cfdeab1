"""What a model reads of a conversation: ids of the text that the vocabulary's chat template writes."""

import dataclasses
import datetime as dt
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from famjax.data.chat import Chat
from famjax.data.chat_template import Message
from famjax.data.vocabularies import Vocabulary
from famjax.inference.config import SamplingConfig


def conversation_ids(
    chat: Chat, vocabulary: Vocabulary, messages: Sequence[Message], *, goes_on: bool
) -> NDArray[np.int32]:
    """Ids of a conversation up to where the assistant is to write [n].

    Args:
      chat: of the vocabulary.
      vocabulary: of the model.
      messages: as `checked_messages` gives them.
      goes_on: whether something was read before. Otherwise a beginning token that the template writes is left out: the
        model reads one anyway.

    Raises:
      BadRecordError: the template does not fit the conversation.
    """
    ids = chat.prompt(messages, dt.datetime.now())
    return ids if goes_on else without_beginning(ids, vocabulary)


def without_beginning(ids: NDArray[np.int32], vocabulary: Vocabulary) -> NDArray[np.int32]:
    """The ids without a beginning token that they begin with."""
    return ids[1:] if ids.size and ids[0] == vocabulary.bos_id else ids


def until_turn_ends(sampling: SamplingConfig, chat: Chat | None) -> SamplingConfig:
    """The settings with the token that ends a turn among the stop tokens, where an answer ends at the end token too.

    Many a vocabulary's end token ends documents, and its template ends turns with another one.
    """
    if chat is None or chat.turn_end is None or not sampling.stop_at_eos or chat.turn_end in sampling.stop_tokens:
        return sampling
    return dataclasses.replace(sampling, stop_tokens=(*sampling.stop_tokens, chat.turn_end))
