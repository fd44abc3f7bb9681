"""Benchmarks and experiments behind the figures in docs/: each saves its environment, command and figures as JSON."""
