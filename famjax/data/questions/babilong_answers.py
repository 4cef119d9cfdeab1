"""How BABILong reads an answer (babilong/metrics.py): it must name the right label, and no other."""

from collections.abc import Sequence

from famjax.data.questions.babi import GIVERS, OBJECTS, PLACES
from famjax.data.questions.babilong_config import BabiTask


def labels(task: BabiTask) -> tuple[str, ...]:
    """Every answer that a task has."""
    return (*GIVERS, *OBJECTS) if task == "qa5" else PLACES


def references(task: BabiTask, question: str, answer: str) -> tuple[str, ...]:
    """What `babilong` compares with: the right answer, then every other label that the question does not name.

    A label that the question names never is its answer, and an answer may repeat it.
    """
    others = [label for label in labels(task) if label.lower() not in question.lower() and label != answer]
    return (answer, *others)


def babilong(prediction: str, references: Sequence[str]) -> float:
    """1 where the first sentence of a prediction names the first reference and none of the others, else 0.

    Case does not count. A prediction ends, too, where it goes on with another example or context.
    """
    sentence = prediction.lower().split(".")[0].split("<context>")[0].split("<example>")[0]
    answer, *others = (reference.lower() for reference in references)
    return float(answer in sentence and not any(other in sentence for other in others))
