"""RULER's haystacks: real text, or lines, of which some are needles."""

from collections.abc import Sequence

import numpy as np

from famjax.data.pieces import encode_piece
from famjax.data.questions.background import Ids, place_at
from famjax.data.vocabularies import Vocabulary

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
# RULER's depths in real text, in percent.
DEPTHS = np.round(np.linspace(0, 100, 40)).astype(int)


def encode_line(vocabulary: Vocabulary, text: str) -> Ids:
    """Encodes a line as it follows another, with the line break before it [n]."""
    return encode_piece(vocabulary, f"\n{text}")


def draw_line_places(random: np.random.Generator, num_places: int, num_lines: int) -> list[int]:
    """Draws different places before lines, in order; where the lines are too few for that, any places."""
    if num_places <= num_lines:
        return sorted(int(place) for place in random.choice(num_lines, num_places, replace=False))
    return sorted(int(place) for place in random.integers(num_lines + 1, size=num_places))


def draw_depths(random: np.random.Generator, num_depths: int) -> list[float]:
    """Draws different depths of DEPTHS, 0 to 1, in order."""
    return sorted(float(depth) / 100 for depth in random.choice(DEPTHS, num_depths, replace=False))


def sentences_before(depths: Sequence[float], at: Sequence[float | None], sizes: Sequence[int]) -> list[int]:
    """The number of sentences before each needle.

    Args:
      depths: of each, in sentences, as RULER counts.
      at: of each in tokens, which comes first; None: there is none.
      sizes: tokens of each sentence.
    """
    pairs = zip(depths, at, strict=True)
    return [int(len(sizes) * depth) if fixed is None else place_at(fixed, sizes) for depth, fixed in pairs]


def insert_lines(lines: Sequence[Ids], needles: Sequence[Ids], places: Sequence[int]) -> list[Ids]:
    """Inserts each needle before the line that its place says; those with the same place keep their order."""
    inserted, start = list[Ids](), 0
    for order in np.argsort(np.asarray(places, np.int64), kind="stable"):
        inserted += [*lines[start : places[order]], needles[order]]
        start = places[order]
    return [*inserted, *lines[start:]]
