"""The parameters of a model as one buffer, and what is done with their gradients."""
