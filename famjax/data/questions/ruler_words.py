"""The tasks `ruler_cwe` and `ruler_fwe`: RULER's extraction of the words that come most often."""

import dataclasses
import functools
import math
import string
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from famjax.data.examples import Reading
from famjax.data.pieces import encode_piece
from famjax.data.questions import words
from famjax.data.questions.background import Ids
from famjax.data.questions.question import Question
from famjax.data.questions.ruler_config import RulerCommonWords, RulerFrequentWords
from famjax.data.questions.templates import Asked, TemplateQuestions

COMMON_HEADER = (
    "Below is a numbered list of words. In these words, some appear more often than others. Memorize the ones that "
    "appear most often.\n"
)
COMMON_FOOTER = (
    "\nQuestion: What are the {number} most common words in the above list?"
    " Answer: The top {number} words that appear most often in the list are:"
)
FREQUENT_HEADER = (
    "Read the following coded text and track the frequency of each coded word. Find the three most frequently appeared "
    "coded words."
)
FREQUENT_FOOTER = (
    "\nQuestion: Do not provide any explanation. Please ignore the dots '....'. What are the three most frequently "
    "appeared words in the above coded text?"
    " Answer: According to the coded text above, the three most frequently appeared words are:"
)
# The word of a frequent words' text that comes most often.
DOTS = "..."
NUM_FREQUENT = 3


@dataclasses.dataclass(frozen=True)
class _Repeats:
    """How often words come.

    Attributes:
      common: those that are asked for, in the list.
      uncommon: the others.
      example_common: as `common`, in the example's list.
      example_uncommon: as `uncommon`, there.
      example_words: words of the example's list.
    """

    common: int
    uncommon: int
    example_common: int = 3
    example_uncommon: int = 1
    example_words: int = 20


# RULER's from 4096 tokens on, and below.
_LONG, _SHORT = _Repeats(30, 3, 10, 3, 40), _Repeats(6, 1)
_LONG_FROM = 4096


