"""Answers, token by token: the device draws in bursts, the host looks for what ends an answer.

What an answer is does not depend on the size of a burst: what was drawn behind its end is dropped, and `context` reads
what is left again where the device has read too far.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import jax
import numpy as np
from numpy.typing import NDArray

from famjax.data.vocabularies import Vocabulary
from famjax.errors import ConfigError
from famjax.inference.config import SamplingConfig
from famjax.inference.context import Context, join, select
from famjax.inference.programs import BURST, BurstPlan, Programs
from famjax.inference.reading import read_rows, require_numbers
from famjax.inference.sampling import NO_LIMIT, Draw

FinishReason = Literal["stop", "length", "repetition"]

_LONGEST_PERIOD = 32


@dataclasses.dataclass(frozen=True, eq=False)
class Generation:
    """An answer.

    Attributes:
      tokens: ids, without the token that it stopped at [n].
      text: of the tokens, up to a stop string.
      logprobs: of the tokens, as the model has them, nats [n]; None where they were not asked for.
      finish_reason: "stop" (a stop token or stop string), "length" (`max_new_tokens`) or "repetition".
    """

    tokens: NDArray[np.int32]
    text: str
    logprobs: NDArray[np.float32] | None
    finish_reason: FinishReason

    def __eq__(self, other: object) -> bool:
        """Whether two answers are the same, their log-probabilities to the last bit included."""
        if not isinstance(other, Generation):
            return NotImplemented
        return (
            (self.text, self.finish_reason) == (other.text, other.finish_reason)
            and np.array_equal(self.tokens, other.tokens)
            and np.array_equal(np.asarray(self.logprobs), np.asarray(other.logprobs))
        )

    __hash__ = None  # type: ignore[assignment] # of arrays


class Answer:
    """One row's answer while it grows."""

    def __init__(self, sampling: SamplingConfig, vocabulary: Vocabulary) -> None:
        self.sampling, self.vocabulary = sampling, vocabulary
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self.finish_reason: FinishReason | None = None
        # A stop string of n characters lies in the last n tokens that are text, and a few that are none.
        self._window = max(map(len, sampling.stop_strings), default=0) * 4 + 8

    @property
    def budget(self) -> int:
        """Tokens that it may still get."""
        return 0 if self.finish_reason else self.sampling.max_new_tokens - len(self.tokens)

    def extend(self, tokens: Sequence[int], logprobs: Sequence[float], stopped: bool) -> int:
        """Takes what was drawn until something ends the answer; returns how many tokens it took."""
        for count, (token, logprob) in enumerate(zip(tokens, logprobs, strict=True)):
            if self.finish_reason:
                return count
            self.tokens.append(int(token))
            self.logprobs.append(float(logprob))
            self._look_for_the_end()
        if stopped and not self.finish_reason:
            self.finish_reason = "stop"
        return len(tokens)

    def finished(self) -> Generation:
        """The answer, cut at the stop string that it ends with, if any."""
        text = self.vocabulary.decode(self.tokens)
        found = [text.find(stop) for stop in self.sampling.stop_strings if stop in text]
        return Generation(
            tokens=np.array(self.tokens, np.int32),
            text=text[: min(found)] if found else text,
            logprobs=np.array(self.logprobs, np.float32) if self.sampling.logprobs else None,
            finish_reason="stop" if found else self.finish_reason or "length",
        )

    def _look_for_the_end(self) -> None:
        sampling = self.sampling
        if sampling.stop_strings:
            tail = self.vocabulary.decode(self.tokens[-self._window :])
            if any(stop in tail for stop in sampling.stop_strings):
                self.finish_reason = "stop"
        if not self.finish_reason and sampling.max_repetitions is not None and self._repeats(sampling.max_repetitions):
            self.finish_reason = "repetition"
        if not self.finish_reason and len(self.tokens) == sampling.max_new_tokens:
            self.finish_reason = "length"

    def _repeats(self, times: int) -> bool:
        """Whether the answer ends with the same 1 to 32 tokens so many times."""
        for period in range(1, min(len(self.tokens) // times, _LONGEST_PERIOD) + 1):
            tail = self.tokens[-period * times :]
            if all(tail[i] == tail[i + period] for i in range(len(tail) - period)):
                return True
        return False


class TextStream:
    """The text of an answer in pieces, as it grows: none is taken back later."""

    def __init__(self, answer: Answer) -> None:
        """Begins at the answer's begin."""
        self._answer, self._shown = answer, 0

    def take(self) -> str:
        """What can be shown by now: no half of a character, and nothing that may become a stop string."""
        answer = self._answer
        text = answer.finished().text
        if not answer.finish_reason:
            text = text.rstrip("\N{REPLACEMENT CHARACTER}")
            text = text[: len(text) - max((_overlap(text, stop) for stop in answer.sampling.stop_strings), default=0)]
        piece = text[self._shown :]
        self._shown += len(piece)
        return piece


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of `text` that `stop` begins with."""
    return next((size for size in range(min(len(stop), len(text)), 0, -1) if text.endswith(stop[:size])), 0)


class Decoding:
    """The answers of the rows of a context, while they grow.

    Attributes:
      answers: of each row, so far.
    """

    def __init__(
        self,
        programs: Programs,
        params: Any,
        vocabulary: Vocabulary,
        context: Context,
        samplings: Sequence[SamplingConfig],
        sample_indices: Sequence[int],
        keep_context: bool = True,
    ) -> None:
        """Starts answers.

        Args:
          programs: of the model.
          params: of the model.
          vocabulary: of the model.
          context: what was read.
          samplings: how each row draws, and where it ends.
          sample_indices: which of the answers to its prompt each row is: the same seed and index draw the same.
          keep_context: whether `context` will be asked for; without it nothing is kept for rows that have ended.

        Raises:
          ConfigError: a stop token that the vocabulary lacks.
        """
        self._programs, self._params = programs, params
        self._context, self._keep_context = context, keep_context
        self._vocab_size = vocabulary.vocab_size
        self.answers = [Answer(sampling, vocabulary) for sampling in samplings]
        self._draw = _make_draw(samplings, sample_indices)
        self._stop_tokens = _stop_tokens(samplings, vocabulary)
        # Rows that were read beyond their answer's end: each one's context before the burst, and the tokens that count.
        self._beyond: dict[int, tuple[Context, list[int]]] = {}

    @property
    def active(self) -> bool:
        """Whether some answer has not ended."""
        return any(answer.budget for answer in self.answers)

    def advance(self, steps: int = BURST) -> None:
        """Draws up to `steps` tokens, BURST at most, for every answer that has not ended."""
        done = np.array([len(answer.tokens) for answer in self.answers], np.int32)
        budgets = np.array([answer.budget for answer in self.answers], np.int32)
        before = self._context
        plan = BurstPlan(
            draw=self._draw,
            done=done,
            budgets=budgets,
            stop_tokens=self._stop_tokens,
            vocab_size=np.int32(self._vocab_size),
            steps=np.int32(min(steps, BURST)),
        )
        decoded = self._programs.decode(self._params, before.rows, plan)
        tokens, logprobs, counts, stopped = jax.device_get(
            (decoded.tokens, decoded.logprobs, decoded.counts, decoded.stopped)
        )
        require_numbers(logprobs)
        self._context = Context(rows=decoded.rows, num_tokens=before.num_tokens + counts)
        for row, (answer, count) in enumerate(zip(self.answers, counts.tolist(), strict=True)):
            taken = answer.extend(tokens[row, :count].tolist(), logprobs[row, :count].tolist(), bool(stopped[row]))
            if taken < count and self._keep_context:
                self._beyond[row] = (select(before, [row]), tokens[row, :taken].tolist())

    def stream(self) -> Iterator[str]:
        """The text of the only row's answer, in pieces as it grows."""
        (answer,) = self.answers
        text = TextStream(answer)
        while self.active:
            self.advance(1)
            yield text.take()

    def context(self) -> Context:
        """What was read, with exactly the tokens of the answers so far."""
        assert self._keep_context
        if not self._beyond:
            return self._context
        rows = []
        for row in range(self._context.num_rows):
            if row in self._beyond:
                before, tokens = self._beyond[row]
                rows.append(read_rows(self._programs, self._params, before, [tokens]))
            else:
                rows.append(select(self._context, [row]))
        return join(rows)


def _make_draw(samplings: Sequence[SamplingConfig], sample_indices: Sequence[int]) -> Draw:
    """How each row draws; its key depends on its seed and on which answer to its prompt it is."""
    keys = [
        jax.random.fold_in(jax.random.PRNGKey(sampling.seed), index)
        for sampling, index in zip(samplings, sample_indices, strict=True)
    ]
    return Draw(
        keys=np.stack([np.asarray(key) for key in keys]),
        temperature=np.array([sampling.temperature for sampling in samplings], np.float32),
        top_k=np.array([sampling.top_k or NO_LIMIT for sampling in samplings], np.int32),
        top_p=np.array([1.0 if sampling.top_p is None else sampling.top_p for sampling in samplings], np.float32),
    )


def _stop_tokens(samplings: Sequence[SamplingConfig], vocabulary: Vocabulary) -> NDArray[np.int32]:
    """The tokens at which each row stops, filled up with -1."""
    rows = []
    for sampling in samplings:
        ids = [number for token in sampling.stop_tokens for number in stop_token_ids(token, vocabulary)]
        if sampling.stop_at_eos and vocabulary.eos_id is not None:
            ids.append(vocabulary.eos_id)
        rows.append(list(dict.fromkeys(ids)))
    width = max(map(len, rows))
    return np.array([ids + [-1] * (width - len(ids)) for ids in rows], np.int32).reshape(len(rows), width)


def stop_token_ids(token: int | str, vocabulary: Vocabulary) -> list[int]:
    """The ids of one of `SamplingConfig.stop_tokens`: of a string at the beginning of a text, and within one.

    Raises:
      ConfigError: the vocabulary has no such token.
    """
    if isinstance(token, int):
        if 0 <= token < vocabulary.vocab_size:
            return [token]
        raise ConfigError(
            f"SamplingConfig.stop_tokens has {token}; the vocabulary's ids are 0 to {vocabulary.vocab_size - 1}."
        )
    alone, line_end = vocabulary.encode(token).tolist(), vocabulary.encode("\n").tolist()
    within = vocabulary.encode(f"\n{token}").tolist()
    found = [alone] + ([within[len(line_end) :]] if within[: len(line_end)] == line_end else [])
    ids = [ids[0] for ids in found if len(ids) == 1]
    if not ids:
        raise ConfigError(
            f"SamplingConfig.stop_tokens has {token!r}, which is no token of the vocabulary but {len(alone)}; "
            "set it in SamplingConfig.stop_strings."
        )
    return sorted(set(ids))
