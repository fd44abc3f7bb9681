"""Structured pruning: masks that train with a model, what the masked model costs, and the removal of what is masked."""