class CommonWordQuestions(TemplateQuestions):
    """Questions of `RulerCommonWords`. Beyond the 1700 words of `words`, pairs of an adjective and a noun follow."""

    metrics: tuple[str, ...] = ("string_match_all",)
    MAX_NEW_TOKENS: ClassVar[int] = 120

    def __init__(self, config: RulerCommonWords, reading: Reading) -> None:
        """Checks the length; ConfigError where it is too short."""
        self._config, self._vocabulary = config, reading.vocabulary
        self._size = functools.lru_cache(maxsize=1 << 18)(lambda text: len(encode_piece(reading.vocabulary, text)))
        self._first_header = reading.vocabulary.encode(COMMON_HEADER)
        self._header = encode_piece(reading.vocabulary, COMMON_HEADER) if config.example else self._first_header
        self._footer = encode_piece(reading.vocabulary, COMMON_FOOTER.format(number=config.num_common))
        super().__init__(config, reading)

    def _repeats(self, length: int) -> _Repeats:
        config = self._config
        if config.common_repeats is not None and config.uncommon_repeats is not None:
            examples = _LONG if length >= _LONG_FROM else _SHORT
            return dataclasses.replace(examples, common=config.common_repeats, uncommon=config.uncommon_repeats)
        return _LONG if length >= max(_LONG_FROM, self._least_for(_LONG)) else _SHORT

    def _least_length(self) -> int:
        return self._least_for(self._repeats(0))

    @functools.cached_property
    def _longest_word(self) -> int:
        """Tokens of the longest word, with the blank before it."""
        return max(self._size(f" {word}") for word in words.ALL)

    def _least_for(self, repeats: _Repeats) -> int:
        """Tokens for as many common words as others, all of the longest kind, and the example."""
        number = self._config.num_common
        sizes = [number * (repeats.common + repeats.uncommon)]
        if self._config.example:
            others = max(repeats.example_words - number, number)
            sizes.append(number * repeats.example_common + others * repeats.example_uncommon)
        listed = sum(self._numbers(size) + size * self._longest_word for size in sizes)
        frames = len(sizes) * (len(self._header) + len(self._footer) + self._size("\n"))
        answer = self._numbers(number) + number * self._longest_word
        return frames + listed + (len(sizes) - 1) * answer + max(answer, self._max_new_tokens)

    @property
    def _max_new_tokens(self) -> int:
        return self._config.max_new_tokens or self.MAX_NEW_TOKENS

    def _numbers(self, count: int) -> int:
        """Tokens of the numbers of a list of so many words."""
        return int(self._number_sizes(count)[-1]) if count else 0

    def _number_sizes(self, count: int) -> NDArray[np.int64]:
        """Tokens of the numbers of a list of 1, 2, ... `count` words."""
        return np.cumsum([self._size(f" {number}.") for number in range(1, count + 1)])

    def _ask(self, random: np.random.Generator, length: int) -> Asked:
        repeats, number = self._repeats(length), self._config.num_common
        example = self._example(random, repeats) if self._config.example else np.zeros(0, np.int32)
        drawn = _Words(random)
        common = [next(drawn) for _ in range(number)]
        answer = _listed(common)
        budget = self._budget(answer, " ", self._max_new_tokens)
        room = length - budget - len(example) - len(self._header) - len(self._footer)
        uncommon = self._others(drawn, common, repeats, room)
        if len(uncommon) < number:
            self._require_room(self._least_for(repeats), length)
        context = self._list(random, common * repeats.common + uncommon * repeats.uncommon)
        prompt = np.concatenate([example, self._header, context, self._footer])
        return Asked(Question(prompt, tuple(common), budget), answer)

    def _others(self, drawn: "_Words", common: list[str], repeats: _Repeats, room: int) -> list[str]:
        """As many other words as have room behind the common ones."""
        count = repeats.common * len(common)
        used = repeats.common * sum(self._size(f" {word}") for word in common) + self._numbers(count)
        uncommon = list[str]()
        while True:
            word = next(drawn)
            count += repeats.uncommon
            used += repeats.uncommon * self._size(f" {word}")
            used += sum(self._size(f" {number}.") for number in range(count - repeats.uncommon + 1, count + 1))
            if used > room:
                return uncommon
            uncommon.append(word)

    def _list(self, random: np.random.Generator, listed: list[str]) -> Ids:
        """A numbered list in a drawn order."""
        order = [listed[index] for index in random.permutation(len(listed))]
        first, *rest = [text for number, word in enumerate(order, 1) for text in (f" {number}.", f" {word}")]
        texts = [first.removeprefix(" "), *rest]
        encoded = {text: encode_piece(self._vocabulary, text) for text in set(texts)}
        return np.concatenate([encoded[text] for text in texts])

    def _example(self, random: np.random.Generator, repeats: _Repeats) -> Ids:
        """A solved question with a short list."""
        number, drawn = self._config.num_common, _Words(random)
        common = [next(drawn) for _ in range(number)]
        others = [next(drawn) for _ in range(max(repeats.example_words - number, number))]
        context = self._list(random, common * repeats.example_common + others * repeats.example_uncommon)
        answer = encode_piece(self._vocabulary, f" {_listed(common)}\n")
        return np.concatenate([self._first_header, context, self._footer, answer])


class _Words:
    """Different words in a drawn order, without end."""

    def __init__(self, random: np.random.Generator) -> None:
        self._random, self._index = random, 0
        self._order = random.permutation(len(words.ALL))
        self._used = set[str]()

    def __next__(self) -> str:
        self._index += 1
        if self._index <= len(self._order):
            return words.ALL[self._order[self._index - 1]]
        while True:
            adjective, noun = self._random.integers((len(words.ADJECTIVES), len(words.NOUNS)))
            pair = f"{words.ADJECTIVES[adjective]}-{words.NOUNS[noun]}"
            if pair not in self._used:
                self._used.add(pair)
                return pair


def _listed(answers: list[str]) -> str:
    return " ".join(f"{number}. {word}" for number, word in enumerate(answers, 1))


