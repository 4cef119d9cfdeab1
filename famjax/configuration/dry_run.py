"""`--dry_run`: what a job would do, without doing it."""

import math
from collections.abc import Iterator
from typing import Any

from famjax.configuration.loading import Configuration
from famjax.configuration.resolving import Node, nodes_of
from famjax.models.config import TransformerConfig
from famjax.training.config import TrainJob

_MAX_VALUE_WIDTH = 48


def describe_run(configuration: Configuration) -> str:
    """Returns every setting with its source, the parameter count and the shapes of the batches."""
    job = configuration.job
    sections = [*_sections(configuration.root, "")]
    widths = [max(len(row[column]) for _, rows in sections for row in rows) for column in (0, 1)]
    lines: list[str] = []
    for title, rows in sections:
        lines += [
            title,
            *(f"  {name:<{widths[0]}}  {value:<{widths[1]}}  {source}" for name, value, source in rows),
            "",
        ]
    return "\n".join([*lines, _describe_parameters(job.model), "", _describe_batches(job), ""])


def _sections(node: Node, path: str) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """Yields (title, rows of name, value and source) of a node, then of the nodes in it."""
    rows = [(name, _shown(setting.value), setting.source) for name, setting in node.settings.items()]
    yield (f"{path} = {node.name}" if path else node.name), rows
    for name, setting in node.settings.items():
        children = list(nodes_of(setting.value))
        for index, child in enumerate(children):
            suffix = f"[{index}]" if len(children) > 1 else ""
            yield from _sections(child, f"{path}.{name}{suffix}".lstrip("."))


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


def _describe_batches(job: Any) -> str:
    rows = [f"{name} {kind}[{job.data.batch_size}, T]" for name, kind in _BATCH]
    return f"Batch: {', '.join(rows)}\n  T = {_describe_lengths(job)}"


# What famjax.data.feeding hands out.
_BATCH = (("tokens", "int32"), ("targets", "int32"), ("weights", "float32"), ("answers", "bool"), ("valid", "bool"))


def _describe_lengths(job: Any) -> str:
    if isinstance(job, TrainJob):
        stages = job.curriculum.parsed
        lengths = [stage.max_length for stage in stages] or [job.data.length]
        text = ", then ".join(str(length) for length in lengths)
        microbatches = job.num_microbatches
        return text + (f"; in {microbatches} microbatches" if microbatches > 1 else "")
    return ", ".join(str(length) for length in job.lengths or (job.data.length,))
