"""Transcribe with an exported model and sherpa-onnx alone: python transcribe.py a.wav b.flac [--int8]

scripts/export.py puts a copy of this file, as transcribe.py, into every folder that it writes. It needs sherpa-onnx and
soundfile, nothing of the project. Prints a line of JSON for each file: its path, the text, the processor time it took.
"""

import argparse
import json
import time
from pathlib import Path

import sherpa_onnx
import soundfile
from sherpa_onnx.lib._sherpa_onnx import OfflineRecognizer


def recogniser(folder: Path, suffix: str, threads: int) -> OfflineRecognizer:
    """The client, told of the features that the model was trained on."""
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
    client = recogniser(arguments.folder, ".int8.onnx" if arguments.int8 else ".onnx", arguments.threads)
    for start in range(0, len(arguments.files), arguments.batch):
        files = arguments.files[start : start + arguments.batch]
        recordings = [soundfile.read(str(file), dtype="float32", always_2d=True) for file in files]
        streams = [client.create_stream() for _ in files]
        began = time.process_time()
        for stream, (samples, rate) in zip(streams, recordings, strict=True):
            stream.accept_waveform(rate, samples.mean(axis=1))
        client.decode_streams(streams)
        seconds = (time.process_time() - began) / len(files)
        for file, stream, (samples, rate) in zip(files, streams, recordings, strict=True):
            row = {"file": str(file), "text": stream.result.text, "seconds": seconds, "audio": len(samples) / rate}
            print(json.dumps(row, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
