"""Gradients of which a part is sent: what is chosen, what is kept back, and how it travels."""
