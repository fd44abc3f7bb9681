"""Training a student to compute what a teacher computes: in its layers, and in its posteriors."""
