"""The learners of a run: how they meet, watch each other and count what they send."""
