"""Weights mixed with those of other learners: what is mixed, with whom, and how messages travel."""
