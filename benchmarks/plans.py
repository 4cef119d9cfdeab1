"""What the paper's models take of TPU slices, and what their train step sends, compiled without a TPU.

One JSON line for each model and slice: bytes of HBM of a chip and how they divide, whether it fits, and what a chip
sends in a step within slices (ICI) and between them (DCN). It needs libtpu (`pip install "famjax[plan]"`), and
minutes and some GB of memory for each line.

    python benchmarks/plans.py --models=1b,8b,24b --slices=v5e-32,v5p-64 [--lora] [--table] [--gin NAME=VALUE ...]
    python benchmarks/plans.py --models=1b --slices=v5e-8,v5e-64,v5e-256 --rows_per_chip=1 --sharding=fully_sharded
    python benchmarks/plans.py --models=8b --slices=v5e-256 --batch=64 --largest_batch --sharding=tensor_parallel
"""

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from famjax.configuration.loading import load
from famjax.planning.compiling import ProgramPlan, compile_train_step
from famjax.planning.page import axes_text
from famjax.planning.topology import require_libtpu, slice_devices
from famjax.planning.work import work_of
from famjax.pods.slices import GIB, parse_slice
from famjax.training.config import TrainJob
from famjax.training.program import make_program

# The paper's finetuning (arXiv 2404.09173, 3.1): 8.5k tokens, C = 1024, M = 3, F = 64 (gin/memory/fam.gin).
LENGTH = 8704


def main(arguments: Sequence[str]) -> int:
    """Plans and prints; returns 0 where every train step fits, 1 otherwise."""
    flags = _parse(arguments)
    jax.config.update("jax_platforms", "cpu")
    all_fit = True
    for model in flags.models.split(","):
        for name in flags.slices.split(","):
            for line in _lines(flags, model, name):
                all_fit = all_fit and line["fits"]
                print(table_row(line) if flags.table else json.dumps(line), flush=True)
    return 0 if all_fit else 1


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="1b,8b,24b", help="of gin/models; default: 1b,8b,24b")
    parser.add_argument("--slices", default="v5e-32", help="names; default: v5e-32")
    parser.add_argument("--num_slices", type=int, default=1, help="of each kind; default: 1")
    parser.add_argument("--batch", type=int, default=128, help="rows; default: 128, the paper's")
    parser.add_argument("--rows_per_chip", type=int, help="the batch is so many for each chip")
    parser.add_argument("--largest_batch", action="store_true", help="double the batch for as long as it fits")
    parser.add_argument("--sharding", metavar="TABLE", help="of gin/sharding; default: the trainer's own rules")
    parser.add_argument("--table", action="store_true", help="print rows of a Markdown table in place of JSON")
    parser.add_argument("--lora", action="store_true", help="the paper's LoRA finetuning, over a frozen base")
    parser.add_argument("--gin", nargs="*", default=[], metavar="NAME=VALUE", help="further settings")
    return parser.parse_args(arguments)


def _lines(flags: argparse.Namespace, model: str, name: str) -> Iterator[dict[str, Any]]:
    chips = parse_slice(name).chips * flags.num_slices
    batch = flags.rows_per_chip * chips if flags.rows_per_chip else flags.batch
    settings = [f"NUM_SLICES={flags.num_slices}", *flags.gin]
    chosen = {"lora": flags.lora, "sharding": flags.sharding, "settings": settings}
    while True:
        line = {"benchmark": "plan", "model": model, **chosen, **plan_line(make_job(model, batch, **chosen), name)}
        yield line
        if not flags.largest_batch or not line["fits"]:
            return
        batch *= 2


def plan_line(job: TrainJob, name: str) -> dict[str, Any]:
    """The figures of a job on TPU slices of one kind."""
    tpu, num_slices = parse_slice(name), job.mesh.num_slices
    program = make_program(job, slice_devices(tpu, num_slices))
    plan = compile_train_step(program, job.step_length, tpu).plan
    memory = plan.memory
    work = work_of(job, job.step_length, num_slices * tpu.peak_flops, program.trained)
    return {
        "slice": name,
        "num_slices": num_slices,
        "mesh": dict(program.mesh.shape),
        "batch": job.data.batch_size,
        "microbatches": job.num_microbatches,
        "length": job.step_length,
        "memory": {**dataclasses.asdict(memory), "total": memory.total},
        "fits": memory.fits,
        **sent_bytes(plan),
        "step_seconds_at_40": work.times[2].seconds,
        "parameters_total": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(program.abstract_state.params)),
        "compile_seconds": round(plan.seconds, 1),
        "versions": f"jax {jax.__version__}, libtpu {require_libtpu()}",
    }


def table_row(line: dict[str, Any]) -> str:
    """A row of a table: model, slice, mesh, microbatches, rows, GiB a chip, GiB that a chip sends, seconds."""
    memory = line["memory"]
    cells = (
        line["model"] + (" LoRA" if line["lora"] else ""),
        f"{line['slice']} ({parse_slice(line['slice']).chips * line['num_slices']})",
        " x ".join(f"{axis} {size}" for axis, size in line["mesh"].items() if size > 1),
        str(line["microbatches"]),
        str(line["batch"]),
        *(f"{memory[name] / GIB:.2f}" for name in ("parameters", "optimizer", "gradients", "temporaries", "total")),
        "fits" if line["fits"] else "does not fit",
        *(f"{line[name] / GIB:.1f}" if line["fits"] else "" for name in ("ici_bytes", "dcn_bytes")),
        f"{line['step_seconds_at_40']:.1f}",
    )
    return f"| {' | '.join(cells)} |"


def make_job(model: str, batch: int, *, lora: bool, sharding: str | None, settings: Sequence[str]) -> TrainJob:
    """The paper's finetuning of a model, with other settings where given."""
    files = ["runs/finetune.gin", f"models/{model}.gin", "memory/fam.gin"]
    files += ["finetuning/lora.gin"] if lora else []
    files += [f"sharding/{sharding}.gin"] if sharding else []
    flags = {
        "MODEL_DIR": "'not-written'",
        "INITIAL_CHECKPOINT_PATH": "'not-read'",
        "MIXTURE_OR_TASK_NAME": "'not-read'",
        "TASK_FEATURE_LENGTHS": f"{{'targets': {LENGTH}}}",
        "TRAIN_STEPS": "50_000",
        "BATCH_SIZE": str(batch),
        **dict(setting.split("=", 1) for setting in settings),
    }
    job: TrainJob = load(TrainJob, files, list(flags.items())).job
    return job


def sent_bytes(plan: ProgramPlan) -> dict[str, Any]:
    """What a chip sends in a step: within its slice, between slices, and by kind and mesh axes."""
    between = [each for each in plan.traffic if each.between_slices]
    return {
        "ici_bytes": sum(each.bytes for each in plan.traffic) - sum(each.bytes for each in between),
        "dcn_bytes": sum(each.bytes for each in between),
        "traffic": {f"{each.kind} {axes_text(each)}": each.bytes for each in plan.traffic},
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
