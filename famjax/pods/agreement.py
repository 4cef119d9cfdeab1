"""Decisions that all processes of a job must take alike: whether to stop, whether a checkpoint is whole."""

import functools
import json
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from famjax import errors
from famjax.errors import FamjaxError
from famjax.pods.coordination import exchange

T = TypeVar("T")
_AXIS = "all"


@runtime_checkable
class StopRequest(Protocol):
    """A signal noted by this process, or by another of its job; `famjax.training.stopping.StopSignal`."""

    @property
    def requested(self) -> bool:
        """Whether there was one."""

    @property
    def name(self) -> str:
        """Which."""

    def request(self, name: str) -> None:
        """Notes one that another process got."""


class AgreedStop:
    """Whether the job stops: the same answer at the same place on every process.

    A signal reaches one process, or all at different moments. One that stopped by itself would leave the others waiting
    in the next step for ever. So the processes vote: every one calls `poll` (or `now`) at the same places, and all stop
    where one wants to. With one process this is its own signal, at once.

    Attributes:
      signal: of this process.
      is_shared: whether there are other processes.
    """

    def __init__(self, stop: StopRequest) -> None:
        """Asks nothing yet. `stop`: of this process."""
        self.signal = stop
        self.is_shared = jax.process_count() > 1
        self._open: jax.Array | None = None
        self._agreed = False

    @property
    def requested(self) -> bool:
        """What was last agreed on."""
        return self._agreed if self.is_shared else self.signal.requested

    @property
    def name(self) -> str:
        """The signal."""
        return self.signal.name or "a signal on another host"

    def poll(self) -> bool:
        """Votes, and gives the result of the vote before, which does not wait for the devices."""
        if self.is_shared:
            before, self._open = self._open, _cast(self.signal.requested)
            self._agreed |= before is not None and bool(before)
        return self.requested

    def now(self) -> bool:
        """Votes, and waits for the other processes, not for the devices."""
        if self.is_shared:
            self._agreed |= not all_agree(not self.signal.requested)
        return self.requested


def all_agree(verdict: bool) -> bool:
    """Whether every process says so; also a point at which all wait for each other."""
    return all(from_each(verdict))


def from_each(value: T, channel: str = "main") -> list[T]:
    """What each process says (JSON), by index, on every process; also a point at which all wait for each other.

    Args:
      value: of this process.
      channel: see `exchange`.
    """
    return [value] if jax.process_count() == 1 else [json.loads(text) for text in exchange(json.dumps(value), channel)]


def from_first(make: Callable[[], T]) -> T:
    """What process 0 makes (JSON), on every process. An error that is the user's is raised on every process as well."""
    if jax.process_count() == 1:
        return make()
    outcome: dict[str, Any] = {}
    if jax.process_index() == 0:
        try:
            outcome = {"value": make()}
        except FamjaxError as error:
            outcome = {"error": type(error).__name__, "message": str(error)}
    outcome = from_each(outcome)[0]
    if "error" in outcome:
        raise getattr(errors, outcome["error"])(outcome["message"])
    value: T = outcome["value"]
    return value


def _cast(vote: bool) -> jax.Array:
    """Starts a vote; the result is above 0 where one process votes yes."""
    count, sharding = _ballot()
    local = np.full(jax.local_device_count(), vote, np.int32)
    return count(jax.make_array_from_process_local_data(sharding, local))


@functools.cache
def _ballot() -> tuple[Callable[[jax.Array], jax.Array], NamedSharding]:
    """The program that counts, and where its votes lie: one on every device."""
    mesh = Mesh(np.asarray(jax.devices()), (_AXIS,))
    count = jax.jit(jnp.sum, out_shardings=NamedSharding(mesh, PartitionSpec()))
    return count, NamedSharding(mesh, PartitionSpec(_AXIS))
