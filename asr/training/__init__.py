"""The training loop and what it is made of: hooks, checkpoints, schedules, optimizers, metrics."""
