"""An exported model beside PyTorch on one core: real-time factors, texts that differ, word error rates.

    python scripts/bench/export.py --run exp/my-run --folder exp/my-run/export/onnx --utterances 100 --json export.json

From samples to text, one utterance at a time, greedy search with at most one symbol per state, as sherpa-onnx's: the Python
API, and sherpa-onnx with the fp32 and int8 networks, each a process of its own. Processor time of one thread; rounds are
interleaved, the medians of their real-time factors are compared. Of an export for streams (format=onnx_streaming) the stream of the
API and the client's are compared, both given each recording at once, and the silence at its end that the client needs.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

import soundfile
import torch

from asr.data.audio_files import Waveform
from asr.decoding.greedy import Greedy
from asr.decoding.wer import score
from asr.foreign.terminal import say
from asr.recogniser import load
from asr.training.measures import Decode
from distributed.errors import UsageError
from scripts.bench.report import save_figures
from scripts.composition.evaluation import named_set
from scripts.composition.startup import run_main
from scripts.composition.trained import load_trained

Texts = list[str]
Method = Callable[[Sequence[Path]], tuple[Texts, float]]  # texts of files, and processor seconds


def main(arguments: list[str]) -> None:
    """Print a table in Markdown and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a trained run's folder")
    parser.add_argument("--folder", type=Path, required=True, help="what scripts/export.py has written of it")
    parser.add_argument("--checkpoint", default="best", help="as exported")
    parser.add_argument("--set", default="test", help="a split of the run's corpus, or a manifest")
    parser.add_argument("--utterances", type=int, default=100, help="at most so many, the first of the set")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved repetitions")
    parser.add_argument("--json", type=Path, help="where to save the figures")
    options = parser.parse_args(arguments)
    trained = load_trained(options.run, options.checkpoint, threads=1)
    usable = named_set(trained, options.set, 1).screened.usable[: options.utterances]
    if any(each.offset is not None for each in usable):
        raise UsageError(f"--set {options.set}: its utterances are parts of files, which the client does not cut")
    references = [trained.speech.tokenizer.decode(trained.speech.tokenizer.encode(each.text)) for each in usable]
    files = [each.audio_filepath for each in usable]
    settings = json.loads((options.folder / "client.json").read_text(encoding="utf-8"))
    methods: dict[str, Method] = {
        "PyTorch": of_api(options.run, options.checkpoint, settings.get("tail_seconds")),
        "sherpa-onnx, fp32": of_client(options.folder, []),
        "sherpa-onnx, int8": of_client(options.folder, ["--int8"]),
    }
    audio_seconds = sum(soundfile.info(str(file)).duration for file in files)
    rows = rows_of(measure(methods, files, options.rounds), references, audio_seconds)
    report(rows)
    if options.json is not None:
        first = rows[0]["real_time_factor"]
        ratios = {row["method"]: first / row["real_time_factor"] for row in rows}
        remarks = {"run": str(options.run), **trained.origin, "set": options.set, "utterances": len(files)}
        save_figures(options.json, ratios, rows, **remarks)


def of_api(run: Path, checkpoint: str, tail_seconds: float | None) -> Method:
    """The Python API, one recording at a time; with ``tail_seconds`` its stream, which hears as much silence after each."""
    torch.set_num_threads(1)
    search = cast(Decode, Greedy(max_symbols=1))
    model = load(run, checkpoint=checkpoint, device="cpu", decode=search, batch_size=1)

    def text_of(waveform: Waveform) -> str:
        if tail_seconds is None:
            return model.transcribe(waveform, alignment=False)[0].text
        stream = model.stream(waveform.rate)
        silence = torch.zeros(round(tail_seconds * waveform.rate))
        # The client computes a chunk when the frame after it is there, ours a frame earlier.
        shift = round(model.features.shift_samples * waveform.rate / model.features.sample_rate)
        stream.accept(torch.cat([waveform.samples, silence])[: -shift or None])
        return stream.partial.text

    def recognise(files: Sequence[Path]) -> tuple[Texts, float]:
        texts, seconds = [], 0.0
        for file in files:
            samples, rate = soundfile.read(str(file), dtype="float32", always_2d=True)
            waveform = Waveform(torch.from_numpy(samples.mean(axis=1)), rate, str(file))
            began = time.process_time()
            texts.append(text_of(waveform))
            seconds += time.process_time() - began
        return texts, seconds

    return recognise


def of_client(folder: Path, flags: list[str]) -> Method:
    """sherpa-onnx with an exported folder, in a process of its own, since its errors end the process."""

    def recognise(files: Sequence[Path]) -> tuple[Texts, float]:
        command = [sys.executable, str(folder / "transcribe.py"), *flags, *(str(file.resolve()) for file in files)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise UsageError(f"--folder {folder}: its client failed: {done.stderr.strip().splitlines()[-1:]}")
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        return [row["text"] for row in rows], sum(row["seconds"] for row in rows)

    return recognise


def measure(methods: dict[str, Method], files: Sequence[Path], rounds: int) -> dict[str, tuple[Texts, list[float]]]:
    """Texts of each method and its seconds in every round; method after method in each round, the first warms up."""
    found: dict[str, tuple[Texts, list[float]]] = {}
    for number in range(rounds + 1):
        for name, method in methods.items():
            texts, seconds = method(files if number else files[:2])
            if number:
                found.setdefault(name, (texts, []))[1].append(seconds)
    return found


def rows_of(
    found: dict[str, tuple[Texts, list[float]]], references: Texts, audio_seconds: float
) -> list[dict[str, Any]]:
    """A row for each method; the first is what the others are compared with."""
    first = next(iter(found.values()))[0]
    names = [str(place) for place in range(len(references))]
    spoken = dict(zip(names, references, strict=True))
    return [
        {
            "method": name,
            "real_time_factor": statistics.median(seconds) / audio_seconds,
            "seconds": seconds,
            "texts_that_differ": sum(one.split() != other.split() for one, other in zip(texts, first, strict=True)),
            "wer": score(spoken, dict(zip(names, texts, strict=True))).wer,
        }
        for name, (texts, seconds) in found.items()
    ]


def report(rows: Sequence[dict[str, Any]]) -> None:
    """The table in Markdown."""
    first = rows[0]["real_time_factor"]
    say("| | real-time factor | x PyTorch | texts that differ | WER |", "|---|---|---|---|---|")
    for row in rows:
        factor = row["real_time_factor"]
        cells = f"{factor:.4f} | {first / factor:.2f} | {row['texts_that_differ']} | {row['wer']:.2%}"
        say(f"| {row['method']} | {cells} |")


if __name__ == "__main__":
    run_main(main)
