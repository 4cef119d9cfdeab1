"""The task `instructions`: records packed into examples, each of which ends with a part of itself once more.

The training data of the TransformerFAM paper (arXiv 2404.09173, 3.1.1), with its numbers as the defaults.
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
        self._repeat_prompt = encode_piece(vocabulary, config.repeat_prompt if config.repeat_length else "")
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
        config = self._config
        records = self._records(self._order[index])
        weights = np.where(records.answers, 1.0, config.prompt_weight).astype(np.float32)
        repeated = _drawn(records.tokens, config.repeat_length, self._reading.random(index))
        repeat_weights = np.full(len(self._repeat_prompt) + len(repeated), config.repeat_weight, np.float32)
        repeat_weights[: len(self._repeat_prompt)] = 0.0
        return Example(
            targets=np.concatenate([records.tokens, self._repeat_prompt, repeated]),
            weights=np.concatenate([weights, repeat_weights]),
            answers=np.concatenate([records.answers, np.zeros(len(repeat_weights), np.bool_)]),
        )

    def _records(self, numbers: NDArray[np.int64]) -> Marked:
        """Some records, one behind the other; without the beginning token, where they have one: a batch adds it."""
        tokens = self.corpus.encoded.tokens
        spans = [(int(self._starts[number]), int(self._lengths[number])) for number in numbers]
        records = unpacked(np.concatenate([tokens[start : start + length] for start, length in spans]))
        first = int(len(records.tokens) > 1 and records.tokens[0] == self._reading.vocabulary.bos_id)
        return Marked(records.tokens[first:], records.answers[first:])


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


def _drawn(tokens: NDArray[np.int32], length: int, random: np.random.Generator) -> NDArray[np.int32]:
    """Consecutive tokens from a place that is drawn [length, or all tokens where there are fewer]."""
    length = min(length, len(tokens))
    start = int(random.integers(len(tokens) - length + 1))
    return tokens[start : start + length]
