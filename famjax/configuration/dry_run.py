"""`--dry_run`: what a job would do, without doing it."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from famjax.configuration.job_checks import check_vocabulary
from famjax.configuration.loading import Configuration
from famjax.configuration.resolving import Node, nodes_of
from famjax.data.registry import used_tasks
from famjax.evaluation.config import EvalJob
from famjax.evaluation.scan.config import ScanJob
from famjax.models.config import TransformerConfig
from famjax.training.config import TrainJob

_MAX_VALUE_WIDTH = 48
# Fields whose value is a dict of all tasks that there are.
_TASK_FIELDS = ("tasks", "task_configs")


def describe_run(configuration: Configuration) -> str:
    """Returns every setting with its source, the parameter count and the shapes of the batches.

    Raises:
      ConfigError: what a run would refuse on any machine: task, vocabulary, patterns of parameters.
    """
    job = configuration.job
    sections = _without_repetition(_sections(configuration.root, "", _asked_tasks(job)))
    widths = [max((len(row[column]) for _, rows in sections for row in rows), default=0) for column in (0, 1)]
    lines: list[str] = []
    for title, rows in sections:
        lines += [
            title,
            *(f"  {name:<{widths[0]}}  {value:<{widths[1]}}  {source}" for name, value, source in rows),
            "",
        ]
    return "\n".join([*lines, *_describe_work(job)])


def _describe_work(job: Any) -> list[str]:
    """What the job would compute: parameters and batches, or the cells of a scan."""
    if isinstance(job, ScanJob):
        from famjax.evaluation.scan.describing import describe_scan

        return [describe_scan(job), ""]
    if isinstance(job, TrainJob | EvalJob):
        _check(job)
        return [_describe_parameters(job.model), *_describe_trained(job), "", _describe_batches(job), ""]
    return []


def _check(job: TrainJob | EvalJob) -> None:
    """Makes the checks that need jax or seqio, and neither devices nor documents."""
    from famjax.data.feeding import open_vocabulary

    eval_data = job.eval_data if isinstance(job, TrainJob) else None
    for data in (job.data, eval_data):
        if data is not None:
            vocab_size = open_vocabulary(data).vocab_size
            if job.model is not None:
                check_vocabulary(job.model, vocab_size)
    if isinstance(job, TrainJob):
        from flax.traverse_util import unflatten_dict

        from famjax.models.transformer import parameter_shapes
        from famjax.training.optimizers import make_optimizer

        make_optimizer(job.applied_optimizer, unflatten_dict(parameter_shapes(job.model), sep="/"))


Row = tuple[str, str, str]


def _asked_tasks(job: Any) -> tuple[str, ...]:
    """The names of the tasks that a job reads."""
    if isinstance(job, ScanJob):
        return job.tasks
    if isinstance(job, TrainJob | EvalJob):
        eval_data = job.eval_data if isinstance(job, TrainJob) else None
        return tuple(data.mixture_or_task_name for data in (job.data, eval_data) if data is not None)
    return ()


def _sections(node: Node, path: str, asked: tuple[str, ...]) -> Iterator[tuple[str, str, list[Row]]]:
    """Yields (path, class, rows of name, value and source) of a node, then of the nodes in it.

    Of the tasks those are shown that are asked, or that these read in turn.
    """
    yield path, node.name, [(name, _shown(setting.value), setting.source) for name, setting in node.settings.items()]
    for name, setting in node.settings.items():
        value = setting.value
        if name in _TASK_FIELDS and isinstance(value, Mapping):
            settings = {task: [setting.value for setting in node.settings.values()] for task, node in value.items()}
            used = used_tasks(asked, settings)
            value = {task: config for task, config in value.items() if task in used}
        for label, child in _labelled_nodes(value):
            yield from _sections(child, f"{path}.{name}{label}".lstrip("."), asked)


def _labelled_nodes(value: Any) -> list[tuple[str, Node]]:
    """The nodes in a value, those in a dict with their keys."""
    if isinstance(value, dict):
        return [(f"[{key!r}]", node) for key, item in value.items() for node in nodes_of(item)]
    return [("", node) for node in nodes_of(value)]


def _without_repetition(sections: Iterable[tuple[str, str, list[Row]]]) -> list[tuple[str, list[Row]]]:
    """Titles and rows; a section whose rows stand above already is left out, and its title says where they are."""
    titled: list[tuple[str, list[Row]]] = []
    seen: dict[tuple[str, tuple[Row, ...]], str] = {}
    for path, name, rows in sections:
        title = f"{path} = {name}" if path else name
        key = (name, tuple(rows))
        if rows and key in seen:
            titled.append((f"{title}, as {seen[key]}", []))
        else:
            seen[key] = path
            titled.append((title, rows))
    return titled


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_VALUE_WIDTH else f"{text[: _MAX_VALUE_WIDTH - 3]}..."


def _describe_parameters(model: TransformerConfig | None) -> str:
    if model is None:
        return "Parameters: those of the checkpoint"
    from famjax.models.transformer import parameter_shapes  # jax is imported here, after every check of names and types

    counts = {path: math.prod(array.shape) for path, array in parameter_shapes(model).items()}
    embedding = sum(count for path, count in counts.items() if path.startswith(("embedding/", "output/")))
    total = sum(counts.values())
    return f"Parameters: {total:,} = {embedding:,} of the embedding + {total - embedding:,} of the rest"


def _describe_trained(job: TrainJob | EvalJob) -> list[str]:
    """How many of the parameters are trained, where some are frozen."""
    if not isinstance(job, TrainJob) or not job.applied_optimizer.freeze:
        return []
    from flax.traverse_util import unflatten_dict

    from famjax.models.transformer import parameter_shapes
    from famjax.training.checkpoint_arrays import by_path
    from famjax.training.optimizers import frozen_parameters

    shapes = parameter_shapes(job.model)
    frozen = by_path(frozen_parameters(job.applied_optimizer, unflatten_dict(shapes, sep="/")))
    trained = sum(math.prod(array.shape) for path, array in shapes.items() if not frozen[path])
    return [f"  trained: {trained:,}; the rest is frozen"]


def _describe_batches(job: Any) -> str:
    rows = [f"{name} {kind}[{job.data.batch_size}, T]" for name, kind in _BATCH]
    return f"Batch: {', '.join(rows)}\n  T = {_describe_lengths(job)}"


# What famjax.data.feeding hands out.
_BATCH = (("tokens", "int32"), ("targets", "int32"), ("weights", "float32"), ("answers", "bool"), ("valid", "bool"))


def _describe_lengths(job: Any) -> str:
    if isinstance(job, TrainJob):
        stages = job.curriculum.parsed
        lengths = [stage.max_length for stage in stages] or [job.step_length]
        text = ", then ".join(str(length) for length in lengths)
        microbatches = job.num_microbatches
        return text + (f"; in {microbatches} microbatches" if microbatches > 1 else "")
    return ", ".join(str(length) for length in job.lengths or (job.data.length,))
