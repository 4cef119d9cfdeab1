"""Real text in which something is hidden: sentences of a corpus, from a drawn place on, and other text between them."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from famjax.data.corpus import Corpus, open_corpus
from famjax.data.examples import Reading
from famjax.data.pieces import encode_piece
from famjax.data.task_config import Documents
from famjax.data.vocabularies import Vocabulary
from famjax.errors import ConfigError, DataError

Ids = NDArray[np.int32]
# A full stop and its like, with what closes behind them, and a blank (which ideographic ones need not have).
_SENTENCE_END = re.compile(r"[.!?\u2026][\"'\u201d\u2019)\]]* |[\u3002\uff01\uff1f] ?")
# Of a text without sentences, as a table, up to 400 characters that end with a word; or so many of an endless word.
_PIECES = re.compile(r"\S(?:.{0,398}\S)?(?= |$)|\S{1,400}")
_LEAST_WINDOW, _LARGEST_WINDOW = 1 << 11, 1 << 18


@dataclasses.dataclass(frozen=True)
class Sentence:
    """A sentence as it follows another.

    Attributes:
      text: without white space around it.
      ids: int32 [n], with the blank before it.
    """

    text: str
    ids: Ids


# tokens of the sentences of the background, in order [sentences] -> the number of sentences before each hidden text, 0
# to [sentences]; a pure function, which may be called again
Placing = Callable[[Sequence[int]], Sequence[int]]


class Background:
    """Sentences of a corpus. White space is one blank each, as in RULER's essays."""

    def __init__(self, setting: str, name: str, reading: Reading) -> None:
        """Opens the corpus.

        Args:
          setting: which names the task of documents, as "RulerNeedle.documents".
          name: the name that it has.
          reading: how the task that hides something is read.

        Raises:
          ConfigError: that is no task of documents.
          DataError: the documents cannot be read, or (from `hide`) hold no words.
        """
        documents = reading.task_config(name)
        if not isinstance(documents, Documents):
            raise ConfigError(f"{setting} = {name!r} is no task of type Documents.")
        self.corpus: Corpus = open_corpus(documents, reading.split, reading.vocabulary)
        self._vocabulary, self._where = reading.vocabulary, f"{setting} = {name!r}"

    def hide(self, random: np.random.Generator, texts: Sequence[str], placing: Placing, num_tokens: int) -> Ids:
        """Hides texts among sentences from a drawn place on; a corpus too small for that is read over and over.

        Args:
          random: draws the place.
          texts: what is hidden; those with the same place keep their order.
          placing: where.
          num_tokens: wanted; the texts must have room in it.

        Returns:
          int32 [num_tokens]: texts and sentences with blanks between them, the last sentence cut. Up to 4 fewer, where
          the cut would part a character, or the first blank is saved.
        """
        hidden = [make_sentence(self._vocabulary, text) for text in texts]
        sentences = self._take(random, num_tokens - needed_tokens(self._vocabulary, texts))
        while True:
            places = placing([len(sentence.ids) for sentence in sentences])
            pieces = _weave(sentences, hidden, places)
            ids = [self._encode_first(piece) if not number else piece.ids for number, piece in enumerate(pieces)]
            excess = sum(map(len, ids)) - num_tokens
            if excess <= 0:
                return np.concatenate(ids) if ids else np.zeros(0, np.int32)
            last = sentences.pop()
            sentences += self._cut(last, len(last.ids) - excess)

    def _encode_first(self, sentence: Sentence) -> Ids:
        return encode_piece(self._vocabulary, sentence.text)

    def _take(self, random: np.random.Generator, num_tokens: int) -> list[Sentence]:
        """Takes consecutive sentences of so many tokens, the last one cut."""
        taken: list[Sentence] = []
        place, missing = int(random.integers(self.corpus.encoded.tokens.size)), num_tokens
        for text in self._sentences(place, num_tokens):
            sentence = make_sentence(self._vocabulary, text)
            if len(sentence.ids) >= missing:
                break
            taken.append(sentence)
            missing -= len(sentence.ids)
        return taken + self._cut(sentence, missing)

    def _cut(self, sentence: Sentence, num_tokens: int) -> list[Sentence]:
        """The beginning of a sentence, without a parted character; none where nothing is left."""
        for size in range(num_tokens, max(num_tokens - 4, 0), -1):
            text = self._vocabulary.decode(sentence.ids[:size]).strip()
            if not text.endswith("\N{REPLACEMENT CHARACTER}"):
                return [Sentence(text, sentence.ids[:size])] if text else []
        return []

    def _sentences(self, place: int, num_tokens: int) -> Iterator[str]:
        """Sentences from `place` on, without end; the parts of sentences at the ends of what is read are left out."""
        tokens, end = self.corpus.encoded.tokens, self._vocabulary.eos_id
        size = min(max(num_tokens + num_tokens // 8, _LEAST_WINDOW), _LARGEST_WINDOW)
        empty = 0
        while empty <= tokens.size:
            window = np.take(tokens, np.arange(place, place + size), mode="wrap")
            place = (place + size) % tokens.size
            ends = np.zeros(0, np.int64) if end is None else np.flatnonzero(window == end)
            text = " ".join(map(self._vocabulary.decode, np.split(window, ends)))
            sentences = split_sentences(text)[1:-1]
            yield from sentences
            empty = 0 if sentences else empty + size
        raise DataError(f"{self._where}: the documents hold no words in which something could be hidden.")


def make_sentence(vocabulary: Vocabulary, text: str) -> Sentence:
    """Encodes a sentence."""
    return Sentence(text, encode_piece(vocabulary, f" {text}"))


def needed_tokens(vocabulary: Vocabulary, texts: Sequence[str]) -> int:
    """Tokens that `Background.hide` needs for texts: what comes first has no blank before it, which may cost some."""
    encoded = [make_sentence(vocabulary, text) for text in texts]
    spare = max([0, *(len(encode_piece(vocabulary, one.text)) - len(one.ids) for one in encoded)])
    return spare + sum(len(one.ids) for one in encoded)


def split_sentences(text: str) -> list[str]:
    """Splits a text behind its full stops; what has none for long, between words."""
    text = " ".join(text.split())
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    bounds = zip([0, *ends], [*ends, len(text)], strict=True)
    return [piece for start, end in bounds for piece in _PIECES.findall(text[start:end])]


def place_at(depth: float, sizes: Sequence[int]) -> int:
    """The number of sentences before the place nearest to a depth, given the tokens of each sentence."""
    before = np.concatenate([[0], np.cumsum(np.asarray(sizes, np.int64))])
    return int(np.argmin(np.abs(before - depth * before[-1])))


def _weave(sentences: Sequence[Sentence], hidden: Sequence[Sentence], places: Sequence[int]) -> list[Sentence]:
    """All in order, each hidden one behind the number of sentences that its place says."""
    woven, start = list[Sentence](), 0
    for one, place in sorted(zip(hidden, places, strict=True), key=lambda pair: pair[1]):
        woven += [*sentences[start:place], one]
        start = place
    return [*woven, *sentences[start:]]
