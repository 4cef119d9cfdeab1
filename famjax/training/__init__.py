"""The trainer: step, loop, optimizers, checkpoints and metrics."""
