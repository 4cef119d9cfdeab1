"""Checks on a run's own data that no document reaches another: `python -m famjax.data.check_leakage`."""

import argparse
import sys
from collections.abc import Sequence

from famjax.configuration.arguments import parse_arguments
from famjax.errors import ConfigError, DataError, FamjaxError
from famjax.platforms import leave_absent_tpus

DESCRIPTION = """\
Reads documents, or records of instructions, as training would stream them (STREAM_DOCUMENTS), with a small random
model that has the run's memory, and replaces everything that lies before a document's beginning: nothing behind it may
change, and no gradient may come from there. Takes the run's own flags, those of `famjax`: --gin_file=FILE ...,
--gin.NAME=VALUE ...

Exit codes: 0 nothing leaks, 2 configuration, 3 something leaks, or the data cannot be read.
"""


def main(arguments: Sequence[str]) -> int:
    """Checks, prints what was checked, and returns the exit code."""
    parser = argparse.ArgumentParser(
        "python -m famjax.data.check_leakage",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--steps", type=int, default=8, help="batches to check, of those in which a document ends; default: 8"
    )
    own, others = parser.parse_known_args(arguments)
    leave_absent_tpus()
    try:
        sys.stdout.write(_check(own.steps, others))
    except FamjaxError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def _check(steps: int, arguments: Sequence[str]) -> str:
    """What was checked, in words; DataError where something leaks."""
    if steps < 1:
        raise ConfigError(f"--steps={steps}; allowed: 1 or more.")
    parsed = parse_arguments(arguments, ["train"])
    from famjax.configuration.loading import load
    from famjax.training.config import TrainJob

    flags = (*parsed.gin_bindings, ("STREAM_DOCUMENTS", "True"), ("Streaming.evaluate", "False"))
    job = load(TrainJob, parsed.gin_files, flags, parsed.gin_search_paths).job
    from famjax.training.leakage import check_leakage  # jax is imported here, after every check of names and types

    found = check_leakage(job, steps)
    data = job.data
    report = (
        f"{data.mixture_or_task_name}, split {data.split!r}: {found.documents} beginnings of documents behind others, "
        f"in {found.batches} batches of {data.batch_size} x {job.step_length} tokens; targets read: {found.targets}\n"
        f"first inputs that are not the beginning token: {found.wrong_inputs}\n"
        f"other inputs that are not the target before them: {found.wrong_order}\n"
        f"beginnings that the batch does not say: {found.unmarked}\n"
        f"padding that counts in the loss: {found.weighted_padding}\n"
        f"largest change behind a beginning, everything before it replaced: {found.output_difference} "
        f"(before it: {found.control:.3g})\n"
        f"largest gradient from behind a beginning to the carried state: {found.gradient} "
        f"(from before it: {found.control_gradient:.3g})\n"
    )
    if found.leaks:
        raise DataError(f"{report}Something of a document reaches another.")
    if found.is_blind:
        raise DataError(
            f"{report}The check is blind: what was replaced changes nothing, of {found.tokens_before} tokens before a "
            "beginning or in other rows. With a larger --gin.BATCH_SIZE, or longer rows, there are more."
        )
    return f"{report}Nothing leaks.\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
