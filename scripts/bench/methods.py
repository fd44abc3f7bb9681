"""Gains of training methods on real speech: a baseline, each alone, all combined; with and without language model.

    python scripts/bench/methods.py --data data.root=data/fsdd --seeds 1 2 3 --folder exp/methods --json methods.json

The data are connected digits, a quarter of the strings, one speaker left out (``--full``: each of three), the same with a
language (``--corpus fsdd_language``), or ``--corpus speechocean762`` and ``librispeech``, with ``--override init_from=`` as
their recipes want it. All runs of a corpus differ only in their hooks, whose settings are the defaults: the papers' best. In
each fold a language model is trained on transcripts, if ``--lm`` names none;
hypotheses for label smoothing come from the baseline of the same fold and seed; crossed ones from five models for all
seeds of a fold, each trained without some of its speakers, whom it decodes. The weights of language models are tuned
on dev with the fold's first baseline and used in every run. ``--density-ratio`` adds a search that takes a model of what recognisers
hear out again, ``--also`` the greedy search of other utterances. Differences are paired by utterance
(scripts/bench/paired.py). The same command goes on where it was interrupted.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

from asr.data.material import manifest_name, refuse_doubles
from asr.runs.run_folder import RunFolder
from distributed.errors import UsageError
from scripts.bench.methods_corpora import BASELINE, CORPORA, CROSSED, METHODS, Corpus
from scripts.bench.paired import Errors, print_table, row, total
from scripts.bench.report import save_figures
from scripts.bench.trials import QUICK, Trials
from scripts.composition.environment import environment
from scripts.composition.evaluation import SPLITS
from scripts.composition.startup import REPOSITORY, run_main

PARTS = 5  # of a training set that is cross-decoded: one speaker each, of connected digits
SEARCHES = ("greedy", "beam", "beam and language model")
RATIO = "beam and density ratio"


def places_of(baseline: Path, lm: Path, crossed: Path, epochs: int) -> dict[str, str]:
    """Values of placeholders in the settings of methods; methods that papers end early are off in the last sixth, at least in the last epoch."""
    files = {"lists": RunFolder(baseline).nbest("train"), "lm": lm, "crossed": crossed}
    marks = {"middle": epochs * 5 // 12, "lifted": epochs * 5 // 6}
    return {name: str(place) for name, place in (files | marks).items()}


class Study:
    """Trains and evaluates all runs that are compared on a corpus."""

    def __init__(
        self, trials: Trials, corpus: Corpus, epochs: int, data: Sequence[str], overrides: Sequence[str]
    ) -> None:
        self.trials = trials
        self.corpus = corpus
        self.epochs = epochs  # epochs of a recogniser
        self.data = data  # settings of recognisers and language models
        self.overrides = overrides  # overrides of recognisers
        self.tuned: dict[str, dict[str, list[str]]] = {}  # by fold and search, settings with language models
        self.crossed: dict[str, Path] = {}  # by fold, the lists of its training set by models that have not heard it

    def language_models(self, fold: str, given: Path | None, source: bool, overrides: Sequence[str]) -> list[Path]:
        """The folders of the language model that is fused, trained if none is ``given``, and of the density ratio's source if there is one."""
        wanted = {} if given else {"lm": self.corpus.language_model}
        wanted |= {"lm-transcripts": self.corpus.transcripts} if source else {}
        for name, settings in wanted.items():
            every = (*settings, *self.corpus.folds[fold], *self.data, *overrides)
            self.trials.train(self.trials.run(fold, name), *every, script="train_lm")
        return [*([given] if given else []), *(self.trials.run(fold, name) for name in wanted)]

    def train(self, name: str, fold: str, seed: int, lm: Path) -> Path:
        """Train a run and return its folder; a baseline also decodes the training set to n-best lists."""
        run, method = self.trials.run(fold, f"{name}-{seed}"), self.corpus.methods[name]
        crossed = self.crossed_lists(fold) if any("{crossed}" in each for each in method) else Path()
        places = places_of(self.trials.run(fold, f"{BASELINE}-{seed}"), lm, crossed, self.epochs)
        self.train_recogniser(run, fold, seed, [each.format(**places) for each in method])
        if name == BASELINE:
            self.trials.call(run, str(REPOSITORY / "scripts/make_nbest.py"), f"run={run}")
        return run

    def train_recogniser(self, run: Path, fold: str, seed: int, method: Sequence[str]) -> None:
        """Train a run of a fold with the settings of a method."""
        budget = (f"seed={seed}", f"trainer.epochs={self.epochs}", *self.overrides)
        data = (*self.data, *self.corpus.folds[fold])
        self.trials.train(run, f"experiment={self.corpus.experiment}", *data, *budget, *method)

    def crossed_lists(self, fold: str) -> Path:
        """The lists of a fold's training set, by models that were each trained without a part of it; once for all seeds."""
        if fold not in self.crossed:
            lists = self.trials.run(fold, "crossed-lists")
            runs = [self.trials.run(fold, f"left-out-{part}") for part in range(1, PARTS + 1)]
            for part, run in enumerate(runs, start=1):
                left_out = (f"fold.leave_out={part}", f"fold.of={PARTS}", "fold.by=speaker")
                self.train_recogniser(run, fold, 1, [*self.corpus.methods[BASELINE], *left_out])
            quoted = f"run={[str(run) for run in runs]}"
            self.trials.call(lists, str(REPOSITORY / "scripts/make_nbest.py"), quoted, f"out={lists}")
            self.crossed[fold] = lists
        return self.crossed[fold]

    def search(self, search: str, fold: str, run: Path, models: Sequence[Path]) -> list[str]:
        """Settings of scripts/evaluate.py; the first run of a fold tunes the weights of language models."""
        if search == "beam":
            return ["decode=beam"]
        if search not in (SEARCHES[-1], RATIO):
            return ["decode=greedy"]
        tuned = self.tuned.setdefault(fold, {})
        if search not in tuned:
            fused = dict(zip(("external", "source"), models if search == RATIO else models[:1], strict=False))
            named = [f"decode.fusion.{key}={lm}" for key, lm in fused.items()]
            best = self.trials.tune(run, named)["best"]
            weights = [f"decode.fusion.{key}_weight={best[key]}" for key in fused]
            tuned[search] = ["decode=beam", *named, *weights, f"decode.fusion.label_bonus={best['label_bonus']}"]
        return tuned[search]


