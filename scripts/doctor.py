"""Does this machine suit a run? python scripts/doctor.py [[--learners N] train [key=value ...]]

    python scripts/doctor.py                                          # the machine: cores, GPUs, memory, network, SLURM, disk, versions
    python scripts/doctor.py --learners 4 train experiment=demo       # and a run: memory of its worst unit, steps per hour, what cannot work

The arguments after train or train_lm are those of the run, which is neither started nor changed; its data is read, and a few of
its units are computed. One line for each finding; the exit code is 1 where one of them is an error.
"""

import sys
from pathlib import Path


def main(arguments: "list[str]") -> None:
    """Print what was found; exit code 1 if a run cannot work here."""
    from scripts.composition.checkup.doctor import doctor, doctor_options  # torch is imported later

    options = doctor_options(arguments, __doc__ or "")
    if options is not None:
        sys.exit(doctor(options))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from scripts.composition.startup import run_main

    run_main(main)
