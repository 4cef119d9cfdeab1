"""Many requests to one model, in batches of one shape. Results come in order, whatever the batching."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from famjax.inference.config import SamplingConfig
from famjax.inference.context import Context
from famjax.inference.decoding import Generation
from famjax.inference.language_model import LanguageModel
from famjax.inference.reading import Ids, TokenScores

Item = TypeVar("Item")


def generate(
    model: LanguageModel, prompts: Sequence[Ids], samplings: SamplingConfig | Sequence[SamplingConfig]
) -> Iterator[list[Generation]]:
    """Answers prompts.

    Args:
      model: answers, `model.batch_size` answers at a time.
      prompts: ids of each; the beginning token is put before them.
      samplings: how each is answered, or all.

    Yields:
      For each prompt its `num_samples` answers.

    Raises:
      ConfigError: a stop token that the vocabulary lacks.
      DataError: an id outside the vocabulary.
    """
    each = [samplings] * len(prompts) if isinstance(samplings, SamplingConfig) else samplings
    answers = [(place, index) for place, sampling in enumerate(each) for index in range(sampling.num_samples)]
    generations = itertools.chain.from_iterable(
        _generate_batch(model, batch, prompts, each) for batch in _batches(answers, model.batch_size)
    )
    for sampling in each:
        yield list(itertools.islice(generations, sampling.num_samples))


def _generate_batch(
    model: LanguageModel,
    answers: list[tuple[int, int]],
    prompts: Sequence[Ids],
    samplings: Sequence[SamplingConfig],
) -> list[Generation]:
    """Gives answers: (place of the prompt, which of its samples). A prompt is read once for its samples in a batch."""
    size = model.batch_size
    places = list(dict.fromkeys(place for place, _ in answers))
    context = model.read(model.start(size), _filled([prompts[place] for place in places], size))
    rows = [(places.index(place), index) for place, index in answers]
    return answer_rows(model, context, rows, [samplings[place] for place in places])


def answer_rows(
    model: LanguageModel,
    context: Context,
    answers: Sequence[tuple[int, int]],
    samplings: Sequence[SamplingConfig],
    report: Callable[[int], None] = lambda _: None,
) -> list[Generation]:
    """Answers rows of a context, several times each where asked to, in one batch of `model.batch_size`.

    Args:
      model: answers.
      context: what was read.
      answers: row, and which of its samples; at most `model.batch_size`.
      samplings: of each row that is asked.
      report: called with the tokens drawn so far, while the answers grow.
    """
    missing = model.batch_size - len(answers)
    rows = [row for row, _ in answers] + [0] * missing
    filler = dataclasses.replace(samplings[answers[0][0]], max_new_tokens=1)
    if rows != list(range(context.num_rows)):
        context = model.select(context, rows)
    drawn = [samplings[row] for row, _ in answers] + [filler] * missing
    decoding = model.decoding(context, drawn, [index for _, index in answers] + [0] * missing, keep_context=False)
    while decoding.active:
        decoding.advance()
        report(sum(len(answer.tokens) for answer in decoding.answers[: len(answers)]))
    return [answer.finished() for answer in decoding.answers[: len(answers)]]


def score_continuations(
    model: LanguageModel, prompts: Sequence[Ids], continuations: Sequence[Sequence[Ids]]
) -> Iterator[list[TokenScores]]:
    """Scores what might come next after each of many prompts; each prompt is read once.

    Every step has `model.batch_size` rows, so that a score does not depend on what else is asked.

    Args:
      model: scores, `model.batch_size` continuations at a time.
      prompts: ids of each; the beginning token is put before them.
      continuations: of each prompt.

    Yields:
      For each prompt the scores of its continuations.

    Raises:
      DataError: an id outside the vocabulary.
    """
    for batch in _batches(list(zip(prompts, continuations, strict=True)), model.batch_size):
        context = model.read(model.start(model.batch_size), _filled([prompt for prompt, _ in batch], model.batch_size))
        asked = [(row, ids) for row, (_, several) in enumerate(batch) for ids in several]
        scores = itertools.chain.from_iterable(
            _score_batch(model, context, together) for together in _batches(asked, model.batch_size)
        )
        for _, several in batch:
            yield list(itertools.islice(scores, len(several)))


def _score_batch(model: LanguageModel, context: Context, asked: list[tuple[int, Ids]]) -> list[TokenScores]:
    """Scores (row of the context, continuation)."""
    rows = [row for row, _ in asked] + [0] * (model.batch_size - len(asked))
    tokens = _filled([ids for _, ids in asked], model.batch_size)
    return model.score(model.select(context, rows), tokens)[1][: len(asked)]


def score_documents(model: LanguageModel, documents: Sequence[Ids]) -> Iterator[TokenScores]:
    """Scores every token of documents of any length, each in one pass over the state, from the beginning token on."""
    for batch in _batches(list(documents), model.batch_size):
        filled = _filled(batch, model.batch_size)
        yield from model.score(model.start(model.batch_size), filled)[1][: len(batch)]


def _filled(rows: list[Ids], size: int) -> list[Ids]:
    """So many rows; those that are missing are empty."""
    return [*rows, *[np.zeros(0, np.int32)] * (size - len(rows))]


def _batches(items: list[Item], size: int) -> Iterator[list[Item]]:
    return (items[first : first + size] for first in range(0, len(items), size))
