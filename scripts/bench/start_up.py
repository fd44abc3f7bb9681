"""What comes before training: the screening of a large corpus at a first and at a second start, and features.

    python scripts/bench/start_up.py --json docs/results/start-up.json [--quick]

A manifest of WAV files of a tenth of a second is screened as a split is at the start of a run, once without and then with
the table of headers that the first screening has left; the manifest is read before, which is told apart. The files lie in a
temporary folder, whose headers are in the memory of the system: on a disk or a network the first start takes longer.
Features are log-mel energies of noise, ours and torchaudio's, which take turns. Processor and clock are both measured.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

import torch

from asr.data.corpus import write_wav
from asr.data.features import LOW_FREQUENCY_HZ, LogMel
from asr.data.folds import UNDIVIDED
from asr.data.header_cache import SETTLED_SECONDS
from asr.data.manifest import Utterance, read_manifest, write_manifest
from asr.data.material import Speech
from asr.parts import build
from asr.torchaudio_parts import torchaudio_part
from asr.training.precision import choose_matmul, flush_denormals
from scripts.bench.report import save_figures
from scripts.composition.compose import compose
from scripts.composition.startup import run_main

SECONDS = (2.0, 10.0)  # of utterances whose features are computed
ROUNDS = 15
FILE_SECONDS = 0.1


def main(arguments: list[str]) -> None:
    """Print two tables in Markdown and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to save the figures")
    parser.add_argument("--quick", action="store_true", help="1,000 files in place of 30,000")
    options = parser.parse_args(arguments)
    flush_denormals()
    torch.set_num_threads(1)
    choose_matmul("auto")
    files = 1_000 if options.quick else 30_000
    with TemporaryDirectory() as folder:
        starts = screen_twice(Path(folder), files)
    features = [compare_features(seconds) for seconds in SECONDS]
    report(starts, features)
    if options.json is not None:
        save_figures(options.json, figures(starts, features), [*starts, *features])


def screen_twice(folder: Path, files: int) -> list[dict[str, Any]]:
    """Rows of the manifest's reading, of the first screening and of the second."""
    manifest = folder / "train.jsonl"
    write_manifest(manifest, [write_file(folder / "speech" / f"{index:06d}.wav") for index in range(files)])
    time.sleep(SETTLED_SECONDS)  # what is newer is not kept
    config = compose("train", ["data=manifests", f"data.root={folder}", "data.train=train.jsonl"])
    corpus, features = build(config.data), build(config.features)
    tokenizer = build(config.tokenizer).fit(["a"])
    speech = Speech(corpus, features, tokenizer, None, UNDIVIDED)
    stages: dict[str, Callable[[], object]] = {
        "reading the manifest": lambda: read_manifest(manifest),
        "first start": lambda: speech.split("train"),
        "second start": lambda: speech.split("train"),
    }
    return [{"files": files, "stage": name, **timed(work)} for name, work in stages.items()]


def write_file(path: Path) -> Utterance:
    """A short file, described."""
    path.parent.mkdir(exist_ok=True)
    return Utterance(path.stem, path, write_wav(path, torch.zeros(round(16000 * FILE_SECONDS)), 16000), "a")


def timed(work: Callable[[], object]) -> dict[str, float]:
    """Seconds of this process and of the clock that ``work`` takes."""
    cpu, clock = time.process_time(), time.perf_counter()
    work()
    return {"cpu_seconds": time.process_time() - cpu, "clock_seconds": time.perf_counter() - clock}


def compare_features(seconds: float) -> dict[str, Any]:
    """Medians of an utterance's features by our filterbank and by torchaudio's."""
    log_mel: LogMel = build(compose("train", []).features)
    signal = torch.randn(round(seconds * log_mel.sample_rate), generator=torch.Generator().manual_seed(0))

    def torchaudios() -> torch.Tensor:
        energies: torch.Tensor = torchaudio_part("compliance.kaldi").fbank(
            signal[None] * log_mel.full_scale,
            sample_frequency=float(log_mel.sample_rate),
            num_mel_bins=log_mel.num_mels,
            frame_length=log_mel.frame_length_ms,
            frame_shift=log_mel.frame_shift_ms,
            low_freq=LOW_FREQUENCY_HZ,
        )
        return energies

    ways: dict[str, Callable[[], torch.Tensor]] = {"ours": lambda: log_mel.mel(signal), "torchaudio": torchaudios}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS + 1):
        for name, way in ways.items():
            taken[name].append(timed(way)["cpu_seconds"])
    medians = {
        name: statistics.median(each[1:]) for name, each in taken.items()
    }  # not the first, which makes the filters
    error = float((ways["ours"]() - ways["torchaudio"]()).abs().max())
    return {
        "seconds": seconds,
        **{f"{name}_cpu_seconds": each for name, each in medians.items()},
        "largest_error": error,
    }


def figures(starts: list[dict[str, Any]], features: list[dict[str, Any]]) -> dict[str, float]:
    """The results; the second start's screening without the reading of the manifest."""
    reading, first, second = (row["clock_seconds"] for row in starts)
    ratios = {
        f"features_ratio_vs_torchaudio/{row['seconds']:g}s": row["torchaudio_cpu_seconds"] / row["ours_cpu_seconds"]
        for row in features
    }
    return {"first_screening_seconds": first - reading, "second_screening_seconds": second - reading, **ratios}


def report(starts: list[dict[str, Any]], features: list[dict[str, Any]]) -> None:
    """The tables in Markdown."""
    print("| files | stage | processor | clock |\n|---|---|---|---|")
    for row in starts:
        print(f"| {row['files']:,} | {row['stage']} | {row['cpu_seconds']:.2f} s | {row['clock_seconds']:.2f} s |")
    print("\n| utterance | ours | torchaudio | ratio | largest difference |\n|---|---|---|---|---|")
    for row in features:
        ours, theirs = row["ours_cpu_seconds"], row["torchaudio_cpu_seconds"]
        print(
            f"| {row['seconds']:g} s | {1e3 * ours:.1f} ms | {1e3 * theirs:.1f} ms | {theirs / ours:.2f} | "
            f"{row['largest_error']:.0e} |"
        )


if __name__ == "__main__":
    run_main(main)
