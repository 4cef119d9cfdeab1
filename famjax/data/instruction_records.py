"""From a record of instruction data to its tokens, and which of these are its answer."""

import collections
import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from famjax.data.chat import NO_TEMPLATE
from famjax.data.chat_template import checked_messages
from famjax.data.corpus_files import CorpusFile
from famjax.data.instructions_config import Instructions
from famjax.data.json_objects import BadRecordError, Fields, how_to_skip
from famjax.data.marked import Marked
from famjax.data.pieces import answer_tokens
from famjax.data.questions.dataset_files import UnreadableError, read_file, text_field
from famjax.data.vocabularies import Vocabulary
from famjax.errors import ConfigError, DataError


@dataclasses.dataclass(frozen=True)
class RecordEncoder:
    """Encodes the records of a file; see `famjax.data.corpus.Encoder`. Values are those of `Marked.packed`."""

    config: Instructions
    vocabulary: Vocabulary
    unit = "record"

    @property
    def num_values(self) -> int:
        """See `famjax.data.corpus.Encoder`."""
        return 2 * self.vocabulary.vocab_size

    @property
    def identity(self) -> str:
        """See `famjax.data.corpus.Encoder`."""
        config = self.config
        settings = config.form, *_fields(config), config.separator, config.date, config.bad_records
        return repr((settings, self.vocabulary.fingerprint))

    def encode(
        self, file: CorpusFile, skipped: collections.Counter[str]
    ) -> Iterator[tuple[NDArray[np.unsignedinteger], int]]:
        """See `famjax.data.corpus.Encoder`."""
        try:
            for record in read_file(file.path, _fields(self.config)):
                try:
                    yield marked(record.decode(), self.config, self.vocabulary).packed(), record.number
                except BadRecordError as bad:
                    if self.config.bad_records == "error":
                        raise DataError(f"{record.place}: {bad} ({how_to_skip(self.config)})") from None
                    skipped[bad.kind] += 1
        except UnreadableError as error:
            raise DataError(str(error)) from error


def _fields(config: Instructions) -> tuple[str, ...]:
    """The fields of a record that are read."""
    return (config.messages_field,) if config.form == "chats" else (config.inputs_field, config.targets_field)


def marked(fields: Fields, config: Instructions, vocabulary: Vocabulary) -> Marked:
    """Encodes a record.

    Raises:
      BadRecordError: a field is missing, empty, or something else; the chat template refuses the conversation, or there
        is no answer in it.
      ConfigError: the vocabulary has no chat template, or it asks for the date, and the settings say none.
    """
    return _chat(fields, config, vocabulary) if config.form == "chats" else _prompt(fields, config, vocabulary)


def _prompt(fields: Fields, config: Instructions, vocabulary: Vocabulary) -> Marked:
    """Prompt, separator, answer, and the end token where the vocabulary has one."""
    if config.messages_field in fields and config.inputs_field not in fields:
        raise BadRecordError(
            f"no field {config.inputs_field!r}, but {config.messages_field!r}: of chats, whose form is "
            "--gin.Instructions.form=\"'chats'\"",
            "missing_field",
        )
    prompt = text_field(fields, config.inputs_field) + config.separator
    tokens, num_answers = answer_tokens(vocabulary, prompt, text_field(fields, config.targets_field), first=True)
    end = [] if vocabulary.eos_id is None else [vocabulary.eos_id]
    tokens = np.concatenate([tokens, np.array(end, np.int32)])
    return Marked(tokens, np.arange(len(tokens)) >= len(tokens) - len(end) - num_answers)


def _chat(fields: Fields, config: Instructions, vocabulary: Vocabulary) -> Marked:
    """A conversation as its chat template writes it, end tokens included."""
    if vocabulary.chat is None:
        raise ConfigError(
            "Instructions.form = 'chats' needs a vocabulary with a chat template: --gin.VOCABULARY="
            f'"@HuggingFaceVocabulary()" or "@SentencePieceVocabulary()". {NO_TEMPLATE}'
        )
    field = config.messages_field
    if field not in fields:
        known = ", ".join(map(repr, fields)) or "none"
        raise BadRecordError(
            f"no field {field!r} (Instructions.messages_field); the record has {known}", "missing_field"
        )
    conversation = vocabulary.chat.conversation(checked_messages(fields[field], field), config.now)
    if not conversation.answers.any():
        raise BadRecordError(f"field {field!r} has no turn of the assistant", "no_answer")
    return conversation
