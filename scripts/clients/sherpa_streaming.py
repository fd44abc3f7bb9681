"""Transcribe as a stream with an exported model and sherpa-onnx alone: python transcribe.py a.wav b.flac [--int8]

scripts/export.py format=onnx_streaming puts a copy of this file, as transcribe.py, into the folder that it writes. It needs
sherpa-onnx and soundfile, nothing of the project. Samples are given to the client piece by piece, as a microphone gives them.
Prints a line of JSON for each file: its path, the text, the processor time it took; with --partial also one for each change.
Files that cannot be read are named on standard error, the others go on, and the exit code is 2.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy
import sherpa_onnx
import soundfile


def recogniser(folder: Path, suffix: str, threads: int) -> tuple[sherpa_onnx.OnlineRecognizer, float]:
    """The client, with the features that the model was trained on, and the seconds of silence that a stream ends with."""
    networks = {name: str(folder / f"{name}{suffix}") for name in ("encoder", "decoder", "joiner")}
    settings = json.loads((folder / "client.json").read_text(encoding="utf-8"))
    tail = settings.pop("tail_seconds")
    settings["sample_rate"] = settings.pop("sampling_rate")
    client = sherpa_onnx.OnlineRecognizer.from_transducer(
        tokens=str(folder / "tokens.txt"), **networks, **settings, num_threads=threads
    )
    return client, tail


def transcribe(client: sherpa_onnx.OnlineRecognizer, samples: Any, rate: int, piece: int, on_change: Any) -> str:
    """The text of samples (N,), given ``piece`` at a time; ``on_change(heard, text)`` is called where it grows."""
    stream = client.create_stream()
    text = ""
    for start in range(0, len(samples), piece):
        stream.accept_waveform(rate, samples[start : start + piece])
        while client.is_ready(stream):
            client.decode_stream(stream)
        if client.get_result(stream) != text:
            text = client.get_result(stream)
            on_change(start + piece, text)
    return text


def main() -> None:
    """Transcribe the files named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--folder", type=Path, default=Path(__file__).resolve().parent, help="the exported folder")
    parser.add_argument("--int8", action="store_true", help="the int8 networks")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--piece", type=float, default=0.1, help="seconds given to the client at a time")
    parser.add_argument("--partial", action="store_true", help="a line also for each change of a text")
    arguments = parser.parse_args()
    if arguments.piece < 0.02 or arguments.threads < 1:
        parser.error("--piece must be at least 0.02, and --threads 1")
    client, tail = recogniser(arguments.folder, ".int8.onnx" if arguments.int8 else ".onnx", arguments.threads)
    failed = False
    for file in arguments.files:
        try:
            samples, rate = soundfile.read(str(file), dtype="float32", always_2d=True)
        except (soundfile.SoundFileError, OSError, TypeError) as error:  # TypeError: *.raw has no header
            failed = True
            print(f"not transcribed: {ascii(str(file))[1:-1]}: {ascii(str(error))[1:-1]}", file=sys.stderr, flush=True)
            continue
        show(client, file, samples.mean(axis=1), rate, tail, arguments)
    if failed:
        sys.exit(2)


def show(client: sherpa_onnx.OnlineRecognizer, file: Path, samples: Any, rate: int, tail: float, options: Any) -> None:
    """Print the lines of one file."""

    def changed(heard: int, text: str) -> None:
        if options.partial:
            print(json.dumps({"file": str(file), "heard": heard / rate, "partial": text}), flush=True)

    silence = numpy.zeros(round(tail * rate), dtype=numpy.float32)
    began = time.process_time()
    text = transcribe(client, numpy.concatenate([samples, silence]), rate, round(options.piece * rate), changed)
    row = {"file": str(file), "text": text, "seconds": time.process_time() - began, "audio": len(samples) / rate}
    print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
