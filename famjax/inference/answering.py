"""Answers to batches of prompts: documents are read once, prompts together, every sample from the same memory.

What a prompt is answered does not depend on the prompts beside it: every compiled step has `model.batch_size` rows.
"""

import collections
import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from famjax.errors import DataError, Stopped
from famjax.inference.config import MemoryOverrides
from famjax.inference.context import Context
from famjax.inference.decoding import Generation
from famjax.inference.language_model import LanguageModel
from famjax.inference.progress import Progress
from famjax.inference.prompts import Prompt, Start
from famjax.inference.requests import answer_rows
from famjax.inference.text_stream import encode_stream, read_text
from famjax.training.stopping import StopSignal
from famjax.training.writers import name_of

_NO_TOKENS = np.zeros(0, np.int32)


@dataclasses.dataclass
class _Count:
    """Of one text.

    Attributes:
      tokens: read.
      unknown: of these, the vocabulary's token for text that it lacks.
    """

    tokens: int = 0
    unknown: int = 0


@dataclasses.dataclass(frozen=True)
class _Begun:
    """What a prompt goes on from, read; one row."""

    context: Context
    count: _Count


class AdaptingAnswerer:
    """Answers batches of prompts, each with its adapter on the one base; keeps as many adapters as a batch has rows."""

    def __init__(self, model: LanguageModel, memory: MemoryOverrides, progress: Progress, stop: StopSignal) -> None:
        """Begins.

        Args:
          model: answers prompts without an adapter, and has the base of the others.
          memory: another memory than in training, for all.
          progress: see `Answerer`.
          stop: see `Answerer`.
        """
        self._model, self._memory = model, memory
        self._progress, self._stop = progress, stop
        self._answerers: collections.OrderedDict[str, Answerer] = collections.OrderedDict()

    def answer(self, batch: Sequence[Prompt]) -> list[dict[str, Any]]:
        """Answers up to `model.batch_size` prompts, those of one adapter together; see `Answerer.answer`.

        Raises:
          CheckpointError: an adapter that cannot be read, or of another base.
        """
        results: dict[int, dict[str, Any]] = {}
        for adapter in dict.fromkeys(prompt.adapter for prompt in batch):
            own = [prompt for prompt in batch if prompt.adapter == adapter]
            results |= zip((prompt.index for prompt in own), self._answerer(adapter).answer(own), strict=True)
        return [results[prompt.index] for prompt in batch]

    def _answerer(self, adapter: str) -> "Answerer":
        answerer = self._answerers.pop(adapter, None)
        if answerer is None:
            model = self._model.with_adapter(adapter, memory=self._memory) if adapter else self._model
            answerer = Answerer(model, self._progress, self._stop)
        self._answerers[adapter] = answerer
        while len(self._answerers) > self._model.batch_size:
            self._answerers.popitem(last=False)
        return answerer


