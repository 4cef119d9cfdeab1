"""How fast a train step may be: a rough estimate, to order settings that fit."""

from collections.abc import Collection, Sequence

from famjax.planning.compiling import Traffic
from famjax.pods.slices import TpuSlice
from famjax.training.config import TrainJob
from famjax.training.flops import forward_flops, train_step_flops

# Share of the peak that matrix products reach while they run.
_EFFICIENCY = 0.5
# Bytes a second of one chip's share of its hosts' network, where the generation's documentation does not say.
_UNKNOWN_DCN = 3e9


def tokens_per_second(
    job: TrainJob,
    length: int,
    tpu: TpuSlice,
    num_slices: int,
    traffic: Sequence[Traffic],
    trained: Collection[str] | None = None,
) -> float:
    """Tokens a second of all chips: arithmetic at half of the peak, then traffic at the networks' full speed.

    The arithmetic includes what the backward pass computes again. Arithmetic and traffic are added, though they overlap
    in part; between settings of one job that errs on the side of less traffic. `trained`: see `train_step_flops`.
    """
    computed = train_step_flops(job.model, job.data.batch_size, length, trained) + recomputed_flops(job, length)
    arithmetic = computed / (num_slices * tpu.peak_flops * _EFFICIENCY)
    between = sum(each.bytes for each in traffic if each.between_slices)
    within = sum(each.bytes for each in traffic) - between
    generation = tpu.generation
    moving = within / generation.ici_bytes_per_second + between / (generation.dcn_bytes_per_second or _UNKNOWN_DCN)
    return job.data.batch_size * length / (arithmetic + moving)


def recomputed_flops(job: TrainJob, length: int) -> int:
    """What the backward pass computes again: logits and the tokens' attention always, the rest by the remat policy."""
    forward = forward_flops(job.model, job.data.batch_size, length)
    policy = job.model.remat_policy
    if policy == "full":
        return forward.total
    again = forward.logits + forward.token_attention
    return again + (forward.fam_attention if policy == "dots_without_batch" else 0)
