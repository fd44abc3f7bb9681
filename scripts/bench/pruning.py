"""What removal saves: parameters and time of encoders whose masks met a target, against the dense encoder.

    python scripts/bench/pruning.py --json docs/results/pruning.json

Masks of model=conformer_s are trained without any speech: in place of a loss each unit has a random worth, and each site as much as
any other. So the figures say what a sparsity by each cost is worth in parameters and in time, not what it costs in
errors. Units are then truly removed. Times are medians of the processor time of the encoder on one utterance of noise, one thread,
all models in turn; the table of latencies was measured in the same run.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

import torch
from torch import Tensor

from asr.data.tokenizer import CharacterTokenizer
from asr.models.speech_model import Recogniser, SpeechModel
from asr.parts import plain
from asr.runs.model_folder import Description, LoadedModel
from asr.training.precision import choose_matmul, flush_denormals
from compression.pruning.costs import Cost, Extent, full_sizes, operations, parameters
from compression.pruning.hard_concrete import probability_kept
from compression.pruning.lagrangian import Multipliers, target_at
from compression.pruning.latency import Latency, measure
from compression.pruning.masks import Masks
from compression.pruning.parts import parts_of
from compression.pruning.removal import removed
from compression.pruning.sites import sites
from compression.pruning.units import Site
from scripts.bench.encoder_costs import encoder_parameters, seconds
from scripts.bench.report import save_figures
from scripts.composition.compose import compose
from scripts.composition.environment import environment
from scripts.composition.startup import run_main

FEATURES = 80
FRAMES = 1000
TARGETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)  # by three costs: 21 encoders
TOKENIZER = CharacterTokenizer(alphabet=" abcdefghijklmnopqrstuvwxyz'", case="lower")
KINDS = ("heads", "feed_forward", "channels", "module", "width", "subsampling")


def main(arguments: list[str]) -> None:
    """Print a table in Markdown and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to save the figures")
    parser.add_argument("--quick", action="store_true", help="one block, one target, short speech: seconds")
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each model, in turn")
    parser.add_argument("--steps", type=int, default=800, help="updates of the masks")
    options = parser.parse_args(arguments)
    flush_denormals()
    torch.set_num_threads(1)
    choose_matmul("auto")
    made_with = environment()
    dense = model_of(["model.encoder.layers=1"] if options.quick else [])
    targets, extent = ((0.5,), Extent(100)) if options.quick else (TARGETS, Extent(FRAMES))
    rows = compared(dense, targets, extent, options.steps, options.rounds)
    print(
        "| objective | sparsity | cost left | parameters left | time left | predicted time / measured |\n|---|---|---|---|---|---|"
    )
    for row in rows:
        print(
            f"| {row['objective']} | {row['target']:.0%} | {row['cost_ratio']:.3f} | {row['parameters_ratio']:.3f} "
            f"| {row['rtf_ratio']:.3f} | {row['predicted_over_measured']:.3f} |"
        )
    if options.json is not None:
        save_figures(options.json, figures(rows), rows, made_with)


def model_of(overrides: Sequence[str]) -> LoadedModel:
    """model=conformer_s, with weights drawn at random."""
    config = compose("train", ["model=conformer_s", *overrides])
    node = plain(config.model) | {"vocabulary_size": TOKENIZER.vocabulary_size, "feature_dimension": FEATURES}
    description = Description(model=node, features=None, tokenizer=TOKENIZER.fingerprint)
    torch.manual_seed(0)
    return LoadedModel(description.build(), None, TOKENIZER, description, {})


def compared(
    dense: LoadedModel, targets: Sequence[float], extent: Extent, steps: int, rounds: int
) -> list[dict[str, Any]]:
    """A row for each objective and target."""
    model = dense.model
    assert isinstance(model, Recogniser)
    found = sites(model, KINDS)
    latency = Latency(parts_of(model.encoder, found), measure(model.encoder, found, extent, rounds))
    costs: dict[str, Cost] = {
        "parameters": parameters(model, found, "encoder"),
        "flops": operations(model, found, "encoder", extent),
        "milliseconds": latency,
    }
    rows: list[dict[str, Any]] = []
    models: dict[tuple[str, float], SpeechModel] = {("dense", 0.0): model}
    for objective, cost in costs.items():
        for target in targets:
            kept = settled(found, cost, target, steps).kept()
            sizes = {name: torch.tensor(float(len(units.indices))) for name, units in kept.items()}
            small = models[objective, target] = removed(dense, kept).model
            rows.append(
                {
                    "objective": objective,
                    "target": target,
                    "cost_ratio": float(cost(sizes) / cost(full_sizes(found))),
                    "parameters_ratio": encoder_parameters(small) / encoder_parameters(model),
                    "predicted_ms": float(latency(sizes)),
                }
            )
    measured = seconds(models, extent, FEATURES, rounds)
    for row in rows:
        own = measured[row["objective"], row["target"]]
        row["measured_ms"] = 1000 * own
        row["rtf_ratio"] = own / measured["dense", 0.0]
        row["predicted_over_measured"] = row["predicted_ms"] / row["measured_ms"]
    return rows


def settled(found: Sequence[Site], cost: Cost, target: float, steps: int, minimum: float = 0.1) -> Masks:
    """Masks after a training under the constraint, where every unit has a random worth of its own in place of a loss."""
    masks = Masks(found, dropped=0.01, minimum=minimum, multiple_of=1)
    multipliers, full = Multipliers(), float(cost(full_sizes(found)))
    optimizer = torch.optim.AdamW(
        [
            {"params": list(masks.parameters()), "lr": 0.1},
            {"params": list(multipliers.parameters()), "lr": 0.1, "maximize": True},
        ],
        weight_decay=0.0,
        foreach=True,
    )
    worth = torch.cat([worth_of(site) for site in found]) / len(found)
    for step in range(steps):
        ratio = cost(masks.expected_sizes()) / full
        loss = (worth * (1 - probability_kept(masks.log_alphas()))).sum()
        term = multipliers(1 - ratio, target_at(step / steps, target, 0.3))
        optimizer.zero_grad()
        (loss + term).backward()
        optimizer.step()
    return masks


def worth_of(site: Site) -> Tensor:
    """What the loss of each unit costs: random, the same for the same site, 1 of all units together on average."""
    generator = torch.Generator().manual_seed(sum(map(ord, site.name)))
    return 2 * torch.rand(site.size, generator=generator) / site.size


def figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Ratios to the dense encoder: parameters by size alone, time by every objective; the worst predicted time."""
    made = {f"parameters_ratio/{r['target']:g}": r["parameters_ratio"] for r in rows if r["objective"] == "parameters"}
    made |= {f"rtf_ratio/{row['target']:g}/{row['objective']}": row["rtf_ratio"] for row in rows}
    made["latency_error"] = max(abs(row["predicted_over_measured"] - 1) for row in rows)
    return made


if __name__ == "__main__":
    run_main(main)
