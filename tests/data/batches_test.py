"""Tests of famjax.data.batches."""

import numpy as np
import pytest

from famjax.data.batches import ExampleBatches, Rows, assemble
from famjax.data.examples import Example
from famjax.errors import ConfigError


def example(*targets):
    """Weights and answers that tell the targets apart."""
    array = np.array(targets, np.int32)
    return Example(array, (array / 2).astype(np.float32), array % 2 == 0)


class Counting:
    """Example i is the targets [i + 1]."""

    def __init__(self, size=None):
        self.size, self.skipped = size, {"bad": 1}

    def __getitem__(self, index):
        return example(index + 1)


def open_counting(rows, size=None, state=None, **identity):
    """A stream of `Counting`."""
    return ExampleBatches(Counting(size), rows, 1, 0, 0, {"task": "counting"} | identity, state)


def test_rows_are_padded_on_the_right():
    """Guards against padding that counts, and against inputs that are not the targets shifted by one."""
    batch = assemble([example(5, 6, 7), example(8)], 3, 4, bos_id=1, pad_id=9)
    assert batch["targets"].tolist() == [[5, 6, 7, 9], [8, 9, 9, 9], [9, 9, 9, 9]]
    assert batch["tokens"].tolist() == [[1, 5, 6, 9], [1, 9, 9, 9], [9, 9, 9, 9]]
    assert batch["valid"].tolist() == [[True] * 3 + [False], [True] + [False] * 3, [False] * 4]
    assert batch["weights"].tolist() == [[2.5, 3, 3.5, 0], [4, 0, 0, 0], [0] * 4]
    assert batch["answers"].tolist() == [[False, True, False, False], [True] + [False] * 3, [False] * 4]
    assert {name: value.dtype.name for name, value in batch.items()} == {
        "tokens": "int32",
        "targets": "int32",
        "weights": "float32",
        "answers": "bool",
        "valid": "bool",
    }


def test_hosts_take_their_rows_of_one_global_batch():
    """Guards against a global batch that changes with the number of hosts."""
    whole = open_counting(Rows(6))
    parts = [open_counting(Rows(6, own)) for own in ((0, 1), (2, 5), (3, 4))]
    for _ in range(3):
        rows = np.concatenate([next(part)["targets"] for part in parts])
        assert np.array_equal(rows[[0, 1, 2, 4, 5, 3]], next(whole)["targets"])


def test_the_last_batch_is_filled_up():
    """Guards against hosts that see different numbers of batches, and a last batch that is dropped."""
    for process in range(2):
        batches = list(open_counting(Rows(4, ((0, 1), (2, 3))[process]), size=9))
        assert [batch["valid"].sum() for batch in batches] == [2, 2, 1 if process == 0 else 0]
        assert all(batch["tokens"].shape == (2, 1) for batch in batches)


def test_state_goes_on_where_it_was_with_any_batch_size():
    """Guards against examples lost or repeated by a resume."""
    batches = open_counting(Rows(4))
    next(batches), next(batches)
    state = batches.state()
    assert next(open_counting(Rows(4), state=state))["targets"].ravel().tolist() == [9, 10, 11, 12]
    assert next(open_counting(Rows(2), state=state))["targets"].ravel().tolist() == [9, 10]


def test_a_state_of_something_else_is_refused():
    """Guards against a place in one task's data used in another's."""
    state = open_counting(Rows(4), seed=1).state()
    with pytest.raises(ConfigError, match=r"seed = 1, the settings have 2.*--gin\.MODEL_DIR"):
        open_counting(Rows(4), state=state, seed=2)