class FrequentWordQuestions(TemplateQuestions):
    """Questions of `RulerFrequentWords`."""

    metrics: tuple[str, ...] = ("string_match_all",)
    MAX_NEW_TOKENS: ClassVar[int] = 50

    def __init__(self, config: RulerFrequentWords, reading: Reading) -> None:
        """Checks the length; ConfigError where it is too short."""
        self._config, self._vocabulary = config, reading.vocabulary
        self._header = reading.vocabulary.encode(FREQUENT_HEADER)
        self._footer = encode_piece(reading.vocabulary, FREQUENT_FOOTER)
        super().__init__(config, reading)

    @property
    def _max_new_tokens(self) -> int:
        return self._config.max_new_tokens or self.MAX_NEW_TOKENS

    def _least_length(self) -> int:
        word = len(encode_piece(self._vocabulary, " " + "q" * self._config.word_length))
        dots = len(encode_piece(self._vocabulary, f" {DOTS}"))
        frame = len(self._header) + len(self._footer)
        budget = max(self._max_new_tokens, NUM_FREQUENT * word)
        size = frame + budget
        while True:  # a longer text may have more words, among which the number of each word is smaller
            shares = self._shares(self._num_words(size))
            counts = _counts(shares, _least_total(shares))
            needed = frame + budget + dots * int(counts[0]) + word * int(counts[1:].sum())
            if needed <= size:
                return size
            size = needed

    def _num_words(self, length: int) -> int:
        return self._config.num_words or max((length - self._max_new_tokens) // 50, NUM_FREQUENT + 2)

    def _shares(self, num_words: int) -> NDArray[np.float64]:
        """Expected share of each word of the text, the dots first."""
        alpha = self._config.alpha
        return np.asarray(np.arange(1, num_words + 1) ** -alpha / _zeta(alpha), np.float64)

    def _ask(self, random: np.random.Generator, length: int) -> Asked:
        shares = self._shares(self._num_words(length))
        coded = [DOTS, *_draw_coded(random, self._config.word_length, len(shares) - 1)]
        answers = tuple(coded[1 : 1 + NUM_FREQUENT])
        answer = " ".join(answers)
        budget = self._budget(answer, " ", self._max_new_tokens)
        encoded = [encode_piece(self._vocabulary, f" {word}") for word in coded]
        sizes = np.array([len(ids) for ids in encoded])
        frame = len(self._header) + len(self._footer) + budget
        total = _largest_total(shares, sizes, length - frame)
        if total is None:
            needed = int(_counts(shares, _least_total(shares)) @ sizes)
            self._require_room(frame + needed, length)
            raise AssertionError("the least text has room, but no text was found")
        order = random.permutation(np.repeat(np.arange(len(shares)), _counts(shares, total)))
        prompt = np.concatenate([self._header, *(encoded[number] for number in order), self._footer])
        return Asked(Question(prompt, answers, budget), answer)


def _zeta(alpha: float) -> float:
    """Riemann's zeta function: the first terms, and Euler and Maclaurin's formula for the rest."""
    terms = 50
    head = math.fsum(number**-alpha for number in range(1, terms))
    return head + terms ** (1 - alpha) / (alpha - 1) + terms**-alpha / 2 + alpha * terms ** (-alpha - 1) / 12


def _counts(shares: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """How often each word comes in a text of about `total` words, as RULER rounds."""
    return (total * shares).astype(np.int64)


def _is_clear(shares: NDArray[np.float64], total: int) -> bool:
    """Whether those that are asked for come more often than every other word but the dots."""
    return int(total * shares[NUM_FREQUENT]) > int(total * shares[NUM_FREQUENT + 1])


def _least_total(shares: NDArray[np.float64]) -> int:
    """The least number of words that has an answer."""
    return next(total for total in range(1, 1 << 31) if _is_clear(shares, total))


def _largest_total(shares: NDArray[np.float64], sizes: NDArray[np.int64], room: int) -> int | None:
    """The largest number of words that has room and an answer; None: there is none."""
    low, high = 0, 1
    while _counts(shares, high) @ sizes <= room:
        low, high = high, 2 * high
    while high - low > 1:  # the tokens of `low` words have room, those of `high` words have none
        middle = (low + high) // 2
        low, high = (middle, high) if _counts(shares, middle) @ sizes <= room else (low, middle)
    least = _least_total(shares)
    return next((total for total in range(low, least - 1, -1) if _is_clear(shares, total)), None)


def _draw_coded(random: np.random.Generator, num_letters: int, num_words: int) -> list[str]:
    """Draws different words of so many letters."""
    letters, drawn = np.array(list(string.ascii_lowercase)), dict[str, None]()
    while len(drawn) < num_words:
        rows = random.choice(letters, (num_words - len(drawn), num_letters))
        drawn |= dict.fromkeys(map("".join, rows))
    return list(drawn)
