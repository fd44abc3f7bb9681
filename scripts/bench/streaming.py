"""How long after a word has been spoken a stream writes it, and how many words it gets wrong.

    python scripts/bench/streaming.py --runs exp/chunk-8 exp/chunk-16 --aligner exp/whole --utterances 200 --json streaming.json

The delay of a word is from its end to the moment at which the samples are there that its last token needed: chunk, window of
the features and hesitation of the model, without the time of the computation, which is given beside it. The ends of words
are those of a forced alignment of the true text by the --aligner; a model that sees whole utterances has no reason to put them
late. Only words that were recognised count. Word error rates are those of the streams; greedy search. A run whose encoder sees whole
utterances is measured beside them: all of its words come at the end of the recording.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

import numpy as np
import torch

from asr.data.audio import read_audio
from asr.data.manifest import Utterance
from asr.decoding.error_report import align
from asr.decoding.forced_alignment import word_spans
from asr.decoding.online_words import StreamedWord
from asr.decoding.results import figures_of, score_set
from asr.foreign.terminal import say
from asr.models.streaming import chunked
from asr.recogniser import Transcriber, load
from distributed.errors import UsageError
from scripts.bench.report import save_figures
from scripts.composition.alignment import alignable
from scripts.composition.evaluation import named_set
from scripts.composition.startup import run_main
from scripts.composition.trained import Trained, load_trained

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
Ends = Mapping[str, Sequence[float]]  # of the words of each utterance's text, by id


@dataclass(frozen=True, slots=True)
class Heard:
    """What a stream wrote of one utterance."""

    text: str
    words: Sequence[StreamedWord]
    seconds: float  # of audio
    computed: Sequence[float]  # wall seconds of each chunk


def main(arguments: list[str]) -> None:
    """Print a table in Markdown and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="folders of runs, each with its chunk")
    parser.add_argument(
        "--aligner", type=Path, help="a run that tells where words end; without it each run tells itself"
    )
    parser.add_argument("--checkpoint", default="best", help="of all runs")
    parser.add_argument("--set", default="test", help="a split of the runs' corpus, or a manifest")
    parser.add_argument("--utterances", type=int, default=200, help="at most so many, the first of the set")
    parser.add_argument("--json", type=Path, help="where to save the figures")
    options = parser.parse_args(arguments)
    known = (
        None
        if options.aligner is None
        else word_ends(load_trained(options.aligner, options.checkpoint, 1), options.set)
    )
    rows = []
    for folder in options.runs:
        trained = load_trained(folder, options.checkpoint, 1)
        ends = word_ends(trained, options.set) if known is None else known
        utterances = named_set(trained, options.set, 1).screened.usable[: options.utterances]
        model = load(folder, checkpoint=options.checkpoint, device="cpu")
        heard = {each.id: hear(model, samples_of(trained, each)) for each in utterances}
        references = {each.id: spoken_text(trained, each) for each in utterances}
        rows.append(row_of(folder, model, references, heard, ends))
    report(rows)
    if options.json is not None:
        aligner = "each run itself" if options.aligner is None else str(options.aligner)
        figures = {f"{row['run']} delay p50": row["delay"]["p50"] for row in rows if row["delay"] is not None}
        save_figures(options.json, figures, rows, aligner=aligner, set=options.set)


def word_ends(trained: Trained, name: str) -> dict[str, list[float]]:
    """Seconds at which the words of a set end, by utterance, where the model puts the true text."""
    tokenizer = trained.speech.tokenizer
    evaluated = named_set(trained, name, 16)
    texts = {each.id: each.text for each in evaluated.screened.usable}
    seconds = trained.speech.features.frame_seconds * trained.recogniser.subsampling
    return {
        name: [(last + 1) * seconds for _, last in word_spans(path, tokenizer.encode(texts[name]), tokenizer.symbols)]
        for name, path in alignable(trained, evaluated, "auto").items()
    }


def samples_of(trained: Trained, utterance: Utterance) -> torch.Tensor:
    """Samples of an utterance at the model's rate."""
    return read_audio(utterance, trained.speech.features.sample_rate, resample=True)


def spoken_text(trained: Trained, utterance: Utterance) -> str:
    """The text as the tokenizer writes it."""
    tokenizer = trained.speech.tokenizer
    return tokenizer.decode(tokenizer.encode(utterance.text))


