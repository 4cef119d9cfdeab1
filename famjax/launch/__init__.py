"""Launching a run: a JobSet, an Indexed Job, an xpk command, a queued resource or a Slurm job of one description."""
