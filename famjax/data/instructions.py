"""The task `instructions`: records packed into examples, each of which ends with a part of itself once more.

The training data of the TransformerFAM paper (arXiv 2404.09173, 3.1.1), with its numbers as the defaults. Streamed,
each record is read by itself, from the initial state, and it is the record that ends with a part of itself.
"""

import collections

import numpy as np
from numpy.typing import NDArray

from famjax.data.corpus import Corpus, open_encoded
from famjax.data.corpus_files import CorpusFile, corpus_files
from famjax.data.examples import Example, Reading
from famjax.data.instruction_records import RecordEncoder
from famjax.data.instructions_config import Instructions
from famjax.data.marked import Marked, unpacked
from famjax.data.packing import PackedOrder
from famjax.data.pieces import encode_piece
from famjax.data.questions.dataset_files import renamed
from famjax.data.task_config import Documents
from famjax.data.vocabularies import Vocabulary
from famjax.errors import ConfigError, DataError, FamjaxError


class InstructionExamples:
    """Examples of `Instructions`.

    Attributes:
      corpus: the encoded records.
    """

    def __init__(self, config: Instructions, reading: Reading) -> None:
        """Encodes the records, and packs an epoch.

        Raises:
          ConfigError: no files are named; an example is too short for what is repeated at its end.
          DataError: the files cannot be read as the settings say; a record is too long, where that is an error.
        """
        files = _files(config, reading.split)
        self._config, self._reading = config, reading
        vocabulary = reading.vocabulary
        self._repeat_prompt = _repeat_prompt(config, vocabulary)
        self._room = reading.longest - len(self._repeat_prompt) - config.repeat_length
        if self._room < 1:
            raise ConfigError(
                f"An example of {reading.longest} tokens has no room for records beside the {config.repeat_length} "
                f"(Instructions.repeat_length) that are repeated at its end, and the {len(self._repeat_prompt)} of "
                "Instructions.repeat_prompt (--gin.TASK_FEATURE_LENGTHS)."
            )
        self.corpus = open_encoded(files, RecordEncoder(config, vocabulary))
        self._starts, self._lengths, left_out = _fitting(self.corpus, self._room, config)
        self._order = PackedOrder(self._lengths, self._room, reading.shuffle, *reading.key)
        self.size = self._order.size if reading.ends else None
        self.skipped = dict(collections.Counter(self.corpus.encoded.skipped) + left_out)

    def __getitem__(self, index: int) -> Example:
        """See `famjax.data.examples.Examples`."""
        records = self._records(self._order[index])
        drawn = _drawn(len(records.tokens), self._config.repeat_length, self._reading.random(index))
        repetition = _repetition(self._config, self._repeat_prompt, records.tokens[drawn])
        return _joined([_weighted(self._config, records), repetition])

    def _records(self, numbers: NDArray[np.int64]) -> Marked:
        """Some records, one behind the other; without the beginning token, where they have one: a batch adds it."""
        tokens = self.corpus.encoded.tokens
        spans = [(int(self._starts[number]), int(self._lengths[number])) for number in numbers]
        records = unpacked(np.concatenate([tokens[start : start + length] for start, length in spans]))
        first = int(len(records.tokens) > 1 and records.tokens[0] == self._reading.vocabulary.bos_id)
        return Marked(records.tokens[first:], records.answers[first:])


class StreamedRecords:
    """The records of `Instructions`, one by one; see `famjax.data.document_rows.Documents`.

    Each is read whole, however long, and ends with a part of itself once more. A beginning token of its own is left
    out: the first input of a document is one.
    """

    def __init__(self, config: Instructions, reading: Reading) -> None:
        """Encodes the records.

        Raises:
          ConfigError: no files are named.
          DataError: the files cannot be read as the settings say.
        """
        encoded = open_encoded(_files(config, reading.split), RecordEncoder(config, reading.vocabulary)).encoded
        self._config, self._reading, self._values = config, reading, encoded.tokens
        self._repeat_prompt = _repeat_prompt(config, reading.vocabulary)
        starts, stops = encoded.starts[:-1], encoded.starts[1:]
        has_own = (unpacked(encoded.tokens[starts]).tokens == reading.vocabulary.bos_id) & (stops - starts > 1)
        self._starts, self._record_lengths = starts + has_own, stops - starts - has_own
        repeated = len(self._repeat_prompt) + np.minimum(self._record_lengths, config.repeat_length)
        self.lengths = self._record_lengths + repeated
        self.skipped = encoded.skipped

    def part(self, document: int, turn: int, start: int, stop: int) -> Example:
        """See `document_rows.Documents`."""
        first, length = int(self._starts[document]), int(self._record_lengths[document])
        own = unpacked(self._values[first + min(start, length) : first + min(stop, length)])
        parts = [_weighted(self._config, own)]
        if stop > length:
            drawn = _drawn(length, self._config.repeat_length, self._reading.random(turn))
            repeated = unpacked(self._values[first + drawn.start : first + drawn.stop])
            repetition = _repetition(self._config, self._repeat_prompt, repeated.tokens)
            parts.append(_cut(repetition, max(start - length, 0), stop - length))
        return _joined(parts)


