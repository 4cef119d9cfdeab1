"""Where a train step does not fit: the nearest changes with which it does, each tried."""

from collections.abc import Iterator, Sequence

from famjax.errors import ConfigError
from famjax.planning.plan import Trial
from famjax.planning.trials import Change, Trials, on_slice, with_batch, with_mesh, with_microbatches, with_remat
from famjax.pods.slices import GENERATIONS, TpuSlice, parse_slice

# Changes in one direction that are tried before the next direction's turn; each is about twice the one before it.
_STEPS = 3


def find_remedies(trials: Trials) -> tuple[Trial, ...]:
    """In each direction the smallest change that fits, those that cost least first."""
    found: list[Trial] = []
    for direction in _directions(trials.base):
        for change in direction[:_STEPS]:
            trial = trials.run(change)
            if trial is not None and trial.fits:
                found.append(trial)
                break
    return tuple(found)


def _directions(base: Change) -> Iterator[Sequence[Change]]:
    """Each direction from its smallest change on."""
    job = base.job
    lean = base if job.model.remat_policy == "full" else with_remat(base, "full")
    whole_fsdp = job.mesh.fsdp_parallelism is None
    if lean is not base:
        yield [lean]
    if not whole_fsdp:
        cut = with_mesh(lean, None, job.mesh.model_parallelism)
        yield [cut]
    batches = job.data.batch_size // job.num_microbatches
    cut = lean if whole_fsdp else with_mesh(lean, None, job.mesh.model_parallelism)
    yield [with_microbatches(cut, job.num_microbatches * part) for part in _doublings(batches)]
    yield [with_batch(cut, job.data.batch_size // part) for part in _doublings(job.data.batch_size)]
    models = [job.mesh.model_parallelism * part for part in (2, 4, 8)]
    yield [_leanest(lean, model) for model in models if model <= base.tpu.chips]
    yield [on_slice(cut, tpu) for tpu in _larger(base.tpu)]
    yield [on_slice(cut, tpu) for tpu in _with_more_memory(base.tpu)]


def _leanest(change: Change, model: int) -> Change:
    """Everything cut, over so many chips together with the computation, and one row at a time on each."""
    change = with_mesh(change, None, model)
    shards = change.num_slices * change.tpu.chips // model
    parts = max(change.job.data.batch_size // shards, 1)
    return change if parts == change.job.num_microbatches else with_microbatches(change, parts)


def _doublings(limit: int) -> list[int]:
    return [2**power for power in range(1, 12) if 2**power <= limit]


def _larger(tpu: TpuSlice) -> list[TpuSlice]:
    """Slices of the same generation with twice the chips and so on."""
    found = []
    for factor in (2, 4, 8):
        try:
            cores = tpu.chips * factor * tpu.generation.cores_per_chip
            found.append(parse_slice(f"{tpu.generation.name}-{cores}"))
        except ConfigError:
            continue
    return found


def _with_more_memory(tpu: TpuSlice) -> list[TpuSlice]:
    """As many chips of generations that have more memory, the smallest memory first."""
    more = [each for each in GENERATIONS.values() if each.hbm_bytes > tpu.generation.hbm_bytes]
    found = []
    for generation in sorted(more, key=lambda each: (each.hbm_bytes, -each.peak_flops)):
        try:
            found.append(parse_slice(f"{generation.name}-{tpu.chips * generation.cores_per_chip}"))
        except ConfigError:
            continue
    return found
