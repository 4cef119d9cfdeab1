"""Errors that a user can cause, each with the exit code that a job scheduler sees.

The message of each is one or two lines: what is wrong, where, what is allowed and which flag sets it.
`famjax.main` prints the message alone (the traceback appears with `--verbosity=1`) and exits with `exit_code`.
"""


class FamjaxError(Exception):
    """Base of all errors with a message made for the user."""

    exit_code = 1


class ConfigError(FamjaxError):
    """A setting is missing, misspelled, of the wrong type or impossible. Do not retry."""

    exit_code = 2


class DataError(FamjaxError):
    """A file, a record or a task cannot be read as the settings say."""

    exit_code = 3


class CheckpointError(FamjaxError):
    """A checkpoint cannot be written, read or used with this model."""

    exit_code = 4


class NumericsError(FamjaxError):
    """The loss or the gradient is no longer finite."""

    exit_code = 5


class CellsFailed(FamjaxError):
    """Some cells of a scan failed; the others are evaluated. The same command tries the failed ones again."""

    exit_code = 6


class HostsError(FamjaxError):
    """A process of the job is missing, was lost or hangs. Run the same command on all hosts again."""

    exit_code = 7


class Stopped(FamjaxError):
    """SIGTERM or SIGINT arrived and the state is saved: run the same command again to go on."""

    exit_code = 143
