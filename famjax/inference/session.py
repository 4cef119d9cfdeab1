"""One text that was read, and questions about it: the small interface for people.

A session can be copied, saved and loaded. It takes as much memory after a million tokens as after one.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from famjax.data.pieces import encode_piece
from famjax.errors import ConfigError, DataError
from famjax.inference import snapshots
from famjax.inference.config import SamplingConfig
from famjax.inference.context import Context
from famjax.inference.decoding import Generation
from famjax.inference.reading import TokenScores
from famjax.inference.text_stream import encode_stream, read_text

if TYPE_CHECKING:
    from famjax.inference.language_model import LanguageModel


class Session:
    """What a model has read of one text.

    Attributes:
      model: the model.
      context: what was read; one row.
    """

    def __init__(self, model: "LanguageModel", context: Context) -> None:
        """Goes on where `context` stands; `LanguageModel.session` starts a text."""
        self.model, self.context = model, context

    def __repr__(self) -> str:
        """Says whose session it is, and how much it has read."""
        return f"<Session of {self.model.checkpoint.path}: {self.num_tokens} tokens read>"

    @property
    def num_tokens(self) -> int:
        """Tokens read, the beginning token not counted."""
        return int(self.context.num_tokens[0]) - 1

    def read(self, text: str | Iterable[str]) -> None:
        """Reads on.

        Args:
          text: a string, or pieces of one text, which are read as they come: it may be larger than the memory.

        Raises:
          DataError: there is no text.
        """
        before = self.num_tokens
        if isinstance(text, str):
            self.read_tokens(self.asked(text))
        else:
            self.context = self.model.read(self.context, [self._encoded(text)])
        if self.num_tokens == before:
            raise DataError("There is nothing to read: an empty text.")

    def read_file(self, path: str | os.PathLike[str]) -> None:
        """Reads a text file (UTF-8; .gz is decompressed) from disk as it goes.

        Raises:
          DataError: it cannot be read, is empty, or is not UTF-8 (the message has the place).
        """
        before = self.num_tokens
        self.context = self.model.read(self.context, [self._encoded(read_text(path))])
        if self.num_tokens == before:
            raise DataError(f"{path} is empty: there is nothing to read.")

    def read_tokens(self, tokens: Sequence[int] | NDArray[np.integer]) -> None:
        """Reads ids on; DataError for one outside the vocabulary."""
        self.context = self.model.read(self.context, [tokens])

    def ask(self, prompt: str, sampling: SamplingConfig | None = None) -> Generation:
        """Reads a prompt and answers, on a copy: the session itself stays where it is.

        Raises:
          DataError: the prompt is empty.
          ConfigError: a stop token that the vocabulary lacks, or several samples (see `sample`).
        """
        copy = self.copy()
        copy.read(prompt)
        return copy.generate(sampling)

    def sample(self, prompt: str, sampling: SamplingConfig) -> list[Generation]:
        """Reads a prompt once and gives `sampling.num_samples` answers; the session stays where it is."""
        copy = self.copy()
        copy.read(prompt)
        indices = list(range(sampling.num_samples))
        context = self.model.select(copy.context, [0] * len(indices))
        return self.model.generate(context, sampling, indices)[1]

    def generate(self, sampling: SamplingConfig | None = None) -> Generation:
        """Says what comes next; the session has read it then."""
        self.context, (generation,) = self.model.generate(self.context, _of_one(sampling))
        return generation

    def stream(self, sampling: SamplingConfig | None = None) -> Iterator[str]:
        """`generate`, in pieces of text as they are drawn; the session goes as far as the pieces were taken."""
        decoding = self.model.decoding(self.context, _of_one(sampling))
        try:
            yield from decoding.stream()
        finally:
            self.context = decoding.context()

    def score(self, text: str) -> TokenScores:
        """The log-probability of each token of a text, were it to come next; the session stays where it is.

        Raises:
          DataError: the text is empty.
        """
        tokens = self.asked(text)
        if not len(tokens):
            raise DataError("There is nothing to score: an empty text.")
        return self.model.score(self.context, [tokens])[1][0]

    def copy(self) -> "Session":
        """Another session that has read the same; reading on in one does not change the other."""
        return Session(self.model, self.context)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes what was read to a file, for `LanguageModel.load`; CheckpointError where it cannot be written."""
        snapshots.save_context(self.model, self.context, path)

    def asked(self, text: str) -> NDArray[np.int32]:
        """Ids of a text that comes next."""
        vocabulary = self.model.vocabulary
        return encode_piece(vocabulary, text) if self.num_tokens else vocabulary.encode(text)

    def _encoded(self, pieces: Iterable[str]) -> Iterator[NDArray[np.int32]]:
        return encode_stream(self.model.vocabulary, pieces, goes_on=self.num_tokens > 0)


def _of_one(sampling: SamplingConfig | None) -> SamplingConfig:
    sampling = sampling or SamplingConfig()
    if sampling.num_samples > 1:
        raise ConfigError(f"SamplingConfig.num_samples = {sampling.num_samples}: a session goes on with one answer.")
    return sampling
