"""What the processes of a job tell each other through jax's coordination service, which process 0 runs.

No device takes part: it works while devices compute, hang or wait for a process that has died.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax._src import distributed

_PREFIX, _ROUNDS, _START = "famjax/process/", "famjax/round/", "famjax/start/"
# Who watches over the processes ends them much earlier (famjax.pods.watching).
_ROUND_MILLISECONDS = 7 * 24 * 3600 * 1000
_numbers: defaultdict[str, Iterator[int]] = defaultdict(itertools.count)


def is_connected() -> bool:
    """Whether this process is one of several that `famjax.pods.connecting` has connected."""
    return distributed.global_state.client is not None


def tell(text: str) -> None:
    """Replaces what this process tells the others.

    Raises:
      jax.errors.JaxRuntimeError: process 0 does not answer.
    """
    client: Any = distributed.global_state.client
    client.key_value_set(f"{_PREFIX}{jax.process_index()}", text, allow_overwrite=True)


def told() -> Mapping[int, str]:
    """What each process has told last, by process; those that have told nothing are left out.

    Raises:
      jax.errors.JaxRuntimeError: process 0 does not answer.
    """
    client: Any = distributed.global_state.client
    return {int(key.removeprefix(_PREFIX)): text for key, text in client.key_value_dir_get(_PREFIX)}


def said_by_all(index: int, text: str, seconds: float) -> Mapping[int, str]:
    """Gives every process the text of each, once, before jax has looked for devices; waits until all have called it.

    Args:
      index: of this process.
      text: what it says.
      seconds: the longest wait.

    Raises:
      jax.errors.JaxRuntimeError: a process has ended, or the time is over.
    """
    client: Any = distributed.global_state.client
    client.key_value_set(f"{_START}{index}", text)
    client.wait_at_barrier(f"{_START}said", int(1000 * seconds))
    said = {int(key.rpartition("/")[2]): value for key, value in client.key_value_dir_get(_START)}
    client.wait_at_barrier(f"{_START}read", int(1000 * seconds))  # Process 0 may end next.
    return said


def exchange(text: str, channel: str = "main") -> list[str]:
    """Gives every process the text of each, by index; waits until all have called it, as they do in the same order.

    Args:
      text: of this process.
      channel: a thread beside the main one has its own, since threads come here in another order on every process.

    Raises:
      jax.errors.JaxRuntimeError: a process has ended.
    """
    client: Any = distributed.global_state.client
    rounds = f"{_ROUNDS}{channel}/"
    number, index = next(_numbers[channel]), jax.process_index()
    client.key_value_set(f"{rounds}{number}/{index}", text)
    client.wait_at_barrier(f"{rounds}{number}", _ROUND_MILLISECONDS)
    texts = {int(key.rpartition("/")[2]): value for key, value in client.key_value_dir_get(f"{rounds}{number}/")}
    if number:  # Whoever is here has read those of the round before.
        client.key_value_delete(f"{rounds}{number - 1}/{index}")
    return [texts[process] for process in range(jax.process_count())]
