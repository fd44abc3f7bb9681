"""The door for what comes from elsewhere: files are read within limits, and what they say is shown, never obeyed."""
