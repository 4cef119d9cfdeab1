"""A plan as a page of text."""

import dataclasses
from collections.abc import Iterable, Sequence

from famjax.planning.compiling import ProgramPlan, Traffic
from famjax.planning.memory import Memory
from famjax.planning.plan import Layout, Plan, Trial
from famjax.planning.work import Work
from famjax.pods.slices import GIB
from famjax.text_table import table

_ROWS = (
    ("parameters", "parameters"),
    ("optimizer", "optimizer state"),
    ("gradients", "gradients"),
    ("state", "recurrent and saved state"),
    ("temporaries", "activations and temporaries"),
    ("batch", "batch"),
    ("padding", "padding to whole tiles"),
    ("program", "program"),
)
# jax's own default, which a program may reach before it fills a GPU.
_GPU_MEMORY = (
    "\nAvailable is all that a GPU has. jax takes 75 % of it, or as XLA_PYTHON_CLIENT_MEM_FRACTION says: 0.9 in job.sh"
    "\nof `famjax launch`."
)
Row = Sequence[str]


def render(plan: Plan) -> str:
    """The page: memory, traffic and work."""
    sections = [_head(plan.layout), _memory(plan)]
    sections += [_traffic(program) for program in plan.programs if program.traffic]
    sections.append(_work(plan.work, plan.layout))
    return "\n\n".join(sections) + "\n"


def render_others(plan: Plan) -> str:
    """What else was tried; "" where nothing was to be."""
    sections = []
    if plan.remedies:
        sections.append(
            _trials("The train step does not fit. Changes with which it does, each compiled:", plan.remedies)
        )
    elif not plan.fits and plan.estimated:
        sections.append(_first_to_change(plan.layout))
    elif not plan.fits and not plan.search:
        sections.append("The train step does not fit, and none of the changes that were tried makes it.")
    if plan.search:
        sections.append(_trials("Tried, the best that fits first (tokens/s: an estimate, docs/pods.md):", plan.search))
    return "".join(f"\n{section}\n" for section in sections)


def _first_to_change(layout: Layout) -> str:
    """What makes a train step smaller, as far as it is not done: for GPUs nothing is tried."""
    flags = [] if layout.remat == "full" else ["--gin.TransformerConfig.remat_policy=\"'full'\""]
    flags += ["--gin.FSDP_PARALLELISM=None"] if layout.mesh["data"] > 1 else []
    rows = layout.batch_size // layout.microbatches
    shards = layout.mesh["data"] * layout.mesh["fsdp"]
    flags += [f"--gin.NUM_MICROBATCHES={2 * layout.microbatches}"] if rows % (2 * shards) == 0 else []
    flags += [f"--gin.MODEL_PARALLELISM={2 * layout.mesh['model']}", "more GPUs in --slice"]
    return (
        "The train step does not fit, by the formulas. For GPUs no changes are tried; the first to make:\n"
        + "\n".join(f"  {flag}" for flag in flags)
    )


def _lines(rows: Iterable[Row], left: int = 1) -> str:
    return "\n".join(table(rows, left=left))


@dataclasses.dataclass(frozen=True)
class Unit:
    """What a table's bytes are written in."""

    name: str
    size: int

    def write(self, amount: float) -> str:
        """Two decimals; what is there and rounds to nothing is told apart from nothing."""
        return "<0.01" if 0 < amount < 0.005 * self.size else f"{amount / self.size:,.2f}"


def unit_for(largest: float) -> Unit:
    """GiB, or MiB where that is too large a unit."""
    return Unit("GiB", GIB) if largest >= GIB / 4 else Unit("MiB", 2**20)


