"""Many learners in one process: what comes of a scheme's rounds, and how long they take on a given cluster."""
