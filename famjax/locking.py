"""Locks on files and folders, the system's own: they end with the process, however that ends, and leave no file."""

import errno
import fcntl

from absl import logging

# What a file system says that has no locks, as some that show a bucket or another machine's disk do.
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})


def lock(file: int, name: object, *, wait: bool = False) -> bool:
    """Takes the lock of an open file or folder; closing it gives the lock back.

    Where the file system has no locks it warns: nothing then keeps a second process out.

    Args:
      file: its descriptor.
      name: of it, for the warning.
      wait: until another process has given the lock back.

    Returns:
      Whether no other process has the lock; always where it waits.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        logging.warning("%s: this file system has no locks; see that no other process writes there.", name)
    return True
