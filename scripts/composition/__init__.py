"""The work of the entry points, a module for each; imported only after --help has been answered."""