def number(value: float) -> str:
    """Three digits that count, without an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def _head(layout: Layout) -> str:
    slices = f"{layout.num_slices} x {layout.slice}" if layout.num_slices > 1 else layout.slice
    topology = f"{layout.topology}, " if layout.topology else ""
    hosts = f"{layout.hosts:,} host{'s' if layout.hosts > 1 else ''}"
    mesh = ", ".join(f"{axis} {size}" for axis, size in layout.mesh.items())
    trained = "" if layout.trained == layout.parameters else f", of which {layout.trained:,} are trained"
    versions = ", ".join(f"{name} {version}" for name, version in layout.versions.items())
    where = f"Plan for {slices}: {topology}{layout.chips:,} chips, {hosts}; mesh: {mesh}"
    parts = f"{layout.microbatches} microbatch{'es' if layout.microbatches > 1 else ''}"
    batch = f"batch of {layout.batch_size:,} rows in {parts}; remat {layout.remat!r}"
    return f"{where}\n{layout.parameters:,} parameters{trained}; {batch}\n{versions}"


def _memory(plan: Plan) -> str:
    memories = [program.memory for program in plan.programs]
    unit = unit_for(max(memory.total for memory in memories))
    title = f"HBM of one chip, {unit.name}"
    if plan.estimated:
        title = f"HBM of one GPU, {unit.name}: an estimate by formulas; nothing was compiled"
    shown = [(field, label) for field, label in _ROWS if any(getattr(memory, field) for memory in memories)]
    rows: list[Row] = [["", *(program.name for program in plan.programs)]]
    rows += [[label, *(unit.write(getattr(memory, field)) for memory in memories)] for field, label in shown]
    rows.append(["total", *(unit.write(memory.total) for memory in memories)])
    rows.append(["available", *(unit.write(memory.available) for memory in memories)])
    rows.append(["", *(_verdict(memory) for memory in memories)])
    return f"{title}\n{_lines(rows)}{_GPU_MEMORY if plan.estimated else ''}"


def _verdict(memory: Memory) -> str:
    return f"fits ({memory.total / memory.available:.0%})" if memory.fits else "DOES NOT FIT"


def _traffic(program: ProgramPlan) -> str:
    unit = unit_for(max(traffic.bytes for traffic in program.traffic))
    rows: list[Row] = [["", "along", unit.name, "times"]]
    rows += [
        [traffic.kind, axes_text(traffic), unit.write(traffic.bytes), f"{traffic.times:,}"]
        for traffic in program.traffic
    ]
    return f"What one chip sends: {program.name}\n{_lines(rows, left=2)}"


def axes_text(traffic: Traffic) -> str:
    """Mesh axes, and the network between slices where it goes over that."""
    return " x ".join(traffic.axes) + (" (DCN)" if traffic.between_slices else "")


def _work(work: Work, layout: Layout) -> str:
    rows: list[Row] = [["MFU", "s a step", "tokens/s", f"hours for {work.steps:,} steps"]]
    rows += [
        [f"{time.utilization:.0%}", number(time.seconds), number(time.tokens_per_second), number(time.hours)]
        for time in work.times
    ]
    return (
        f"A step: {layout.batch_size:,} x {work.length:,} tokens, {work.flops:.3g} FLOPs; the chips' peak is "
        f"{work.peak_flops:.3g} FLOP/s\n{_lines(rows, left=0)}"
    )


def _trials(title: str, trials: Sequence[Trial]) -> str:
    unit = unit_for(max(trial.total for trial in trials))
    rows: list[Row] = [["", unit.name, "of", "", "tokens/s"]]
    rows += [
        [
            trial.flags or "(as it is)",
            unit.write(trial.total) if trial.compiled else f"over {unit.write(trial.total)}",
            unit.write(trial.available),
            "fits" if trial.fits else "does not fit",
            "" if trial.tokens_per_second is None else f"{trial.tokens_per_second:,.0f}",
        ]
        for trial in trials
    ]
    return f"{title}\n{_lines(rows)}"


def as_json(plan: Plan) -> dict[str, object]:
    """The plan as what a JSON file holds; sums that the page shows are in it too."""
    value = dataclasses.asdict(plan)
    for program, written in zip(plan.programs, value["programs"], strict=True):
        written["memory"] |= {"total": program.memory.total, "fits": program.memory.fits}
    return {**value, "fits": plan.fits}
