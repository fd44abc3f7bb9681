"""The folder of a run: checkpoints, metrics and logs as they lie on disk."""
