"""The task `associative_recall`: pairs of a key and a value, and a question about one of the keys at the end.

An example reads " kuq=481; bav=077; ...; What is bav? bav=077" and ends with the value, without an end token.
"""

import dataclasses
import math
import string

import numpy as np
from numpy.typing import NDArray

from famjax.data.examples import Example, Reading
from famjax.data.keys import landmark_filler
from famjax.data.pieces import answer_tokens, encode_piece, finish
from famjax.data.questions.question import OutputType, Question, question_of
from famjax.data.task_config import AssociativeRecall
from famjax.errors import ConfigError

PAIR = " {key}={value};"
QUESTION = " What is {key}? {key}="
_LETTERS = np.array(list(string.ascii_lowercase))


@dataclasses.dataclass(frozen=True)
class _Pairs:
    """The pairs of an example, in order, encoded.

    Attributes:
      ids: of each pair.
      values: the right value of each key, as text: its last.
      last: the number of the pair that holds it.
    """

    ids: list[NDArray[np.int32]]
    values: dict[str, str]
    last: dict[str, int]


class RecallExamples:
    """Examples of `AssociativeRecall`, which are questions too."""

    output_type: OutputType = "generate_until"
    metrics: tuple[str, ...] = ("exact_match",)

    def __init__(self, config: AssociativeRecall, reading: Reading) -> None:
        """Checks that the settings fit together; ConfigError where they do not."""
        self._config, self._reading = config, reading
        self._filler = landmark_filler(reading.vocabulary)
        self._num_keys = len(_LETTERS) ** config.key_letters
        self.size = config.validation_examples if reading.ends else None
        self.skipped: dict[str, int] = {}
        key, value = "q" * config.key_letters, "0" * config.value_digits
        self._pair_tokens = len(encode_piece(reading.vocabulary, PAIR.format(key=key, value=value)))
        question, _ = answer_tokens(reading.vocabulary, QUESTION.format(key=key), value)
        self._least = len(question) + self._pair_tokens * (config.num_pairs or 1)
        if self._least > reading.longest:
            raise self._no_room(reading.longest)
        most = config.num_pairs or reading.longest // self._pair_tokens + 1
        if self._num_distinct(most) > self._num_keys:
            raise ConfigError(
                f"AssociativeRecall.key_letters = {config.key_letters} gives {self._num_keys} keys; an example has "
                f"up to {self._num_distinct(most)}. Set more letters, or AssociativeRecall.num_pairs."
            )

    def _no_room(self, length: int) -> ConfigError:
        return ConfigError(
            f"An example of {length} tokens has no room for AssociativeRecall's {self._config.num_pairs or 1} pairs "
            f"and the question: about {self._least} tokens (--gin.TASK_FEATURE_LENGTHS, or the curriculum's lengths)."
        )

    def __getitem__(self, index: int) -> Example:
        """See `famjax.data.examples.Examples`."""
        config = self._config
        random = self._reading.random(index)
        length = self._reading.draw_length(random, self._least, config.min_length, config.length_multiple)
        pairs = self._draw_pairs(random, config.num_pairs or math.ceil(length / self._pair_tokens))
        ends = np.cumsum([len(ids) for ids in reversed(pairs.ids)])
        for key in random.permutation(list(pairs.values)):
            question = QUESTION.format(key=key)
            asked, num_answers = answer_tokens(self._reading.vocabulary, question, pairs.values[key])
            room = length - len(asked)
            whole = int(np.searchsorted(ends, room, side="right"))
            if whole and pairs.last[key] >= len(pairs.ids) - whole:
                break
        else:
            raise self._no_room(length)
        if config.num_pairs is not None and whole < config.num_pairs:
            raise self._no_room(length)
        told = np.concatenate(pairs.ids)[-room:]
        filler = self._filler(random, index, room - len(told))
        return finish([told, filler, asked], num_answers, config.prompt_weight)

    def question(self, index: int) -> Question:
        """See `famjax.data.questions.question.Questions`."""
        return question_of(self[index], self._reading.vocabulary)

    def _num_distinct(self, num_pairs: int) -> int:
        """Keys among `num_pairs` pairs; the rest are second values of the first of them."""
        return math.ceil(num_pairs / (1 + self._config.replaced_fraction))

    def _draw_pairs(self, random: np.random.Generator, num_pairs: int) -> _Pairs:
        """Draws keys, their values, and the order of the pairs."""
        config, values = self._config, 10**self._config.value_digits
        distinct = min(self._num_distinct(num_pairs), self._num_keys)
        numbers = random.choice(self._num_keys, distinct, replace=False)
        places = len(_LETTERS) ** np.arange(config.key_letters)
        keys = ["".join(letters) for letters in _LETTERS[numbers[:, None] // places % len(_LETTERS)]]
        first = random.integers(values, size=distinct)
        second = (first + random.integers(1, values, size=distinct)) % values
        order = random.permutation(np.concatenate([np.arange(distinct), np.arange(num_pairs - distinct)]))
        pairs = _Pairs([], {}, {})
        for number, which in enumerate(order):
            key = keys[which]
            value = str((second if key in pairs.values else first)[which]).zfill(config.value_digits)
            pairs.ids.append(encode_piece(self._reading.vocabulary, PAIR.format(key=key, value=value)))
            pairs.values[key], pairs.last[key] = value, number
        return pairs
