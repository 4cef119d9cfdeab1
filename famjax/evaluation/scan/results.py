"""From a ledger to the results of a scan: results.jsonl in grid order, and lm-evaluation-harness's files.

Nothing in them depends on time or machine: whoever writes them, and however often the scan was stopped, they are the
same bytes.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from famjax.evaluation.scan.config import ScanJob
from famjax.evaluation.scan.grid import Cell
from famjax.evaluation.scan.ledger import DONE, Entry, write_atomically
from famjax.training.writers import named

NAME, HARNESS_FOLDER, SAMPLES_FOLDER = "results.jsonl", "harness", "samples"
# Besides what the grid says of a cell; a failed one has the last two.
_MEASURED = (
    "output_type",
    "examples",
    "metric",
    "metrics",
    "prompt_tokens",
    "generated_tokens",
    "cut_examples",
    "cut_tokens",
    "by_position",
    "status",
    "error",
)
_LOWER_IS_BETTER = frozenset({"loss", "perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte"})


def results_of(cells: Iterable[Cell], entries: Mapping[str, Entry]) -> list[Entry]:
    """The results of the cells that are in the ledger, in grid order."""
    return [
        {**cell.describe(), **{name: entry[name] for name in _MEASURED if name in entry}}
        for cell in cells
        if (entry := entries.get(cell.key)) is not None
    ]


def write_results(output_dir: Path, results: Sequence[Entry], job: ScanJob) -> None:
    """Writes results.jsonl, and for each model and memory the same in lm-evaluation-harness's schema."""
    done = [result for result in results if result["status"] == DONE]
    for label, group in _by_model(done).items():
        text = json.dumps(harness_schema(group, job), indent=2, allow_nan=False)
        write_atomically(output_dir / HARNESS_FOLDER / label / "results.json", text + "\n")
    write_atomically(output_dir / NAME, "".join(json.dumps(result, allow_nan=False) + "\n" for result in results))


def harness_schema(results: Sequence[Entry], job: ScanJob) -> dict[str, Any]:
    """The results of one model with one memory, all of them done, as lm-evaluation-harness writes its own.

    A task at one length, depth and seed is a task there. What depends on the time, the machine or the harness itself is
    left out.
    """
    first = results[0]
    by_name = {_task_name(result): result for result in results}
    return {
        "results": {name: _harness_metrics(name, result) for name, result in by_name.items()},
        "group_subtasks": {name: [] for name in by_name},
        "configs": {name: _harness_config(name, result, job) for name, result in by_name.items()},
        "versions": dict.fromkeys(by_name),
        "n-shot": {name: 0 for name, result in by_name.items() if result["length"] is not None},
        "higher_is_better": {
            name: {metric: metric not in _LOWER_IS_BETTER for metric in result["metrics"]}
            for name, result in by_name.items()
        },
        "n-samples": {
            name: {"original": result["examples"], "effective": result["examples"]} for name, result in by_name.items()
        },
        "config": {
            "model": "famjax",
            "model_args": {"checkpoint": first["checkpoint"], **first["memory"]},
            "model_num_parameters": first["parameters"],
            "limit": job.examples,
        },
        "model_source": "famjax",
        "model_name": first["model"],
        "model_name_sanitized": re.sub(r"[^\w.-]", "_", first["model"]),
    }


def samples_path(output_dir: Path, cell: Cell) -> Path:
    """Where what was said to a cell's questions is written; results that share a cell share the file."""
    return output_dir / SAMPLES_FOLDER / f"samples_{cell.task.replace('/', '_')}_{cell.key}.jsonl"


def write_samples(path: Path, samples: Iterable[Mapping[str, Any]]) -> None:
    """Writes a JSON line for each question."""
    write_atomically(
        path, "".join(json.dumps(named(sample), ensure_ascii=False, allow_nan=False) + "\n" for sample in samples)
    )


def _folder_of(result: Entry) -> str:
    memory = result["memory"]
    size = f"C{memory['block_size']}_M{memory['num_segments']}_F{memory['fam_length']}"
    return re.sub(r"[^\w.-]", "_", f"{result['model']}_{result['step']}_{size}")


def _by_model(results: Iterable[Entry], label: Any = _folder_of) -> dict[str, list[Entry]]:
    groups: dict[str, list[Entry]] = {}
    for result in results:
        groups.setdefault(label(result), []).append(result)
    return groups


def _task_name(result: Entry) -> str:
    parts = [result["task"]]
    parts += [] if result["length"] is None else [f"length{result['length']}"]
    parts += [] if result["depth"] is None else [f"depth{result['depth']:g}"]
    parts += [f"seed{result['seed']}"] if result["length"] is not None else []
    return "_".join(parts)


def _harness_metrics(name: str, result: Entry) -> dict[str, Any]:
    values: dict[str, Any] = {"name": name, "alias": name.replace("_", " "), "sample_len": result["examples"]}
    for metric, estimate in result["metrics"].items():
        short, _, kept_by = metric.partition(",")
        values[f"{short},{kept_by or 'none'}"] = estimate["value"]
        values[f"{short}_stderr,{kept_by or 'none'}"] = estimate["stderr"]
    return values


def _harness_config(name: str, result: Entry, job: ScanJob) -> dict[str, Any]:
    return {
        "task": name,
        "output_type": result["output_type"],
        "test_split": job.split if result["length"] is not None else None,
        "metadata": {field: result[field] for field in ("task", "length", "depth", "seed")},
    }