class Answerer:
    """Answers batches of prompts; keeps as many documents' memories as a batch has rows."""

    def __init__(self, model: LanguageModel, progress: Progress, stop: StopSignal) -> None:
        """Begins.

        Args:
          model: answers.
          progress: is told of every token.
          stop: looked at while texts are read; an answer that is begun is finished.
        """
        self._model, self._progress, self._stop = model, progress, stop
        self._begun: collections.OrderedDict[Start, _Begun] = collections.OrderedDict()

    def answer(self, batch: Sequence[Prompt]) -> list[dict[str, Any]]:
        """Answers up to `model.batch_size` prompts.

        Returns:
          Their results, as they are written.

        Raises:
          Stopped: a signal arrived while the prompts were read.
          DataError: a prompt, or its document, has no token.
          CheckpointError: a saved session is of another model.
        """
        begun = self._begin([prompt.start for prompt in batch])
        counts = [_Count() for _ in batch]
        pieces = [prompt.encode(self._model.vocabulary) for prompt in batch]
        context = self._read([each.context for each in begun], pieces, counts)
        for prompt, count in zip(batch, counts, strict=True):
            if not count.tokens:
                raise DataError(f"{prompt.place}: an empty prompt: its text has no token in this vocabulary.")
        generations = self._generate(context, batch)
        return [
            _result(prompt, before, count, list(itertools.islice(generations, prompt.sampling.num_samples)))
            for prompt, before, count in zip(batch, begun, counts, strict=True)
        ]

    def _begin(self, starts: Sequence[Start]) -> list[_Begun]:
        """What each prompt goes on from; what was not read lately is read, documents together."""
        needed = {start: self._begun.pop(start, None) for start in dict.fromkeys(starts)}
        documents = [start for start, found in needed.items() if found is None and start.document]
        begun = dict(zip(documents, self._read_documents(documents), strict=True))
        for start, found in needed.items():
            self._begun[start] = found or begun.get(start) or self._load(start)
        chosen = [self._begun[start] for start in starts]
        while len(self._begun) > self._model.batch_size:
            self._begun.popitem(last=False)
        return chosen

    def _read_documents(self, starts: Sequence[Start]) -> list[_Begun]:
        if not starts:
            return []
        counts = [_Count() for _ in starts]
        pieces = [encode_stream(self._model.vocabulary, read_text(start.document)) for start in starts]
        context = self._read([self._model.start()] * len(starts), pieces, counts)
        for start, count in zip(starts, counts, strict=True):
            if not count.tokens:
                raise DataError(f"{start.document} is empty: its text has no token in this vocabulary.")
        return [_Begun(self._model.select(context, [row]), count) for row, count in enumerate(counts)]

    def _load(self, start: Start) -> _Begun:
        if not start:
            return _Begun(self._model.start(), _Count())
        session = self._model.load(start.snapshot)
        return _Begun(session.context, _Count(tokens=session.num_tokens))

    def _read(
        self, contexts: Sequence[Context], texts: Sequence[Iterable[NDArray[np.int32]]], counts: Sequence[_Count]
    ) -> Context:
        """Reads a text in each row, in a batch that is filled up with rows that read nothing."""
        missing = self._model.batch_size - len(contexts)
        context = self._model.join([*contexts, *[contexts[0]] * missing])
        rows = [self._counted(pieces, count) for pieces, count in zip(texts, counts, strict=True)]
        return self._model.read(context, [*rows, *[_NO_TOKENS] * missing])

    def _counted(self, pieces: Iterable[NDArray[np.int32]], count: _Count) -> Iterator[NDArray[np.int32]]:
        unknown_id = self._model.vocabulary.unk_id
        for ids in pieces:
            if self._stop.requested:
                raise Stopped(f"{self._stop.name}: stopped while reading.")
            yield ids
            count.tokens += len(ids)
            count.unknown += int(np.count_nonzero(ids == unknown_id))
            self._progress.read += len(ids)
            self._progress.show()

    def _generate(self, context: Context, batch: Sequence[Prompt]) -> Iterator[Generation]:
        """The samples of the first prompt, those of the second, and so on."""
        samples = [(row, index) for row, prompt in enumerate(batch) for index in range(prompt.sampling.num_samples)]
        samplings = [prompt.sampling for prompt in batch]
        for first in range(0, len(samples), self._model.batch_size):
            together = samples[first : first + self._model.batch_size]
            report = functools.partial(self._report, self._progress.generated)
            yield from answer_rows(self._model, context, together, samplings, report)

    def _report(self, before: int, drawn: int) -> None:
        self._progress.generated = before + drawn
        self._progress.show()


def _result(prompt: Prompt, before: _Begun, count: _Count, generations: Sequence[Generation]) -> dict[str, Any]:
    """What is written of a prompt; see docs/inference.md."""
    result: dict[str, Any] = {
        "index": prompt.index,
        "id": prompt.record.get("id"),
        "completions": [_completion(generation) for generation in generations],
        "prompt_tokens": count.tokens,
        "context_tokens": before.count.tokens,
        "unknown_tokens": count.unknown + before.count.unknown,
    }
    if prompt.sampling.temperature:
        result["seed"] = prompt.sampling.seed
    return result | {name: prompt.record[name] for name in ("metadata",) if name in prompt.record}


def _completion(generation: Generation) -> dict[str, Any]:
    completion: dict[str, Any] = {
        "text": generation.text,
        "finish_reason": generation.finish_reason,
        "num_tokens": len(generation.tokens),
    }
    if generation.logprobs is not None:
        completion["tokens"] = generation.tokens.tolist()
        # The shortest digits that give the same float32; a number that JSON lacks, as in metrics.jsonl.
        completion["logprobs"] = [
            float(str(value)) if math.isfinite(value) else name_of(float(value)) for value in generation.logprobs
        ]
    return completion
