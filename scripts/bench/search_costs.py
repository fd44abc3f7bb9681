"""From features to text on one thread: a trained recogniser in full precision beside smaller versions of it, search included.

    python scripts/bench/search_costs.py --run exp/my-run --version int4=exp/my-run/export/pack --json found.json

Versions take turns on every utterance, one at a time, with greedy and with beam search; times are processor time. Figures are the
real-time factor of each and that of full precision over it, with word errors beside them. Memory is what the peak of a process
grows by while it loads the version and decodes the longest of the utterances.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()


from asr.data.batch import Batch
from asr.decoding.wer import ErrorCounts, counts_by_utterance
from asr.models.transducer import Transducer
from asr.parts import build
from asr.training.inference import evaluating, load
from asr.training.measures import Decode
from distributed.errors import UsageError
from scripts.bench.decode import references_of, spread
from scripts.bench.memory import peak_extra_bytes
from scripts.bench.paired import total
from scripts.bench.report import save_figures
from scripts.composition.compose import compose
from scripts.composition.environment import environment
from scripts.composition.evaluation import named_set
from scripts.composition.startup import run_main
from scripts.composition.trained import Trained, load_trained

FULL = "full precision"
QUICK_UTTERANCES = 4


def main(arguments: list[str]) -> None:
    """Print a table in Markdown and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a trained run's folder")
    parser.add_argument("--checkpoint", default="best", help="best, last, avg:N or best:N")
    parser.add_argument(
        "--version", action="append", default=[], metavar="NAME=FOLDER", help="a model folder made of it"
    )
    parser.add_argument("--set", default="test", help="a split of the run's corpus, or a manifest")
    parser.add_argument("--utterances", type=int, default=200, help="at most so many, spread over all lengths")
    parser.add_argument("--beam", type=int, default=8, help="hypotheses of the beam search")
    parser.add_argument("--json", type=Path, help="where to save the figures")
    parser.add_argument("--quick", action="store_true", help=f"on {QUICK_UTTERANCES} utterances")
    options = parser.parse_args(arguments)
    made_with = environment()
    folders = versions(options.version)
    models = {
        name: load_trained(options.run, options.checkpoint, threads=1, weights=folder)
        for name, folder in folders.items()
    }
    batches = utterances(models[FULL], options.set, QUICK_UTTERANCES if options.quick else options.utterances)
    rows = measure(models, batches, searches(options.beam))
    longest = max(batches, key=lambda batch: batch.audio_seconds)
    del models
    for row in rows:
        row["memory_bytes"] = memory(
            options.run, options.checkpoint, folders[row["version"]], longest, row["search"], options.beam
        )
    table(rows)
    if options.json is not None:
        remarks = {"set": options.set, "utterances": len(batches), "beam": options.beam}
        save_figures(options.json, figures(rows), rows, made_with, **remarks)


def versions(given: Sequence[str]) -> dict[str, Path | None]:
    """Model folders by name, full precision, which is the checkpoint, first."""
    pairs = [each.partition("=") for each in given]
    for name, _, folder in pairs:
        if not name or not folder:
            raise UsageError(f"--version {name}: write a name and a model folder, as int4=exp/my-run/export/pack")
    return {FULL: None} | {name: Path(folder) for name, _, folder in pairs}


def searches(beam: int) -> dict[str, Decode]:
    """Greedy and beam search, by name."""
    found: list[Decode] = [
        build(compose("evaluate", ["run=."]).decode),
        build(compose("evaluate", ["run=.", "decode=beam", f"decode.beam={beam}"]).decode),
    ]
    return {each.name: each for each in found}


def utterances(trained: Trained, name: str, count: int) -> list[Batch]:
    """Batches of one utterance each."""
    evaluated = named_set(trained, name, 1)
    found = [batch for batch in load(evaluated.dataset, spread(evaluated.units, count)) if batch.utterance_ids]
    if not found:
        raise UsageError(f"--set {name}: none of its utterances is usable")
    return found


def texts_of(trained: Trained, batch: Batch, decode: Decode) -> list[str]:
    """From features to texts."""
    model = trained.model
    if not isinstance(model, Transducer):
        raise UsageError(f"run={trained.folder}: its model is no transducer, which beam search needs")
    states_BTD, lengths_B = model.encode(batch.features, batch.feature_lengths)
    return [trained.speech.tokenizer.decode(each.tokens) for each in decode(model, states_BTD, lengths_B)]


def measure(
    models: Mapping[str, Trained], batches: Sequence[Batch], decodes: Mapping[str, Decode]
) -> list[dict[str, Any]]:
    """Time and word errors of every version with every search; all take turns on every utterance."""
    seconds = {(name, search): 0.0 for search in decodes for name in models}
    texts: dict[tuple[str, str], dict[str, str]] = {key: {} for key in seconds}
    for batch in batches:
        for name, trained in models.items():
            with evaluating(trained.model, trained.device, trained.precision):
                model = trained.model
                assert isinstance(model, Transducer)
                model.encode(batch.features, batch.feature_lengths)  # setup for a new length is not measured
                for search, decode in decodes.items():
                    started = time.process_time()
                    found = texts_of(trained, batch, decode)
                    seconds[name, search] += time.process_time() - started
                    texts[name, search].update(zip(batch.utterance_ids, found, strict=True))
    references = references_of(batches, models[FULL].speech.tokenizer)
    audio = sum(batch.audio_seconds for batch in batches)
    return [row(key, seconds, audio, total(counts_by_utterance(references, texts[key]))) for key in seconds]


def row(
    key: tuple[str, str], seconds: Mapping[tuple[str, str], float], audio: float, errors: ErrorCounts
) -> dict[str, Any]:
    """What was measured of one version with one search."""
    name, search = key
    return {
        "version": name,
        "search": search,
        "real_time_factor": seconds[key] / audio,
        "faster": seconds[FULL, search] / seconds[key],
        "wer": errors.wer,
        "errors": errors.errors,
        "reference_words": errors.reference_words,
    }


def memory(run: Path, checkpoint: str, folder: Path | None, batch: Batch, search: str, beam: int) -> int:
    """Bytes that loading a version and decoding one utterance add to a process at their peak."""

    def load_and_decode() -> None:
        trained = load_trained(run, checkpoint, threads=1, weights=folder)
        with evaluating(trained.model, trained.device, trained.precision):
            texts_of(trained, batch, searches(beam)[search])

    return peak_extra_bytes(load_and_decode, lambda: searches(beam))


def table(rows: Sequence[Mapping[str, Any]]) -> None:
    """The rows in Markdown."""
    print(
        "| search | version | real-time factor | faster than full precision | WER | memory, MB |\n|---|---|---|---|---|---|"
    )
    for each in rows:
        print(
            f"| {each['search']} | {each['version']} | {each['real_time_factor']:.4f} | {each['faster']:.2f} | "
            f"{each['wer']:.2%} | {each['memory_bytes'] / 1e6:.1f} |"
        )


def figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Speed and memory over those of full precision, by search and version."""
    full = {each["search"]: each["memory_bytes"] for each in rows if each["version"] == FULL}
    smaller = [each for each in rows if each["version"] != FULL]
    return {f"rtf_ratio/{each['search']}/{each['version']}": each["faster"] for each in smaller} | {
        f"memory_ratio/{each['search']}/{each['version']}": full[each["search"]] / each["memory_bytes"]
        for each in smaller
    }


if __name__ == "__main__":
    run_main(main)
