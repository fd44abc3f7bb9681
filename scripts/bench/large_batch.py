"""Large batches at high learning rates, where synchronous SGD fails more often than gossip: 16 simulated learners, spoken digits.

    python scripts/bench/large_batch.py --data data/fsdd --kept exp/large-batch.jsonl \\
        --json docs/results/large-batch.json --figure docs/images/large-batch.svg
    python scripts/bench/large_batch.py --data data/fsdd --processes 9.5 --json docs/results/large-batch-processes.json

An LSTM of four layers without normalisation classifies recordings (scripts/bench/large_batch_networks.py) after 120 steps of
plain SGD with batches of 1,024: a warm-up of 20 steps, then constant to the half, then falling to 0 in a straight line. The
learning rate is the one that separates SSGD and DPSGD best on the seeds of ``--choose``, and the noise of SSGD with noise the
best there; the table is of the seeds of ``--seeds``, on which nothing was chosen, and has SSGD and DPSGD at the rates that are best for
each, too. A run has trained if fewer than 15 % of the held-out recordings are wrong; the planned test is that of DPSGD with complete
averaging against SSGD at the chosen rate. The second table is the case of arXiv 2112.01433, section 2.2: two layers of 50, five
learners, batches of 2,000. Learners have the arithmetic of the real schemes (distributed/simulate/). The second command trains
the first two of ``--seeds`` at a given rate by 16 real processes, beside simulated learners, and nothing else. Runs that
``--kept`` holds are not made again.
"""

import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import comb
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

from matplotlib.figure import Figure

from asr.runs.metrics import Row
from distributed.errors import UsageError
from scripts.bench.large_batch_networks import STRETCHES
from scripts.bench.large_batch_training import (
    COMPLETE,
    LSTM,
    NOISE,
    PERCEPTRON,
    REAL,
    SSGD,
    WAYS,
    Case,
    Curve,
    Trainings,
)
from scripts.bench.report import save_figures
from scripts.bench.spoken_digits import parser_of, read_arguments, read_digits
from scripts.composition.environment import environment
from scripts.composition.startup import run_main

TRAINED = 0.15  # of held-out recordings may be wrong
SIGMAS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03)
FRESH = "fresh seeds"


def main(arguments: list[str]) -> None:
    """Choose, train, print tables in Markdown, save the figures."""
    parser = parser_of(__doc__, "the perceptron alone, few steps, one seed")
    parser.set_defaults(seeds=list(range(3, 13)))
    parser.add_argument("--choose", type=int, nargs="+", default=[0, 1, 2], help="seeds for choosing rate and noise")
    parser.add_argument("--kept", type=Path, help="where runs are kept, so that the same command goes on")
    parser.add_argument(
        "--processes", type=float, metavar="LR", help="compare two seeds with real processes at this rate, nothing else"
    )
    parser.add_argument("--figure", type=Path, help="where to draw the curves of the seed of the median error of SSGD")
    options = read_arguments(parser, arguments)
    made_with = environment()
    if both := set(options.seeds) & set(options.choose):
        raise UsageError(
            f"--seeds and --choose both have {sorted(both)}: the table is of seeds on which nothing was chosen"
        )
    cases = [replace(PERCEPTRON, steps=8, rates=PERCEPTRON.rates[:2])] if options.quick else [LSTM, PERCEPTRON]
    trainings = Trainings(read_digits(options.data, options.cache, STRETCHES), options.kept, cases)
    if options.processes is not None:
        if options.figure is not None:
            raise UsageError("--figure draws simulated learners alone; leave it out, or --processes")
        found = real_rows(trainings, cases[0], options.processes, options.seeds[:2])
        if options.json is not None:
            errors = {
                f"error/{row['way']}/{row['seed']}/{how}": row[how] for row in found for how in ("real", "simulated")
            }
            save_figures(options.json, errors, found, made_with)
        return
    rows = [row for case in cases for row in rows_of(trainings, case, options.choose, options.seeds)]
    fresh = [row for row in rows if row["table"] == FRESH]
    print_table(fresh)
    first, seed = cases[0], median_seed(fresh[0]["errors"], options.seeds)
    curves = {
        row["way"]: trainings.curve(first, row["way"], row["lr"], seed, row["sigma"]) for row in fresh[: len(WAYS)]
    }
    if options.figure is not None:
        draw(options.figure, curves)
    if options.json is not None:
        figures = {f"trained/{row['case']}/{row['way']}": row["trained"] for row in fresh}
        remarks = {"choose": options.choose, "seeds": options.seeds, "curve_seed": seed}
        save_figures(options.json, figures, rows, made_with, **remarks, curves=curves)


