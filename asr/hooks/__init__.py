"""Training methods that attach to the loop as hooks; each is a pure function and a thin object."""