def _repeat_prompt(config: Instructions, vocabulary: Vocabulary) -> NDArray[np.int32]:
    return encode_piece(vocabulary, config.repeat_prompt if config.repeat_length else "")


def _weighted(config: Instructions, records: Marked) -> Example:
    """Records with their weights."""
    weights = np.where(records.answers, 1.0, config.prompt_weight).astype(np.float32)
    return Example(records.tokens, weights, records.answers)


def _drawn(num_tokens: int, length: int, random: np.random.Generator) -> slice:
    """`length` consecutive ones of so many tokens, from a place that is drawn; all where there are fewer."""
    length = min(length, num_tokens)
    start = int(random.integers(num_tokens - length + 1))
    return slice(start, start + length)


def _repetition(config: Instructions, prompt: NDArray[np.int32], repeated: NDArray[np.int32]) -> Example:
    """The text that asks for a repetition, and what is repeated."""
    weights = np.full(len(prompt) + len(repeated), config.repeat_weight, np.float32)
    weights[: len(prompt)] = 0.0
    return Example(np.concatenate([prompt, repeated]), weights, np.zeros(len(weights), np.bool_))


def _joined(parts: list[Example]) -> Example:
    return Example(
        targets=np.concatenate([part.targets for part in parts]),
        weights=np.concatenate([part.weights for part in parts]),
        answers=np.concatenate([part.answers for part in parts]),
    )


def _cut(example: Example, start: int, stop: int) -> Example:
    return Example(example.targets[start:stop], example.weights[start:stop], example.answers[start:stop])


def _files(config: Instructions, split: str) -> tuple[CorpusFile, ...]:
    """The files of a split, which is made of them as `Documents` has it."""
    paths = config.paths, config.validation_paths
    if not paths[0] and (split == "train" or not paths[1]):
        raise ConfigError("Instructions.paths is empty; set it, as --gin.Instructions.paths=\"['flan/*.jsonl.gz']\".")
    try:
        return tuple(corpus_files(Documents(*paths, validation_fraction=config.validation_fraction), split))
    except FamjaxError as error:
        raise renamed(error, config) from error


def _fitting(
    corpus: Corpus, room: int, config: Instructions
) -> tuple[NDArray[np.int64], NDArray[np.int64], collections.Counter[str]]:
    """The records that fit into an example: where each begins, its length, and how many were left out or cut, by kind.

    Raises:
      DataError: a record is longer than `room` where that is an error; no record is left.
    """
    starts, lengths = corpus.encoded.starts[:-1], np.diff(corpus.encoded.starts)
    (long,) = np.nonzero(lengths > room)
    counts: collections.Counter[str] = collections.Counter()
    if long.size and config.long_records == "error":
        raise DataError(
            f"{corpus.place(int(long[0]))}: a record of {lengths[long[0]]} tokens is longer than the room of {room} in "
            f"an example; {long.size} of {len(lengths)} records are (Instructions.long_records = 'skip' leaves them "
            "out, 'cut' cuts them at their end)."
        )
    kept = lengths <= room
    if config.long_records == "cut":
        tokens = corpus.encoded.tokens
        kept[long] = [unpacked(tokens[start : start + room]).answers.any() for start in starts[long]]
        counts["cut_at_its_end"] = int(kept[long].sum())
    counts["too_long"] = len(kept) - int(kept.sum())
    if not kept.any():
        raise DataError(
            f"No record fits into the room of {room} tokens in an example; the shortest of {len(lengths)} has "
            f"{lengths.min()} (--gin.TASK_FEATURE_LENGTHS, Instructions.long_records)."
        )
    return starts[kept], np.minimum(lengths[kept], room), counts
