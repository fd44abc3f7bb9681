"""Benchmarks and experiments behind the numbers in docs/: each saves its environment, command and results as JSON."""
