"""Transcribe with an exported model and sherpa-onnx alone: python transcribe.py a.wav b.flac [--int8]

scripts/export.py puts a copy of this file, as transcribe.py, into every folder that it writes. It needs sherpa-onnx and
soundfile, nothing of the project. Prints a line of JSON for each file: its path, the text, the processor time it took.
Files that cannot be read are named on standard error, the others go on, and the exit code is 2.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import sherpa_onnx
import soundfile
from sherpa_onnx.lib._sherpa_onnx import OfflineRecognizer


def recogniser(folder: Path, suffix: str, threads: int) -> OfflineRecognizer:
    """The client, with the features that the model was trained on."""
    networks = {name: str(folder / f"{name}{suffix}") for name in ("encoder", "decoder", "joiner")}
    settings = json.loads((folder / "client.json").read_text(encoding="utf-8"))
    config = sherpa_onnx.OfflineRecognizerConfig(
        feat_config=sherpa_onnx.FeatureExtractorConfig(**settings),
        model_config=sherpa_onnx.OfflineModelConfig(
            transducer=sherpa_onnx.OfflineTransducerModelConfig(
                networks["encoder"], networks["decoder"], networks["joiner"]
            ),
            tokens=str(folder / "tokens.txt"),
            num_threads=threads,
            model_type="transducer",
        ),
    )
    return OfflineRecognizer(config)  # from_transducer takes a part of these settings only


def main() -> None:
    """Transcribe the files named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--folder", type=Path, default=Path(__file__).resolve().parent, help="the exported folder")
    parser.add_argument("--int8", action="store_true", help="the int8 networks")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1, help="files decoded together")
    arguments = parser.parse_args()
    if arguments.batch < 1 or arguments.threads < 1:
        parser.error("--batch and --threads must be at least 1")
    client = recogniser(arguments.folder, ".int8.onnx" if arguments.int8 else ".onnx", arguments.threads)
    failed = 0
    for start in range(0, len(arguments.files), arguments.batch):
        recordings = []
        for file in arguments.files[start : start + arguments.batch]:
            try:
                recordings.append((file, *soundfile.read(str(file), dtype="float32", always_2d=True)))
            except (soundfile.SoundFileError, OSError, TypeError) as error:  # TypeError: *.raw has no header
                failed += 1
                print(
                    f"not transcribed: {ascii(str(file))[1:-1]}: {ascii(str(error))[1:-1]}", file=sys.stderr, flush=True
                )
        transcribe(client, recordings)
    if failed:
        sys.exit(2)


def transcribe(client: OfflineRecognizer, recordings: list[tuple[Path, Any, int]]) -> None:
    """Print the line of each recording: file, samples (N, channels) and rate; all are decoded together."""
    if not recordings:
        return
    streams = [client.create_stream() for _ in recordings]
    began = time.process_time()
    for stream, (_, samples, rate) in zip(streams, recordings, strict=True):
        stream.accept_waveform(rate, samples.mean(axis=1))
    client.decode_streams(streams)
    seconds = (time.process_time() - began) / len(recordings)
    for stream, (file, samples, rate) in zip(streams, recordings, strict=True):
        row = {"file": str(file), "text": stream.result.text, "seconds": seconds, "audio": len(samples) / rate}
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
