"""Entry points and benchmarks: the only place where Hydra composes configurations and builds objects."""
