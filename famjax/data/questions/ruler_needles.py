"""The tasks `ruler_niah_*`: needles in a haystack, as RULER (arXiv 2404.06654) hides and asks for them."""

import dataclasses
import functools
import uuid

import numpy as np

from famjax.data.corpus import Corpus
from famjax.data.examples import Reading
from famjax.data.pieces import encode_piece
from famjax.data.questions import words
from famjax.data.questions.background import Background, Ids, needed_tokens
from famjax.data.questions.haystacks import (
    NOISE,
    draw_depths,
    draw_line_places,
    encode_line,
    insert_lines,
    sentences_before,
)
from famjax.data.questions.question import Question
from famjax.data.questions.ruler_config import NeedleType, RulerNeedle
from famjax.data.questions.templates import Asked, TemplateQuestions

MAX_NEW_TOKENS = 128
NEEDLE = "One of the special magic {value_type} for {key} is: {value}."
# For several answers, and for one.
HEADERS = (
    (
        "Some special magic {value_type}s are hidden within the following text. Make sure to memorize it. "
        "I will quiz you about the {value_type}s afterwards."
    ),
    (
        "A special magic {value_type} is hidden within the following text. Make sure to memorize it. "
        "I will quiz you about the {value_type} afterwards."
    ),
)
FOOTERS = (
    (
        "\nWhat are all the special magic {value_type}s for {query} mentioned in the provided text? "
        "The special magic {value_type}s for {query} mentioned in the provided text are"
    ),
    (
        "\nWhat is the special magic {value_type} for {query} mentioned in the provided text? "
        "The special magic {value_type} for {query} mentioned in the provided text is"
    ),
)
_DIGITS = 7
# Draws of a kind that bound its tokens.
_PROBES = 64


@dataclasses.dataclass(frozen=True)
class _Needle:
    """A needle.

    Attributes:
      text: a sentence.
      asked: whether the question asks for it.
    """

    text: str
    asked: bool


