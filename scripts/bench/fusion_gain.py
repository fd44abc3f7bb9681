"""What language models take off a trained recogniser's word error rate, by their texts and by the beam.

    python scripts/bench/fusion_gain.py --run exp/ls --lm transcripts exp/transcripts-lm --lm "books and transcripts" exp/books-lm \\
        --beams 1 4 8 16 --kept exp/fusion-gain.jsonl --json docs/results/fusion-gain.json

Ways: no language model; each by shallow fusion; and, if there are two or more, the last with the first as the source of a
density ratio (docs/language-model.md). The weights and the bonus of each way are tuned on dev with a beam of 8
(scripts/tune_fusion.py: lists, then searches), and used at every beam; the search then uses them on ``--set``. Differences are from
no language model at the same beam, paired by utterance. One recogniser, one seed: intervals are over utterances.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

from asr.decoding.bootstrap import REPLICATIONS
from asr.decoding.comparison import compare
from asr.decoding.wer import ErrorCounts
from asr.runs.choice import choose_checkpoints, origin_of
from asr.runs.metrics import Row
from asr.runs.run_folder import RunFolder
from scripts.bench.kept import Kept
from scripts.bench.paired import total
from scripts.bench.report import save_figures
from scripts.bench.trials import Trials
from scripts.composition.against import method_of
from scripts.composition.compose import compose
from scripts.composition.environment import environment
from scripts.composition.startup import run_main

NONE = "no language model"
DEV = "dev"
TUNED_BEAM = 8


@dataclass(frozen=True, slots=True)
class Way:
    """The language models of a way, folders."""

    external: Path | None = None
    source: Path | None = None

    @property
    def settings(self) -> list[str]:
        """Of the search."""
        named = {"external": self.external, "source": self.source}
        return [f"decode.fusion.{key}={folder}" for key, folder in named.items() if folder is not None]


def main(arguments: list[str]) -> None:
    """Tune, decode, print a table in Markdown, save the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="the recogniser")
    parser.add_argument("--lm", nargs=2, action="append", required=True, metavar=("TEXTS", "FOLDER"))
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--set", default="test", help="what is decoded")
    parser.add_argument("--kept", type=Path, help="where tuned weights are kept, so that the same command goes on")
    parser.add_argument("--json", type=Path, help="where to save the figures")
    options = parser.parse_args(arguments)
    made_with = environment()
    trials, run = Trials(1, options.run.parent, options.set), options.run.resolve()
    ways = ways_of({texts: Path(folder).resolve() for texts, folder in options.lm})
    kept = Kept(options.kept, made_of(run, options.set, ways))
    weights = tuned(trials, run, ways, kept)
    rows = []
    print(
        "| beam | way | weights: model, source, bonus | WER | less no language model | 95 % |\n|---|---|---|---|---|---|"
    )
    for beam in options.beams:
        found: dict[str, dict[str, ErrorCounts]] = {}
        for name, way in ways.items():
            chosen = [f"decode.fusion.{key}={value}" for key, value in weights[name].items()]
            search = ["decode=beam", f"decode.beam={beam}", *way.settings, *chosen]
            found[name] = decoded(trials, run, search, f"{name}, beam {beam}", kept)
            rows.append(row_of(beam, name, weights[name], found[name], found[NONE]))
            print(written(rows[-1]), flush=True)
    if options.json is not None:
        figures = {f"wer/{row['beam']}/{row['way']}": row["wer"] for row in rows}
        save_figures(options.json, figures, rows, made_with, run=run.name, set=options.set)


def ways_of(models: Mapping[str, Path]) -> dict[str, Way]:
    """Every way by its name."""
    found = {NONE: Way()} | {f"shallow, {texts}": Way(folder) for texts, folder in models.items()}
    if len(models) > 1:
        (first, source), *_, (last, external) = models.items()
        found[f"density ratio, {last} over {first}"] = Way(external, source)
    return found


def made_of(run: Path, evaluated_set: str, ways: Mapping[str, Way]) -> dict[str, Any]:
    """What results depend on: digests of the recogniser's weights and of the language models'."""
    searches = {name: [f"run={run}", "decode=beam", *way.settings] for name, way in ways.items()}
    models = {name: method_of(compose("evaluate", search)) for name, search in searches.items()}
    return {"set": evaluated_set, "ways": models, **origin_of(choose_checkpoints(RunFolder(run).checkpoints, "best"))}


def tuned(trials: Trials, run: Path, ways: Mapping[str, Way], kept: Kept) -> dict[str, dict[str, float]]:
    """The best weights of every way on dev, as keys of ``decode.fusion``."""
    lists = [f"decode.beam={TUNED_BEAM}", f"decode.n_best={TUNED_BEAM}"]

    def tune(way: Way) -> dict[str, Any]:
        return {"best": trials.tune(run, [*lists, *way.settings], DEV)["best"]}

    def weights_of(name: str, way: Way) -> dict[str, float]:
        best = kept.of(f"{name}, tuned", partial(tune, way))["best"]
        weighed = {"external": way.external, "source": way.source}
        used = {f"{key}_weight": best[key] for key, folder in weighed.items() if folder is not None}
        return {"label_bonus": best["label_bonus"]} | used

    return {name: weights_of(name, way) if way.settings else {} for name, way in ways.items()}


def decoded(trials: Trials, run: Path, search: Sequence[str], name: str, kept: Kept) -> dict[str, ErrorCounts]:
    """Errors of a search by utterance."""

    def decode() -> dict[str, Any]:
        return {"errors": {key: astuple(each) for key, each in trials.errors(run, search, "").items()}}

    found = kept.of(f"{name}, {' '.join(search)}", decode)["errors"]
    return {key: ErrorCounts(*each) for key, each in found.items()}


def row_of(
    beam: int, name: str, weights: Mapping[str, float], own: Mapping[str, ErrorCounts], none: Mapping[str, ErrorCounts]
) -> Row:
    """The table row of a way at a beam."""
    comparison = compare(own, none, replications=REPLICATIONS, seed=0)
    return {
        "beam": beam, "way": name, "weights": dict(weights), "wer": total(own).wer,
        "difference": comparison.difference, "difference_interval": comparison.interval,
    }  # fmt: skip


def written(row: Row) -> str:
    """The row in Markdown."""
    chosen = ", ".join(f"{row['weights'].get(key, 0):g}" for key in ("external_weight", "source_weight", "label_bonus"))
    low, high = row["difference_interval"]
    return (
        f"| {row['beam']} | {row['way']} | {chosen} | {row['wer']:.2%} | {100 * row['difference']:+.2f} | "
        f"{100 * low:+.2f} to {100 * high:+.2f} |"
    )


if __name__ == "__main__":
    run_main(main)
