"""From encoder states to text, and how far the text is from the truth."""
