"""Memory and time of transcribing one long recording: scripts/transcribe.py in a process of its own.

    python scripts/bench/long_recording.py --run exp/demo --minutes 60 --json docs/results/long-recording.json

The recording, a FLAC file, is the run's test utterances one after the other, again and again. Memory is the most that the process
held, time that of the processor and of the clock, all as the system counts them.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

import numpy as np
import soundfile

from distributed.errors import UsageError
from scripts.bench.report import save_figures
from scripts.composition.environment import environment
from scripts.composition.evaluation import named_set
from scripts.composition.startup import REPOSITORY, run_main
from scripts.composition.trained import load_trained

TRANSCRIBE = REPOSITORY / "scripts" / "transcribe.py"


def main(arguments: list[str]) -> None:
    """Make the recording, transcribe it, print the figures and save them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a trained run's folder")
    parser.add_argument("--minutes", type=float, default=60.0, help="length of the recording")
    parser.add_argument("--json", type=Path, help="where to save the figures")
    options = parser.parse_args(arguments)
    made_with = environment()
    with tempfile.TemporaryDirectory() as folder:
        recording, texts = Path(folder) / "recording.flac", Path(folder) / "texts.json"
        seconds = write_recording(options.run, 60 * options.minutes, recording)
        began = time.monotonic()
        command = [sys.executable, str(TRANSCRIBE), f"run={options.run}", "format=json", f"out={texts}", str(recording)]
        process = subprocess.Popen(command)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        elapsed = time.monotonic() - began
        if process.returncode:
            raise UsageError(f"transcribe.py ended with exit code {process.returncode}; its output is above")
    figures = {
        "peak_mebibytes": used.ru_maxrss / 1024,
        "processor_seconds": used.ru_utime + used.ru_stime,
        "clock_seconds": elapsed,
        "audio_seconds": seconds,
    }
    print("".join(f"{key}: {value:.1f}\n" for key, value in figures.items()), end="")
    if options.json is not None:
        save_figures(options.json, figures, [], made_with, run=options.run.name)


def write_recording(run: Path, least_seconds: float, path: Path) -> float:
    """Write the run's test utterances, repeated until they last so long; the seconds written."""
    usable = named_set(load_trained(run, "best", threads=1), "test", 1).screened.usable
    spoken = [soundfile.read(str(each.audio_filepath), dtype="int16", always_2d=True) for each in usable]
    rates = {rate for _, rate in spoken}
    if len(rates) != 1:
        raise UsageError(
            f"run={run}: its test set has files of {sorted(rates)} Hz, which one recording cannot have; take another run"
        )
    (rate,) = rates
    once = np.concatenate([samples.mean(1).astype(np.int16) for samples, _ in spoken])
    whole = np.tile(once, -(-round(least_seconds * rate) // len(once)))[: round(least_seconds * rate)]
    soundfile.write(path, whole, rate)
    return len(whole) / rate


if __name__ == "__main__":
    run_main(main)
