"""From a record of instruction data to its tokens, and which of these are its answer."""

import collections
import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from famjax.data.corpus_files import CorpusFile
from famjax.data.instructions_config import Instructions
from famjax.data.json_objects import BadRecordError, Fields
from famjax.data.marked import Marked
from famjax.data.pieces import answer_tokens
from famjax.data.questions.dataset_files import UnreadableError, read_file, text_field
from famjax.data.vocabularies import Vocabulary
from famjax.errors import DataError


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
        settings = (config.inputs_field, config.targets_field, config.separator, config.bad_records)
        return repr((settings, self.vocabulary.fingerprint))

    def encode(
        self, file: CorpusFile, skipped: collections.Counter[str]
    ) -> Iterator[tuple[NDArray[np.unsignedinteger], int]]:
        """See `famjax.data.corpus.Encoder`."""
        try:
            for record in read_file(file.path, (self.config.inputs_field, self.config.targets_field)):
                try:
                    yield marked(record.decode(), self.config, self.vocabulary).packed(), record.number
                except BadRecordError as bad:
                    if self.config.bad_records == "error":
                        raise DataError(
                            f"{record.place}: {bad} (Instructions.bad_records = 'skip' leaves such records out)"
                        ) from None
                    skipped[bad.kind] += 1
        except UnreadableError as error:
            raise DataError(str(error)) from error


def marked(fields: Fields, config: Instructions, vocabulary: Vocabulary) -> Marked:
    """Encodes a record: prompt, separator, answer, and the end token where the vocabulary has one.

    Raises:
      BadRecordError: a field is missing, empty, or no text.
    """
    prompt = text_field(fields, config.inputs_field) + config.separator
    tokens, num_answers = answer_tokens(vocabulary, prompt, text_field(fields, config.targets_field), first=True)
    end = [] if vocabulary.eos_id is None else [vocabulary.eos_id]
    tokens = np.concatenate([tokens, np.array(end, np.int32)])
    return Marked(tokens, np.arange(len(tokens)) >= len(tokens) - len(end) - num_answers)
