"""The answer that a reader looks for first: which model holds up to which length."""

import dataclasses
import math
from collections.abc import Mapping

from famjax.evaluation.report.contents import Contents, TaskResults, reach
from famjax.evaluation.report.formatting import interval, listed, mean, words
from famjax.evaluation.report.pooling import lower_is_better
from famjax.evaluation.report.variants import Variant


@dataclasses.dataclass(frozen=True)
class Answer:
    """How one model does on one task.

    Attributes:
      headline: the length that it holds up to, or its score where the task asks no question or has no length.
      detail: how sure that is.
      rank: more is better, among the answers on this task.
    """

    headline: str
    detail: str
    rank: float


def asks_for_length(task: TaskResults) -> bool:
    """Whether "up to which length" has a meaning: a share of right answers, by length."""
    return bool(task.lengths) and not task.is_rolling and task.is_fraction(task.metric)


def answers(contents: Contents, task: TaskResults) -> dict[Variant, Answer]:
    """The answer for each variant with a result on the task."""
    found = {
        variant: _length_held(contents, task, variant) if asks_for_length(task) else _score(task, variant)
        for variant in task.by_variant
    }
    return {variant: answer for variant, answer in found.items() if answer is not None}


def best(found: Mapping[Variant, Answer]) -> tuple[Variant, ...]:
    """The variants that nobody is better than; none where there is nothing to choose from."""
    top = max((answer.rank for answer in found.values()), default=-math.inf)
    winners = tuple(variant for variant, answer in found.items() if answer.rank == top)
    return winners if math.isfinite(top) and len(winners) < len(found) else ()


def explanation(contents: Contents) -> str:
    """What the lengths of the summary mean."""
    if not any(asks_for_length(task) for task in contents.tasks):
        with_interval = any(task.has_intervals for task in contents.tasks)
        return "The score of each model" + ", with its 95 % confidence interval" * with_interval + "."
    with_surely = any(asks_for_length(task) and task.has_intervals for task in contents.tasks)
    surely = "; “surely”: at and below which the lower end of its 95 % confidence interval is"
    return (
        f"The longest length in tokens at and below which the metric is {contents.threshold:g} or more"
        f"{surely * with_surely}. “≥” marks the longest length evaluated."
    )


def sentence(contents: Contents, task: TaskResults) -> str:
    """Who does best on the task, in one sentence."""
    found = answers(contents, task)
    if not found:
        return f"{task.name}: every cell failed."
    winners = best(found)
    if not asks_for_length(task):
        if not winners:
            return f"{task.name}: {_enumerate(found)} ({words(task.metric)})."
        extreme = "lowest" if lower_is_better(task.metric) else "highest"
        first = found[winners[0]]
        return (
            f"{task.name}: {_names(winners)} has the {extreme} {words(task.metric)}, {first.headline} {first.detail}."
        )
    return _sentence_of_length(contents, task, winners or tuple(found))


def _sentence_of_length(contents: Contents, task: TaskResults, variants: tuple[Variant, ...]) -> str:
    """Up to which length these, who do equally well, hold up."""
    found = reach(task.curve(variants[0], task.metric), contents.threshold)
    if found is None or found.held is None:
        over_depths = " over all depths" if len(task.depths) > 1 else ""
        return (
            f"{task.name}: no model reaches {words(task.metric)} {contents.threshold:g}{over_depths} at its shortest "
            f"length, {task.lengths[0]:,} tokens{_sentence_of_depth(contents, task)}."
        )
    beyond = ", the longest length evaluated" if found.held == task.lengths[-1] else ""
    end = f"to {found.held:,} tokens{beyond}{_times_trained(contents, found.held)}."
    if len(variants) == len(task.by_variant):
        who = "all models hold" if len(variants) > 1 else f"{variants[0].label} holds"
        return f"{task.name}: {who} up {end}"
    return f"{task.name}: {_names(variants)} {'hold' if len(variants) > 1 else 'holds'} up longest, {end}"


def _sentence_of_depth(contents: Contents, task: TaskResults) -> str:
    """Who holds up longest at a single depth; empty where nobody does at any."""
    held = {
        (variant, depth): length
        for variant in task.by_variant
        for depth, length in _held_by_depth(contents, task, variant).items()
        if length is not None
    }
    if not held:
        return ""
    (variant, depth), length = max(held.items(), key=lambda item: item[1])
    return f"; {variant.label} does at depth {depth:g}, up to {length:,} tokens{_times_trained(contents, length)}"


def _held_by_depth(contents: Contents, task: TaskResults, variant: Variant) -> dict[float, int | None]:
    """The length that a model holds up to at each depth."""
    points = task.by_depth(variant, task.metric)
    held = {}
    for depth in task.depths:
        found = reach({length: point for (length, at), point in points.items() if at == depth}, contents.threshold)
        if found is not None:
            held[depth] = found.held
    return held


def _by_depth(contents: Contents, task: TaskResults, variant: Variant) -> str:
    """Where the depths differ, which hold up to which length: "4,096 at depth 0, none at 0.5 and 1"."""
    held = _held_by_depth(contents, task, variant)
    depths: dict[int | None, list[str]] = {}
    for depth, length in sorted(held.items(), key=lambda item: -(item[1] or 0)):
        depths.setdefault(length, []).append(f"{depth:g}")
    if len(depths) < 2:
        return ""
    parts = [f"{'none' if length is None else f'{length:,}'} at {listed(at)}" for length, at in depths.items()]
    return f"; by depth: {', '.join(parts)}"


def _length_held(contents: Contents, task: TaskResults, variant: Variant) -> Answer | None:
    curve = task.curve(variant, task.metric)
    found = reach(curve, contents.threshold)
    if found is None:
        return None
    sure = "surely none" if found.sure is None else f"surely {_bound(found.sure, found.longest)}"
    sure = sure if task.has_intervals else ""
    by_depth = _by_depth(contents, task, variant)
    if found.held is None:
        shortest = min(length for length, point in curve.items() if point.estimate is not None)
        detail = f"{mean(curve[shortest].estimate)} at {shortest:,}"  # type: ignore[arg-type]
        return Answer("none", detail + by_depth, 0)
    return Answer(_bound(found.held, found.longest), (sure + by_depth).removeprefix("; "), found.held)


def _score(task: TaskResults, variant: Variant) -> Answer | None:
    """At the longest length, or over everything where there is no length."""
    curve = task.curve(variant, task.metric)
    known = [length for length, point in curve.items() if point.estimate is not None]
    point = curve[max(known)] if known else task.overall(variant, task.metric)
    if point.estimate is None:
        return None
    where = f" at {max(known):,}" if known else ""
    sign = -1 if lower_is_better(task.metric) else 1
    rank = sign * point.estimate.value
    detail = f"{interval(point.estimate)}{where}".strip()
    return Answer(mean(point.estimate), detail, rank if math.isfinite(rank) else -math.inf)


def _bound(length: int, longest: int) -> str:
    return f"≥ {length:,}" if length == longest else f"{length:,}"


def _times_trained(contents: Contents, length: int) -> str:
    if contents.trained_lengths is None or length <= contents.trained_lengths[1]:
        return ""
    return f", {length / contents.trained_lengths[1]:.3g} times the longest text of the training"


def _names(variants: tuple[Variant, ...]) -> str:
    return listed(variant.label for variant in variants)


def _enumerate(found: Mapping[Variant, Answer]) -> str:
    return listed(f"{variant.label} {answer.headline}" for variant, answer in found.items())
