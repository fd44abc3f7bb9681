"""The schemes, a file for each word of ``backend=``."""
