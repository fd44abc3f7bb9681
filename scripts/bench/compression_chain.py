"""The whole chain: dense -> half of the encoder removed -> 4 bits -> packed -> decoded; sizes, and word error rates on a small model.

    python scripts/bench/compression_chain.py --models lstm --data data.root=data/fsdd --data data.cache=data/fsdd-cache \\
        --start exp/start/checkpoints/step-00006000 --folder exp/chain --json docs/results/compression-chain.json

Sizes of model=conformer_m are those of the written files, of random weights, headers included: which units go and what the codes are depends
on the weights, how many bytes are left does not. The packed file is read again and decodes noise.

Word error rates are of the corpora and models of scripts/bench/pruning_wer.py: units go by magnitude, of all sites alike; what is left is trained for as many
steps as there, then with 4 bits for as many as scripts/bench/quantization_wer.py trains with few bits. The control is never compressed and gets the steps
of both. Packed models are decoded from codes. The same command goes on where it was interrupted.
"""

import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

import torch

from asr.decoding.greedy import Greedy
from asr.decoding.wer import ErrorCounts
from asr.models.transducer import Transducer
from asr.runs.checkpoint import model_folder_of
from asr.runs.model_folder import WEIGHTS, load_model, save_model
from asr.runs.run_folder import RunFolder
from compression.pruning.magnitude import MagnitudePruning
from scripts.bench.compression_study import CONTROL, CORPORA, Found, Study, read_arguments, save
from scripts.bench.packed_models import EVERYTHING, FEATURES, drawn, versions
from scripts.bench.paired import print_table, row
from scripts.composition.environment import environment
from scripts.composition.startup import run_main

LARGE = "conformer_m"
SPARSITY = 0.5
HALF, FOUR_BITS, PACKED = "half removed", "half removed, 4 bits", "half removed, 4 bits, packed"
NOISE_FRAMES = 200


class ChainStudy(Study):
    """A small model along the chain; ``steps`` are those of the whole chain, which the control gets."""

    def chain(self, seed: int) -> Iterator[tuple[str, dict[str, ErrorCounts]]]:
        """Name and errors of every link."""
        control, half, quantised = (self.run(name, seed) for name in (CONTROL, HALF, FOUR_BITS))
        start = model_folder_of(self.start_of(seed), "weights")
        removal = [f"weights={start}", f"pass.sparsity={SPARSITY}", "pass.across=sites"]
        small = self.compressed(control, "magnitude", "half", removal)
        self.trials.train(half, *self.further(seed, small, self.corpus.pruning_steps))
        yield HALF, self.errors(half)
        of_half = model_folder_of(half, "weights")
        self.trials.train(quantised, *self.further(seed, of_half, self.corpus.quantisation_steps), "+hooks=[qat_int4]")
        yield FOUR_BITS, self.errors(quantised)
        yield PACKED, self.errors(quantised, self.compressed(quantised, "pack", "packed", []))

    def bytes_of(self, seed: int) -> dict[str, int]:
        """Bytes of the weights' files along the chain."""
        folders = {
            "dense": model_folder_of(self.start_of(seed), "weights"),
            HALF: model_folder_of(self.run(HALF, seed), "weights"),
            PACKED: RunFolder(self.run(FOUR_BITS, seed)).export("packed"),
        }
        return {name: (folder / WEIGHTS).stat().st_size for name, folder in folders.items()}


def large_bytes() -> dict[str, int]:
    """Bytes of the weights' files of ``LARGE`` along the chain, whose last one is read and decodes noise."""
    dense = drawn(LARGE)
    prune = MagnitudePruning(sparsity=SPARSITY, scope="encoder", kinds=None, across="sites", minimum=0.1, multiple_of=1)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        made = {"dense": dense}
        half = prune(drawn(LARGE), lambda split: [])
        made |= {HALF: half, PACKED: versions(half, EVERYTHING)["packed"]}
        found = {}
        for name, loaded in made.items():
            save_model(loaded, Path(folder) / name)
            found[name] = (Path(folder) / name / WEIGHTS).stat().st_size
        model = load_model(Path(folder) / PACKED).model.eval()
        assert isinstance(model, Transducer)
        states = model.encode(torch.randn(2, NOISE_FRAMES, FEATURES), torch.tensor([NOISE_FRAMES, NOISE_FRAMES // 2]))
        assert len(Greedy(max_symbols=1)(model, *states)) == 2
    return found


def main(arguments: list[str]) -> None:
    """Make and evaluate everything, print tables in Markdown, save the figures."""
    options = read_arguments(arguments, __doc__, "exp/chain")
    made_with, corpus = environment(), CORPORA[options.corpus]
    rows: list[dict[str, Any]] = []
    sizes: dict[str, Mapping[str, int]] = {}
    steps = corpus.pruning_steps + corpus.quantisation_steps
    for model in options.models:
        study = ChainStudy(options.trials, corpus, model, options.settings, steps, options.start)
        found = Found(model)
        for seed in options.seeds:
            found.add(seed, study.begun(seed).items())
            found.add(seed, study.chain(seed))
        sizes[model] = study.bytes_of(options.seeds[0])
        baseline = found.errors[CONTROL]
        rows += [
            {"model": model, "table": "against control"} | row(name, [], errors, baseline)
            for name, errors in found.errors.items()
        ]
        print(f"\n{model}")
        print_table([each for each in rows if each["model"] == model])
    sizes[LARGE] = large_bytes()  # at the end: processes that are forked from one that has computed may not compute
    ratios = {
        f"size_ratio/{model}/{name}": of["dense"] / size for model, of in sizes.items() for name, size in of.items()
    }
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.2f}")
    if options.json is not None:
        save(options.json, rows, made_with, options.seeds, corpus=options.corpus, bytes=sizes, size_ratios=ratios)


if __name__ == "__main__":
    run_main(main)
