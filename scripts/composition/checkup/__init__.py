"""scripts/doctor.py: what is looked at on a machine and of a run, and the findings."""