def read_options(arguments: list[str]) -> argparse.Namespace:
    """The command line.

    Raises:
        UsageError: the corpus has no such method, too few epochs, lists that its fold models could not cross, or a search that would
            compare nothing.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", choices=CORPORA, default="fsdd")
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="these alone, beside the baseline")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, help="of a recogniser; left out: the corpus's own number")
    parser.add_argument("--folder", type=Path, default=Path("exp/methods"), help="where the runs go")
    parser.add_argument("--data", action="append", default=[], help="a setting of the corpus: data.root=data/fsdd")
    parser.add_argument("--override", action="append", default=[], help="a setting of all recognisers")
    parser.add_argument("--lm", type=Path, help="the run of a language model; left out: one of transcripts is trained")
    parser.add_argument("--density-ratio", action="store_true", help="search with it too")
    parser.add_argument("--also", nargs="+", default=[], metavar="MANIFEST", help="of utterances that are read too")
    parser.add_argument("--json", type=Path, help="where to save the figures")
    parser.add_argument("--full", action="store_true", help="all folds, not the first alone")
    parser.add_argument("--quick", action="store_true", help="a few steps of each, from one seed, in FOLDER/quick")
    options = parser.parse_args(arguments)
    corpus = CORPORA[options.corpus]
    options.methods = options.methods or list(corpus.methods)
    if unknown := [each for each in options.methods if each not in corpus.methods]:
        there = ", ".join(corpus.methods)
        raise UsageError(f"--methods {unknown[0]}: on {options.corpus} these are compared: {there}")
    started = [each for each in options.override if each.startswith("init_from=")]
    if started and CROSSED in options.methods:
        raise UsageError(
            f"--methods {CROSSED} --override {started[0]}: that has heard what the lists are to be made of"
        )
    if options.density_ratio and options.lm is None and corpus.language_model == corpus.transcripts:
        raise UsageError(
            f"--density-ratio on {options.corpus}: both language models would have read the same texts; name another with --lm"
        )
    if options.also and options.full:
        raise UsageError(
            "--also with --full: other folds have trained on what one fold has not heard; choose one of the two"
        )
    refuse_doubles("--also", options.also, [manifest_name(each) for each in options.also], SPLITS)
    if options.epochs is None:
        options.epochs = corpus.epochs
    if options.epochs < corpus.fewest:
        raise UsageError(
            f"--epochs {options.epochs}: methods are lifted in the last sixth; choose {corpus.fewest} or more"
        )
    return options


def main(arguments: list[str]) -> None:
    """Train and evaluate everything, print a table for each search, save the figures."""
    options = read_options(arguments)
    made_with, corpus = environment(), CORPORA[options.corpus]
    epochs, chosen = options.epochs, options.methods
    quick = QUICK if options.quick else ()
    trials = Trials(1, options.folder.resolve() / ("quick" if options.quick else ""), "test")
    study = Study(trials, corpus, epochs, options.data, [*options.override, *quick])
    seeds = options.seeds[:1] if options.quick else options.seeds
    folds = list(corpus.folds)[: None if options.full else 1]
    names = [each for each in corpus.methods if each == BASELINE or each in chosen]
    models = {fold: study.language_models(fold, options.lm, options.density_ratio, quick) for fold in folds}
    searches = dict.fromkeys((*SEARCHES, *([RATIO] if options.density_ratio else [])), trials)
    searches |= {f"greedy, {manifest_name(each)}": replace(trials, evaluated_set=each) for each in options.also}
    errors: dict[str, dict[str, Errors]] = {search: {name: {} for name in names} for search in searches}
    # Seed by seed, so that whatever is there when it is interrupted can be compared.
    for seed, fold, name in product(seeds, folds, names):
        run = study.train(name, fold, seed, models[fold][0])
        for search, of_set in searches.items():
            settings = study.search(search, fold, run, models[fold])
            errors[search][name][fold, seed] = of_set.errors(run, settings, fold)
        rates = ", ".join(f"{search} {total(errors[search][name][fold, seed]).wer:.2%}" for search in searches)
        print(f"{' '.join([fold, name]).strip()}, seed {seed}: {rates}", flush=True)
    rows = [each | {"search": search} for search in searches for each in table(search, errors[search], corpus.methods)]
    if options.json is not None:
        save(options.json, rows, errors, made_with, epochs=epochs, seeds=seeds, folds=folds, fusion=study.tuned)


def table(search: str, errors: Mapping[str, Errors], methods: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Print the differences between methods and baseline under one search; returns the rows."""
    rows = [row(name, methods[name], of_method, errors[BASELINE]) for name, of_method in errors.items()]
    print(f"\n{search}")
    print_table(rows)
    return rows


def save(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    errors: Mapping[str, Mapping[str, Errors]],
    made_with: Mapping[str, Any],
    **remarks: Any,
) -> None:
    """Save all rows, and for each method the gains by language models."""
    figures = {f"wer/{each['search']}/{each['variant']}": each["wer"] for each in rows}
    _, without, fused = SEARCHES
    gains = {
        key: [row(name, [], of_method, errors[without][name]) for name, of_method in errors[search].items()]
        for key, search in {"language_model": fused, "density_ratio": RATIO}.items()
        if search in errors
    }
    save_figures(path, figures, rows, made_with, **gains, **remarks)


if __name__ == "__main__":
    run_main(main)
