"""The scan: a grid of checkpoints, memories, tasks and lengths, evaluated by one command."""
