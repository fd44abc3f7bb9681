"""Which layers the errors of few bits come from: a trained recogniser quantised without training, one group of layers at a time.

    python scripts/bench/quantization_sites.py --run exp/my-run --json docs/results/quantization-sites.json

Every row quantises the layers of one group (names as in a scheme of ``pass=int4``) and leaves all others in full precision;
the last row quantises all. Differences are from full precision, paired by utterance (scripts/bench/paired.py). One model:
intervals are over utterances.
"""

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

from asr.runs.run_folder import RunFolder
from scripts.bench.paired import print_table, row
from scripts.bench.report import save_figures
from scripts.bench.trials import Trials
from scripts.composition.environment import environment
from scripts.composition.startup import REPOSITORY, run_main

FULL, ALL = "full precision", "all layers"
CONFORMER = {
    "subsampling": "encoder.subsample.*",
    "feed-forward modules": "encoder.blocks.*.feed_forward_*",
    "attention": "encoder.blocks.*.attention.*",
    "convolution modules": "encoder.blocks.*.convolution.*",
    "prediction network": "predictor.*",
    "joiner": "joiner*",
}


def main(arguments: list[str]) -> None:
    """Quantise, evaluate, print a table in Markdown, save the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a trained run in full precision")
    parser.add_argument("--set", default="test", help="what is decoded, greedily")
    parser.add_argument(
        "--group", nargs=2, action="append", metavar=("NAME", "PATTERN"), help="left out: the parts of a Conformer"
    )
    parser.add_argument("--setting", action="append", default=[], help="of the pass: bits=4, weights=max, inputs=max")
    parser.add_argument("--json", type=Path, help="where to save the figures")
    options = parser.parse_args(arguments)
    made_with, run = environment(), options.run.resolve()
    groups = dict(options.group or CONFORMER.items()) | {ALL: "*"}
    trials = Trials(1, run.parent, options.set)
    errors = {FULL: {("", 0): trials.errors(run, [], "")}}
    for number, (name, pattern) in enumerate(groups.items()):
        folder = quantised(trials, run, f"sites-{number}", pattern, options.setting)
        errors[name] = {("", 0): trials.errors(run, [], "", folder)}
    rows = [row(name, [groups.get(name, "")], found, errors[FULL]) for name, found in errors.items()]
    print_table(rows)
    if options.json is not None:
        figures = {f"wer/{each['variant']}": each["wer"] for each in rows}
        save_figures(options.json, figures, rows, made_with, run=run.name, set=options.set, settings=options.setting)


def quantised(trials: Trials, run: Path, name: str, pattern: str, settings: list[str]) -> Path:
    """The model folder of a run whose layers are quantised where their names match the pattern."""
    scheme = f'pass.scheme=[{{modules: "{pattern}"}}, {{modules: "*", bits: null}}]'
    of_pass = [f"pass.{each}" for each in settings]
    command = [f"run={run}", "pass=int4", f"name={name}", scheme, *of_pass]
    trials.call(run, str(REPOSITORY / "scripts/compress.py"), *command)
    return RunFolder(run).export(name)


if __name__ == "__main__":
    run_main(main)
