"""The parity report, with the fixtures' logits in the place of transformers."""

import importlib.util

import numpy as np
import pytest
from hf_models import FIXTURES
from imported import BLOCK, expected_of

from famjax.errors import CheckpointError
from famjax.interop import huggingface, verifying
from famjax.interop.importing import import_checkpoint
from famjax.models.config import MemoryConfig

NAME, WINDOW = "qwen2", 2 * BLOCK


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """An import, with a transformers that has nothing but the fixture's logits."""
    tokens, expected = expected_of(NAME)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(verifying, "_transformers_logits", lambda source, ids: expected[0][: len(ids)])
    import_checkpoint(FIXTURES / NAME, tmp_path / "out", MemoryConfig(BLOCK, num_segments=1, fam_length=0))
    return tmp_path / "out", tokens[0].tolist(), expected[0]


def test_what_is_compared(checkpoint):
    """Guards against a model that is compared with itself, a window that is too wide, and a loss of other tokens."""
    folder, tokens, expected = checkpoint
    report = verifying.verify(FIXTURES / NAME, str(folder), tokens, fam_length=3)
    assert report.is_equal
    assert 0 < report.imported.largest < 2e-4
    bswa, behind, fam, fam_behind = report.moved
    assert (bswa.begin, bswa.end, behind.begin, behind.end) == (0, WINDOW, WINDOW, len(tokens))
    assert bswa.largest < 1e-5
    assert bswa.top1 == 1
    assert min(behind.largest, fam.largest, fam_behind.largest) > 1e-3
    shifted = np.exp(expected[:-1].astype(np.float64))
    chosen = shifted[np.arange(len(tokens) - 1), tokens[1:]] / shifted.sum(axis=-1)
    assert report.expected_loss == pytest.approx(-np.log(chosen).mean(), rel=1e-5)
    assert report.imported.loss == pytest.approx(report.expected_loss, rel=1e-5)
    assert abs(fam.loss - bswa.loss) > 1e-3
    short = verifying.verify(FIXTURES / NAME, str(folder), tokens[:5], fam_length=3)
    assert [row.end for row in short.moved] == [5, 5]
    assert "The text ends within the window of 16 tokens" in str(short)
    assert "The text ends" not in str(report)


def test_another_model_is_no_import(checkpoint, monkeypatch, capsys):
    """Guards against a script that goes on with a wrong import, and a report that hides it."""
    folder, _, expected = checkpoint
    flags = ["verify", f"--source={FIXTURES / NAME}", f"--checkpoint={folder}", "--length=9"]
    assert huggingface.main(flags) == 4
    printed = capsys.readouterr()
    assert "The import is NOT transformers' model" in printed.out
    assert "is not what transformers computes from" in printed.err
    monkeypatch.setattr(verifying, "_transformers_logits", lambda source, ids: expected[: len(ids), :-2])
    with pytest.raises(
        CheckpointError, match=r"has a vocabulary of 40, and the model of .*qwen2 one of 38: it was not"
    ):
        verifying.verify(FIXTURES / NAME, str(folder), [1, 2, 3])
