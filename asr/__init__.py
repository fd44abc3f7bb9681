"""Speech recognition: from audio to loss to text, and the training loop."""