class NeedleQuestions(TemplateQuestions):
    """Questions of `RulerNeedle`.

    Attributes:
      corpus: where real text comes from; None where there is none.
    """

    metrics: tuple[str, ...] = ("string_match_all",)

    def __init__(self, config: RulerNeedle, reading: Reading) -> None:
        """Opens the haystack; ConfigError, DataError as `Background`, ConfigError for too short a length."""
        self._config, self._vocabulary = config, reading.vocabulary
        super().__init__(config, reading)
        self._background: Background | None = None
        if config.haystack == "essay":
            self._background = Background("RulerNeedle.documents", config.documents, reading)
        self.corpus: Corpus | None = None if self._background is None else self._background.corpus

    def _least_length(self) -> int:
        config = self._config
        key, value = (self._longest(kind) for kind in (config.key_type, config.value_type))
        header, footer = self._frame([key] * config.num_queries)
        answer = ", ".join([value] * (config.num_queries * config.num_values))
        needle = self._needle(key, value)
        line = encode_line(self._vocabulary, needle)
        needles = max(config.num_needles * len(line), needed_tokens(self._vocabulary, [needle] * config.num_needles))
        budget = self._budget(answer, " ", config.max_new_tokens or MAX_NEW_TOKENS)
        return len(header) + len(footer) + budget + needles

    def _longest(self, kind: NeedleType) -> str:
        """A key or value of as many tokens as any, or nearly."""

        def size(text: str) -> int:
            return len(encode_piece(self._vocabulary, f" {text}"))

        if kind == "words":
            return f"{max(words.ADJECTIVES, key=size)}-{max(words.NOUNS, key=size)}"
        random = np.random.default_rng(0)
        return max((_draw(random, kind) for _ in range(_PROBES)), key=size)

    def _needle(self, key: str, value: str) -> str:
        return NEEDLE.format(value_type=self._config.value_type, key=key, value=value)

    def _frame(self, queries: list[str]) -> tuple[Ids, Ids]:
        """What stands before and behind the haystack."""
        config = self._config
        one = config.num_queries * config.num_values == 1
        query = queries[0] if len(queries) == 1 else f"{', '.join(queries[:-1])}, and {queries[-1]}"
        names = {"value_type": config.value_type.removesuffix("s"), "query": query}
        header = HEADERS[one].format(**names) + ("\n" if config.haystack == "essay" else "")
        return self._vocabulary.encode(header), encode_piece(self._vocabulary, FOOTERS[one].format(**names))

    def _ask(self, random: np.random.Generator, length: int) -> Asked:
        config = self._config
        used = set[str]()
        keys = [_draw(random, config.key_type, used) for _ in range(max(config.num_keys, config.num_queries))]
        values = {key: [_draw(random, config.value_type, used) for _ in range(config.num_values)] for key in keys}
        queries = [keys[number] for number in random.choice(len(keys), config.num_queries, replace=False)]
        needles = [_Needle(self._needle(key, one), key in queries) for key in keys for one in values[key]]
        needles = [needles[number] for number in random.permutation(len(needles))]
        references = tuple(value for key in queries for value in values[key])
        answer = ", ".join(references)
        header, footer = self._frame(queries)
        budget = self._budget(answer, " ", config.max_new_tokens or MAX_NEW_TOKENS)
        room = length - budget - len(header) - len(footer)
        if self._background is not None:
            context = self._in_text(self._background, random, needles, room, length)
        else:
            context = self._in_lines(random, needles, used, room, length)
        prompt = np.concatenate([header, context, footer])
        return Asked(Question(prompt, references, budget), answer)

    def _in_text(
        self, background: Background, random: np.random.Generator, needles: list[_Needle], room: int, length: int
    ) -> Ids:
        depths = draw_depths(random, len(needles))
        at = [self._config.depth if needle.asked else None for needle in needles]
        texts = [needle.text for needle in needles]
        self._require_room(length - room + needed_tokens(self._vocabulary, texts), length)
        return background.hide(random, texts, functools.partial(sentences_before, depths, at), room)

    def _in_lines(
        self, random: np.random.Generator, needles: list[_Needle], used: set[str], room: int, length: int
    ) -> Ids:
        config = self._config
        encoded = [encode_line(self._vocabulary, needle.text) for needle in needles]
        free = room - sum(map(len, encoded))
        self._require_room(length - free, length)
        lines = self._lines(random, used, free)
        places = draw_line_places(random, len(needles), len(lines))
        if config.depth is not None:
            at = round(config.depth * len(lines))
            places = [at if needle.asked else place for needle, place in zip(needles, places, strict=True)]
        return np.concatenate(insert_lines(lines, encoded, places))

    def _lines(self, random: np.random.Generator, used: set[str], num_tokens: int) -> list[Ids]:
        """The lines of the haystack, as many as have room."""
        config = self._config
        if config.haystack == "noise":
            line = encode_line(self._vocabulary, NOISE)
            return [line] * (num_tokens // len(line))
        lines = list[Ids]()
        while True:
            key = _draw(random, config.key_type, used)
            line = encode_line(self._vocabulary, self._needle(key, _draw(random, config.value_type, used)))
            num_tokens -= len(line)
            if num_tokens < 0:
                return lines
            lines.append(line)


def _draw(random: np.random.Generator, kind: NeedleType, used: set[str] | None = None) -> str:
    """Draws a key or value; no `used` one, to which it is added."""
    used = set() if used is None else used
    while True:
        match kind:
            case "words":
                adjective, noun = random.integers((len(words.ADJECTIVES), len(words.NOUNS)))
                drawn = f"{words.ADJECTIVES[adjective]}-{words.NOUNS[noun]}"
            case "numbers":
                drawn = str(random.integers(10 ** (_DIGITS - 1), 10**_DIGITS))
            case "uuids":
                drawn = str(uuid.UUID(bytes=random.bytes(16), version=4))
        if drawn not in used:
            used.add(drawn)
            return drawn
