"""A run on one page: from the files of a run folder to a self-contained HTML report."""