def rows_of(trainings: Trainings, case: Case, choose: Sequence[int], seeds: Sequence[int]) -> list[Row]:
    """What was chosen among, and every way on seeds on which nothing was chosen."""
    rates = {
        (way, lr): [trainings.error(case, way, lr, seed) for seed in choose]
        for lr in case.rates
        for way in (SSGD, COMPLETE)
    }
    lr = separating_rate(case, rates)
    noise = {sigma: [trainings.error(case, NOISE, lr, seed, sigma) for seed in choose] for sigma in SIGMAS}
    sigma = min(noise, key=lambda each: statistics.fmean(noise[each]))
    errors = {way: (lr, [trainings.error(case, way, lr, seed, sigma) for seed in seeds]) for way in WAYS}
    for way in (SSGD, COMPLETE):
        best = min(case.rates, key=lambda rate: statistics.fmean(rates[way, rate]))
        errors[f"{way}, its best rate"] = (best, [trainings.error(case, way, best, seed) for seed in seeds])
    against = trained(errors[SSGD][1])
    tables = {
        "rates": [{"way": way, "lr": rate, "errors": found} for (way, rate), found in rates.items()],
        "noise": [{"way": NOISE, "lr": lr, "sigma": each, "errors": found} for each, found in noise.items()],
        FRESH: [
            {"way": way, "lr": rate, "sigma": sigma if way == NOISE else 0.0, "errors": found}
            | {"trained": trained(found), "seeds": len(seeds), "p": exact_test(trained(found), against, len(seeds))}
            for way, (rate, found) in errors.items()
        ],
    }  # fmt: skip
    return [{"case": case.name, "table": table} | row for table, of_table in tables.items() for row in of_table]


def separating_rate(case: Case, errors: Mapping[tuple[str, float], Sequence[float]]) -> float:
    """The lowest rate at which DPSGD trains in the most seeds more than SSGD."""
    return max(case.rates, key=lambda lr: trained(errors[COMPLETE, lr]) - trained(errors[SSGD, lr]))


def median_seed(errors: Sequence[float], seeds: Sequence[int]) -> int:
    """The seed of the lower middle error."""
    return sorted(zip(errors, seeds, strict=True))[(len(seeds) - 1) // 2][1]


def trained(errors: Sequence[float]) -> int:
    """Number of runs that have trained."""
    return sum(error < TRAINED for error in errors)


def exact_test(own: int, other: int, seeds: int) -> float:
    """Fisher's exact test, one-sided: the probability of at least ``own`` successes in one of two groups of ``seeds`` runs if both are alike."""
    both = own + other
    ways = [comb(seeds, each) * comb(seeds, both - each) for each in range(own, min(seeds, both) + 1)]
    return sum(ways) / comb(2 * seeds, both)


def real_rows(trainings: Trainings, case: Case, lr: float, seeds: Sequence[int]) -> list[Row]:
    """Errors of simulated learners and of as many real processes on the same batches."""
    rows = [
        {"case": case.name, "table": "real processes", "way": way, "lr": lr, "seed": seed}
        | {"simulated": trainings.error(case, way, lr, seed), "real": trainings.real_error(case, way, lr, seed)}
        for seed in seeds
        for way in REAL
    ]
    print("\n| seed | way | simulated | real processes |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row['seed']} | {row['way']} | {row['simulated']:.1%} | {row['real']:.1%} |")
    return rows


def print_table(rows: Sequence[Row]) -> None:
    """The table of fresh seeds, in Markdown."""
    print("\n| network | way | rate | errors by seed, % | trained | p against SSGD |\n|---|---|---|---|---|---|")
    for row in rows:
        errors = " ".join(f"{100 * error:.1f}" for error in row["errors"])
        way = f"{row['way']} {row['sigma']:g}" if row["sigma"] else row["way"]
        print(
            f"| {row['case']} | {way} | {row['lr']:g} | {errors} | {row['trained']} of {row['seeds']} | {row['p']:.2g} |"
        )


def draw(path: Path, curves: Mapping[str, Curve]) -> None:
    """Loss, effective over scheduled rate, and variance of the weights against steps."""
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    panels = (
        ("loss", "linear", lambda row: row["loss"]),
        ("effective / scheduled learning rate", "linear", lambda row: row["alpha_e"] / row["alpha"]),
        ("variance of the mean's position", "log", lambda row: row["sigma_w2"] or float("nan")),
    )
    for place, (title, scale, value) in enumerate(panels):
        axes = figure.add_subplot(1, 3, place + 1, xlabel="steps", title=title, yscale=scale)
        for way, rows in curves.items():
            axes.plot([row["step"] for row in rows], [value(row) for row in rows], label=way)
    figure.axes[0].legend(fontsize="x-small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


if __name__ == "__main__":
    run_main(main)