def hear(model: Transcriber, samples: torch.Tensor) -> Heard:
    """Recognise samples (N,) as a stream, which is given a chunk's worth at a time; without chunks at the end."""
    if chunk_of(model) is None:
        return hear_at_the_end(model, samples)
    stream, computed = model.stream(), []
    size = round(chunk_seconds(model) * model.sample_rate)
    for piece in samples.split(size):
        began = time.perf_counter()
        stream.accept(piece)
        computed.append(time.perf_counter() - began)
    began = time.perf_counter()
    found = stream.final()
    computed.append(time.perf_counter() - began)
    return Heard(found.text, cast(list[StreamedWord], found.words), found.seconds, computed)


def hear_at_the_end(model: Transcriber, samples: torch.Tensor) -> Heard:
    """Recognise samples (N,) as a whole: every word is known when the recording has ended."""
    began = time.perf_counter()
    (found,) = model.transcribe(samples, alignment=False)
    computed = time.perf_counter() - began
    words = [
        StreamedWord(each.text, each.start, each.end, each.confidence, emitted=found.seconds) for each in found.words
    ]
    return Heard(found.text, words, found.seconds, [computed])


def chunk_of(model: Transcriber) -> int | None:
    """States of a chunk; None of an encoder that sees whole utterances."""
    chunk: int | None = getattr(model.inference.model.encoder, "chunk", None)
    return chunk


def chunk_seconds(model: Transcriber) -> float:
    """Duration of a chunk of a transcriber's model."""
    encoder = chunked(model.inference.model.encoder)
    return (encoder.chunk or 0) * encoder.subsampling * model.features.frame_seconds


def delays(reference: str, ends: Sequence[float], words: Sequence[StreamedWord]) -> list[float]:
    """Seconds from the end of each recognised word of a text to its emission.

    Raises:
        UsageError: there is not one end for each word.
    """
    if len(reference.split()) != len(ends):
        raise UsageError(f"--aligner: has {len(ends)} words in {reference!r}; its tokens must be of the same texts")
    left_ends, left_words, found = iter(ends), iter(words), []
    for spoken, written in align(reference, " ".join(each.text for each in words)):
        end = next(left_ends) if spoken else None
        word = next(left_words) if written else None
        if end is not None and word is not None and spoken == written:
            found.append(word.emitted - end)
    return found


def row_of(
    folder: Path, model: Transcriber, references: Mapping[str, str], heard: Mapping[str, Heard], ends: Ends
) -> dict[str, Any]:
    """The figures of one run. ``delay`` is None where no word was recognised."""
    found = [
        delay
        for name, each in heard.items()
        if name in ends
        for delay in delays(references[name], ends[name], each.words)
    ]
    computed = [seconds for each in heard.values() for seconds in each.computed]
    chunk = chunk_of(model)
    figures = figures_of(score_set("set", references, {name: each.text for name, each in heard.items()}))
    return {
        "run": str(folder),
        "chunk_states": chunk,
        "left_chunks": None if chunk is None else chunked(model.inference.model.encoder).left_chunks,
        "chunk_seconds": None if chunk is None else chunk_seconds(model),
        "delay": quantiles(found) | {"mean": statistics.fmean(found), "words": len(found)} if found else None,
        "computation_of_a_chunk": quantiles(computed),
        "real_time_factor": sum(computed) / sum(each.seconds for each in heard.values()),
        **figures,
    }


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p90 and p99."""
    return {name: float(np.quantile(seconds, place)) for name, place in QUANTILES.items()}


def report(rows: Sequence[dict[str, Any]]) -> None:
    """The table in Markdown; times in milliseconds."""
    say("| run | chunk | WER | 95 % interval | delay p50 | p90 | p99 | computation p50 | p99 | real-time factor |")
    say(f"|{'---|' * 10}")
    for row in rows:
        low, high = row["wer_interval"]
        delay, computed = row["delay"], row["computation_of_a_chunk"]
        times = " | ".join("none" if delay is None else f"{1000 * delay[name]:.0f}" for name in QUANTILES)
        own = " | ".join(f"{1000 * value:.1f}" for value in (computed["p50"], computed["p99"]))
        rates = f"{100 * row['wer']:.2f} % | {100 * low:.2f} to {100 * high:.2f} %"
        chunk = "whole" if row["chunk_seconds"] is None else f"{1000 * row['chunk_seconds']:.0f} ms"
        say(f"| {row['run']} | {chunk} | {rates} | {times} | {own} | {row['real_time_factor']:.4f} |")


if __name__ == "__main__":
    run_main(main)
