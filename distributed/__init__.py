"""How learners agree: backends, topologies and transport. Knows nothing of speech and needs torch alone."""
