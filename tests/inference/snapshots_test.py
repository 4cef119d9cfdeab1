"""Contexts saved and loaded: in another process, with another model, damaged."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from famjax.data.vocabularies import Bytes
from famjax.errors import CheckpointError
from famjax.inference.config import MemoryOverrides, SamplingConfig
from tiny_language_model import make_model
from tolerances import EXACT, assert_close

TEXT = "a text to be remembered, longer than all of the window"
GREEDY = SamplingConfig(max_new_tokens=9, logprobs=True)


def test_a_loaded_session_goes_on(tmp_path):
    """Guards against an array that a snapshot loses, bfloat16 ones included, and against a changed session."""
    for dtype in ("float32", "bfloat16"):
        model = make_model(dtype=dtype)
        session = model.session()
        session.read(TEXT)
        session.save(tmp_path / "text.snapshot")
        loaded = model.load(tmp_path / "text.snapshot")
        assert loaded.num_tokens == session.num_tokens == len(TEXT)
        for after in (session, loaded):
            after.read("and more")
        assert_close(loaded.context.rows, session.context.rows, EXACT)
        expected, actual = (each.ask("?", GREEDY) for each in (session, loaded))
        np.testing.assert_array_equal(actual.tokens, expected.tokens)
        np.testing.assert_array_equal(actual.logprobs, expected.logprobs)
        assert [path.name for path in tmp_path.iterdir()] == ["text.snapshot"]


SCRIPT = """
import sys
from tiny_language_model import make_model
from famjax.inference.config import SamplingConfig
session = make_model().load(sys.argv[1])
answer = session.ask("?", SamplingConfig(max_new_tokens=9, logprobs=True))
print(session.num_tokens, *answer.tokens, *answer.logprobs)
"""


@pytest.mark.parametrize("num_tokens", [54, 200_000])
def test_another_process_answers_the_same(tmp_path, num_tokens):
    """Guards against a snapshot that means something only to the process that wrote it, or only early in a text."""
    session = make_model(chunk_blocks=512).session()
    session.read((TEXT * (num_tokens // len(TEXT) + 1))[:num_tokens])
    session.save(tmp_path / "text.snapshot")
    expected = session.ask("?", GREEDY)
    script = f"import sys; sys.path[:0] = {sys.path}\n{SCRIPT}"
    command = [sys.executable, "-c", script, str(tmp_path / "text.snapshot")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert [int(value) for value in printed[:10]] == [num_tokens, *expected.tokens]
    np.testing.assert_allclose([float(value) for value in printed[10:]], expected.logprobs, rtol=1e-5)


def test_a_snapshot_of_another_model(tmp_path):
    """Guards against a state that is read with a model that it does not belong to."""
    model, path = make_model(), tmp_path / "text.snapshot"
    model.session().save(path)
    with pytest.raises(CheckpointError, match=r"other parameters than those of nowhere/checkpoint_0"):
        make_model(seed=1).load(path)
    with pytest.raises(CheckpointError, match=r"another model: memory.num_segments: the snapshot 2, this model 1"):
        model.with_memory(MemoryOverrides(num_segments=1)).load(path)
    other = dataclasses.replace(model, vocabulary=_OtherBytes())
    with pytest.raises(CheckpointError, match="another vocabulary"):
        other.load(path)


def test_one_parameter_changes_the_fingerprint():
    """Guards against parameters that are taken for the same though a bit, or two places, differ."""
    model = make_model()
    table = np.asarray(model.params["embedding"]["table"])
    swapped = table.copy()
    swapped[[3, 4]] = swapped[[4, 3]]
    slightly = table.copy()
    slightly[5, 5] = np.nextafter(slightly[5, 5], np.float32(9))
    found = {model.fingerprint}
    for changed in (swapped, slightly):
        params = {**model.params, "embedding": {"table": changed}}
        found.add(dataclasses.replace(model, params=params).fingerprint)
    assert len(found) == 3
    assert make_model(num_devices=8).fingerprint == model.fingerprint


def test_damaged_and_missing(tmp_path):
    """Guards against a traceback, or half a state, where the file is cut short, is none, or cannot be written."""
    model, path = make_model(), tmp_path / "text.snapshot"
    with pytest.raises(CheckpointError, match="there is no such snapshot"):
        model.load(path)
    model.session().save(path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not a zip"):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"text\.snapshot: no snapshot, or a damaged one"):
            model.load(path)
    np.save(tmp_path / "array.npy", np.zeros(3))
    np.savez(tmp_path / "other.npz", description=np.frombuffer(b"[1]", np.uint8), num_tokens=np.ones(1))
    for other in ("array.npy", "other.npz"):
        with pytest.raises(CheckpointError, match="no snapshot, or a damaged one"):
            model.load(tmp_path / other)
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="the snapshot cannot be written"):
        model.session().save(tmp_path / "file" / "text.snapshot")


class _OtherBytes(Bytes):
    fingerprint = "other"
