"""scripts/sweep.py: the space of a sweep, the sampling of its trials, their runs, and the table of what came of them."""
