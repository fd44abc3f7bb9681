"""What entry points do: one module each, imported once their questions (--help) are answered."""
