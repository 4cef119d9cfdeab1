"""`--plan.search`: batches, microbatches, rematerialisation and meshes of a job, and which of them is best."""

import dataclasses
import itertools

from famjax.models.config import RematPolicy
from famjax.planning.memory import AVAILABLE
from famjax.planning.plan import Trial
from famjax.planning.speed import tokens_per_second
from famjax.planning.trials import Change, Trials, with_batch, with_mesh, with_microbatches, with_remat

# Formulas are off by so much, one way or the other.
_LEEWAY = 1.2
# From the policy that keeps most for the backward pass to the one that keeps nothing.
_POLICIES: tuple[RematPolicy, ...] = ("none", "dots", "dots_without_batch", "full")


@dataclasses.dataclass(frozen=True)
class _Candidate:
    """A change, and its place in an order in which more of anything on the same mesh takes more memory."""

    change: Change
    mesh: tuple[int | None, int]
    greed: tuple[int, float]


def search(trials: Trials) -> tuple[Trial, ...]:
    """Tries settings, the job's own first, then by the formulas' speed those that may fit by the formulas' memory.

    What takes more than something that was too large, of everything on the same mesh, is not tried.

    Returns:
      What was tried: what fits, the fastest first, then what does not.
    """
    refused: list[_Candidate] = []
    tried: list[Trial] = []
    for candidate in _candidates(trials):
        if any(_takes_more(candidate, other) for other in refused):
            continue
        trial = trials.run(candidate.change)
        if trial is None:
            continue
        tried.append(trial)
        if not trial.fits:
            refused.append(candidate)
    return tuple(sorted(tried, key=lambda trial: (not trial.fits, -(trial.tokens_per_second or 0.0), trial.total)))


def _candidates(trials: Trials) -> list[_Candidate]:
    base = trials.base
    job = base.job
    meshes = dict.fromkeys(
        [
            (job.mesh.fsdp_parallelism, job.mesh.model_parallelism),
            (None, 1),
            (1, 1),
            *((None, model) for model in (2, 4, 8)),
        ]
    )
    batches = dict.fromkeys([job.data.batch_size, 2 * job.data.batch_size, max(job.data.batch_size // 2, 1)])
    policies = dict.fromkeys([job.model.remat_policy, *_POLICIES])
    microbatches = dict.fromkeys([job.num_microbatches, 1, 2, 4, 8, 16])
    found = [
        _candidate(base, mesh, batch, policy, parts)
        for mesh, batch, policy, parts in itertools.product(meshes, batches, policies, microbatches)
        if batch % parts == 0
    ]
    first, rest = found[0], found[1:]
    available = AVAILABLE[base.tpu.generation.name] * _LEEWAY
    hopeful = [each for each in rest if trials.estimate(each.change) <= available]
    return [first, *sorted(hopeful, key=lambda each: -_speed(each, trials.length))]


def _candidate(base: Change, mesh: tuple[int | None, int], batch: int, policy: RematPolicy, parts: int) -> _Candidate:
    job, change = base.job, base
    if mesh != (job.mesh.fsdp_parallelism, job.mesh.model_parallelism):
        change = with_mesh(change, *mesh)
    if batch != job.data.batch_size:
        change = with_batch(change, batch)
    if policy != job.model.remat_policy:
        change = with_remat(change, policy)
    if parts != job.num_microbatches:
        change = with_microbatches(change, parts)
    return _Candidate(change, mesh, (-_POLICIES.index(policy), batch / parts))


def _takes_more(candidate: _Candidate, other: _Candidate) -> bool:
    """Whether a candidate keeps as much or more of a batch as large or larger, on the same mesh."""
    return candidate.mesh == other.mesh and all(a >= b for a, b in zip(candidate.greed, other.greed, strict=True))


def _speed(candidate: _Candidate, length: int) -> float:
    """By the formulas, before the traffic is known; parts and model parallelism cost a little."""
    change = candidate.change
    speed = tokens_per_second(change.job, length, change.tpu, change.num_slices, ())
    return speed * 0.99 ** (change.job.num_microbatches + change.job.mesh.model_parallelism)
