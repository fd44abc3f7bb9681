"""Training and inference with few bits: quantisers, quantised twins of layers, and the transform that puts them in."""
