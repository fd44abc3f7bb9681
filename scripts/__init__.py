"""Entry points and benchmarks; composition/ composes configurations and assembles runs from them."""
