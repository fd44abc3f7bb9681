"""Makes trained models small: passes from a model folder to another one, and hooks that attach to the training loop."""
