"""Launching a run: one description becomes a JobSet, an Indexed Job, an xpk command, a queued resource or a Slurm job."""
