"""famjax.locking: one process at a time, and file systems that cannot say so."""

import errno
import fcntl
import os

import pytest

from famjax.locking import lock


@pytest.fixture
def files(tmp_path):
    """Two descriptors of one file."""
    opened = [os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT) for _ in range(2)]
    yield opened
    for file in opened:
        os.close(file)


def test_one_at_a_time(files):
    """Guards against two writers of one file, and against a lock that outlives its holder."""
    first, second = files
    assert lock(first, "file")
    assert not lock(second, "file")
    fcntl.flock(first, fcntl.LOCK_UN)
    assert lock(second, "file", wait=True)


@pytest.mark.parametrize("wait", [False, True])
def test_a_file_system_without_locks(files, monkeypatch, caplog, wait):
    """Guards against a run that cannot begin on such a file system, or is not told what that means."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert lock(files[0], "results.jsonl", wait=wait)
    assert "results.jsonl: this file system has no locks" in caplog.text


def test_other_errors_are_not_hidden(files, monkeypatch):
    """Guards against a lock that is taken to be held where asking for it failed."""

    def refuse(*_):
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="Bad file descriptor"):
        lock(files[0], "file")
