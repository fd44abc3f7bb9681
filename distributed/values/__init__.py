"""Numbers in fewer bytes: which of them are sent, how they are rounded, and how many bytes that makes."""
