"""The task `ruler_vt`: RULER's variable tracking, chains of assignments hidden in text."""

import dataclasses
import functools
import string
from collections.abc import Sequence

import numpy as np

from famjax.data.corpus import Corpus
from famjax.data.examples import Reading
from famjax.data.pieces import encode_piece
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
from famjax.data.questions.ruler_config import RulerVariableTracking
from famjax.data.questions.templates import Asked, TemplateQuestions

MAX_NEW_TOKENS = 30
HEADER = "Memorize and track the chain(s) of variable assignment hidden in the following text.\n"
FOOTER = (
    "\nQuestion: Find all variables that are assigned the value {value} in the text above."
    " Answer: According to the chain(s) of variable assignment in the text above, {number} variables are assigned the "
    "value {value}, they are: "
)
_LETTERS, _EXAMPLE_LETTERS = 5, 3
# Of the solved example: tokens, hops and lines of noise.
_EXAMPLE_TOKENS, _EXAMPLE_HOPS, _EXAMPLE_LINES = 500, 10, 5


@dataclasses.dataclass(frozen=True)
class _Chain:
    """A chain of variables.

    Attributes:
      value: of all of them.
      names: in the order of their assignments.
    """

    value: str
    names: tuple[str, ...]

    @property
    def assignments(self) -> list[str]:
        """As RULER writes them, with a blank behind all but the first."""
        hops = zip(self.names[1:], self.names[:-1], strict=True)
        return [f"VAR {self.names[0]} = {self.value}", *(f"VAR {name} = VAR {before} " for name, before in hops)]


class VariableQuestions(TemplateQuestions):
    """Questions of `RulerVariableTracking`.

    Attributes:
      corpus: where real text comes from; None where there is none.
    """

    metrics: tuple[str, ...] = ("string_match_all",)

    def __init__(self, config: RulerVariableTracking, reading: Reading) -> None:
        """Opens the haystack; ConfigError, DataError as `Background`, ConfigError for too short a length."""
        self._config, self._vocabulary = config, reading.vocabulary
        self._noise = encode_line(reading.vocabulary, NOISE)
        super().__init__(config, reading)
        self._background: Background | None = None
        if config.haystack == "essay":
            self._background = Background("RulerVariableTracking.documents", config.documents, reading)
        self.corpus: Corpus | None = None if self._background is None else self._background.corpus

    def _least_length(self) -> int:
        config = self._config
        letters = max(string.ascii_uppercase, key=lambda letter: len(encode_piece(self._vocabulary, f" {letter * 5}")))
        chain = _Chain("99999", (letters * _LETTERS,) * (config.num_hops + 1))
        budget = self._budget(" ".join(chain.names), "", config.max_new_tokens or MAX_NEW_TOKENS)
        chains = self._size([chain] * config.num_chains)
        return self._example_size(chain) + sum(map(len, self._ends(chain))) + chains + budget

    def _size(self, chains: Sequence[_Chain]) -> int:
        """Tokens that the assignments need in a haystack."""
        texts = [f"{text.strip()}." for chain in chains for text in chain.assignments]
        lines = sum(len(encode_line(self._vocabulary, text)) for chain in chains for text in chain.assignments)
        return max(lines, needed_tokens(self._vocabulary, texts))

    def _ends(self, chain: _Chain, first: bool = True) -> tuple[Ids, Ids]:
        """What stands before and behind the haystack, of the first question of a prompt or of another."""
        header = HEADER + ("\n" if self._config.haystack == "essay" else "")
        footer = FOOTER.format(value=chain.value, number=len(chain.names))
        encoded = self._vocabulary.encode(header) if first else encode_piece(self._vocabulary, header)
        return encoded, encode_piece(self._vocabulary, footer)

    def _example_size(self, chain: _Chain) -> int:
        """At most so many tokens has the example with a chain of such names."""
        if not self._config.example:
            return 0
        frame = sum(map(len, self._ends(chain))) + self._size([chain] * self._config.num_chains)
        answer = len(encode_piece(self._vocabulary, " " + " ".join(chain.names) + "\n\n"))
        return max(_EXAMPLE_TOKENS, frame + _EXAMPLE_LINES * len(self._noise)) + answer

    def _ask(self, random: np.random.Generator, length: int) -> Asked:
        config = self._config
        used = set[str]()
        example = self._example(random, used) if config.example else np.zeros(0, np.int32)
        chains = [_draw_chain(random, used, config.num_hops, _LETTERS) for _ in range(config.num_chains)]
        names = chains[0].names
        answer = " ".join(names)
        header, footer = self._ends(chains[0], first=not config.example)
        # RULER's prompt ends with a blank, which some vocabularies drop.
        separator = "" if self._vocabulary.decode(footer).endswith(" ") else " "
        budget = self._budget(answer, separator, config.max_new_tokens or MAX_NEW_TOKENS)
        room = length - budget - len(example) - len(header) - len(footer)
        self._require_room(length - room + self._size(chains), length)
        context = self._context(random, chains, room)
        prompt = np.concatenate([example, header, context, footer])
        return Asked(Question(prompt, names, budget), answer, separator)

    def _example(self, random: np.random.Generator, used: set[str]) -> Ids:
        """A solved question of RULER's size: 500 tokens, or a few lines of noise where they do not hold these."""
        config = self._config
        hops = min(config.num_hops, _EXAMPLE_HOPS)
        chains = [_draw_chain(random, used, hops, _EXAMPLE_LETTERS) for _ in range(config.num_chains)]
        header, footer = self._ends(chains[0])
        least = self._size(chains) + _EXAMPLE_LINES * len(self._noise)
        context = self._context(random, chains, max(_EXAMPLE_TOKENS - len(header) - len(footer), least))
        answer = encode_piece(self._vocabulary, " " + " ".join(chains[0].names) + "\n\n")
        return np.concatenate([header, context, footer, answer])

    def _context(self, random: np.random.Generator, chains: list[_Chain], room: int) -> Ids:
        """The haystack, with the assignments of each chain in their order."""
        if self._background is not None:
            owners = random.permutation(np.repeat(np.arange(len(chains)), [len(chain.names) for chain in chains]))
            rest = [iter(chain.assignments) for chain in chains]
            texts = [next(rest[owner]).strip() + "." for owner in owners]
            placing = functools.partial(sentences_before, draw_depths(random, len(texts)), [None] * len(texts))
            return self._background.hide(random, texts, placing, room)
        assignments = [encode_line(self._vocabulary, text) for chain in chains for text in chain.assignments]
        lines = [self._noise] * ((room - sum(map(len, assignments))) // len(self._noise))
        places = [place for chain in chains for place in draw_line_places(random, len(chain.names), len(lines))]
        return np.concatenate(insert_lines(lines, assignments, places))


def _draw_chain(random: np.random.Generator, used: set[str], num_hops: int, num_letters: int) -> _Chain:
    """Draws a chain of names and a value that are not among `used`, and adds them to that."""
    drawn = list[str]()
    letters = np.array(list(string.ascii_uppercase))
    while len(drawn) <= num_hops:
        name = "".join(random.choice(letters, num_letters))
        if name not in used:
            used.add(name)
            drawn.append(name)
    while (value := str(random.integers(10_000, 100_000))) in used:
        pass
    used.add(value)
    return _Chain(value, tuple(drawn))
