"""Twenty training steps of every model in conf/model at its full size, on synthetic speech: time, memory, loss.

    python scripts/bench/models.py --json docs/results/models.json

Each model is trained in a process of its own, so that its peak memory is its own, through the path of scripts/train.py:
probe, SpecAugment, AdamW, checkpoint. A step is one unit of four utterances. Times are those of the process (one
thread), which other load on the machine changes less than those of the clock; the median leaves the first steps out.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

import torch
from omegaconf import DictConfig

from asr.data.frame_targets import SUFFIX, write_alignment
from asr.data.manifest import read_manifest
from asr.data.tokenizer import load_tokenizer
from asr.parts import build
from asr.runs.metrics import read_rows
from asr.runs.progress import Progress
from asr.runs.run_folder import RunFolder
from asr.training.allocator import keep_freed_memory
from asr.training.hook import Hook
from asr.training.meter import Meter, meter_of
from asr.training.precision import choose_matmul, flush_denormals
from asr.training.probe import GIB
from distributed.learners import launch
from distributed.learners.environment import place
from scripts.bench.report import save_figures
from scripts.composition.build import build_hooks, count_parameters, training_texts
from scripts.composition.compose import compose, options
from scripts.composition.environment import environment
from scripts.composition.startup import run_main
from scripts.composition.trainer import assemble

UTTERANCES = 4  # per step
WARM_UP_STEPS = 2
# The grammar's 734 words are too few for as many pieces of the default kind.
PIECES = ("tokenizer=sentencepiece", "tokenizer.vocabulary_size=1024", "tokenizer.kind=bpe")
IBM_SYMBOLS = " abcdefghijklmnopqrstuvwxyz'0123456789.,-&/+_"  # 45: with blank as many outputs as in the papers
IBM = ("features.num_mels=40", "features.deltas=2", f'tokenizer.alphabet="{IBM_SYMBOLS}"')
TARGETS = 32_000  # states of the papers' acoustic models
DBLSTM = ("features.num_mels=40", "features.deltas=2", f"model.num_targets={TARGETS}")
AS_IN_THE_PAPER = {  # features and tokens that a model was designed for; others take the defaults
    "conformer_s": PIECES,
    "conformer_m": PIECES,
    "conformer_l": PIECES,
    "ibm_rnnt": IBM,
    "ibm_conformer": IBM,
    "ctc_ibm_lstm": IBM,
    "dblstm_4": DBLSTM,
    "dblstm_6": DBLSTM,
}


class StepMeter(Hook):
    """Notes process time and peak memory of each step."""

    changes_training: ClassVar[bool] = False

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.began = 0.0
        self.cpu_seconds: list[float] = []
        self.peak_bytes = 0

    def on_step_start(self, progress: Progress) -> None:
        if progress.step == 0:
            self.meter.reset()  # time and memory of the probe are not the steps'
        self.began = time.process_time()

    def on_step_end(self, progress: Progress, metrics: dict[str, float]) -> None:
        self.cpu_seconds.append(time.process_time() - self.began)
        self.peak_bytes = max(self.peak_bytes, self.meter.peak())


def overrides(model: str, steps: int, corpus: Path, utterances: int) -> list[str]:
    """Command-line overrides of the run of a model."""
    return [
        f"model={model}",
        *AS_IN_THE_PAPER.get(model, ()),
        "data.vocabulary=full",
        f"data.root={corpus}",
        f"data.train_utterances={utterances}",
        "data.dev_utterances=1",
        "data.test_utterances=1",
        "batch.units=1",
        f"batch.unit_utterances={UTTERANCES}",
        "backend=single",
        "evaluation.sets=[]",
        f"trainer.max_steps={steps}",
        "trainer.log_every=1",
        "logger=[]",
    ]


def measure(model: str, steps: int, corpus: Path, utterances: int) -> dict[str, Any]:
    """Train a model for a few steps and return its row of the table."""
    config = compose("train", overrides(model, steps, corpus, utterances))
    if AS_IN_THE_PAPER.get(model) == DBLSTM:
        config.frame_targets = str(corpus / "random-targets")
        draw_targets(config)
    flush_denormals()
    keep_freed_memory()
    world = launch.start(
        place(),
        join_seconds=config.launch.join_seconds,
        timeout_seconds=config.launch.timeout_seconds,
        patience_seconds=config.launch.patience_seconds,
        device=config.launch.device,
        threads=config.launch.threads,
    )
    choose_matmul(config.launch.matmul)
    meter = StepMeter(meter_of(world.device, world.local_size))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trainer = assemble(config, folder, world, build_hooks(config) | {"meter": meter})
        try:
            trainer.fit(None)
        finally:
            trainer.parts.recorder.close()
            launch.stop(world)
        rows = [row for row in read_rows(RunFolder(folder).metrics_of(0)) if "train/loss" in row]
        outputs = (
            load_tokenizer(RunFolder(folder).tokenizer).vocabulary_size if config.frame_targets is None else TARGETS
        )
        parameters = count_parameters(trainer.parts.run.model)
    return summary(model, rows, meter) | {"parameters": parameters, "outputs": outputs}


def draw_targets(config: DictConfig) -> None:
    """Draw a random class for every training frame, since the cost of a step does not depend on classes."""
    corpus, features = build(config.data), build(config.features)
    generator = torch.Generator().manual_seed(0)
    classes = {
        utterance.id: torch.randint(TARGETS, (features.frames(utterance.duration),), generator=generator)
        for utterance in read_manifest(corpus.prepare()["train"])
    }
    tokenizer = build(config.tokenizer).fit(training_texts(corpus))
    file = Path(config.frame_targets) / f"train{SUFFIX}"
    write_alignment(file, classes, frame_seconds=features.frame_seconds, tokenizer=tokenizer)


def summary(model: str, rows: list[dict[str, Any]], meter: StepMeter) -> dict[str, Any]:
    """Medians over the steps after the first ones, and the loss at both ends."""
    measured = slice(WARM_UP_STEPS, None)
    # A row holds audio seconds per second of the clock, and the clock's seconds per step.
    audio = [row["throughput/audio_seconds_per_second"] * row["time/step"] for row in rows]
    cpu_seconds = statistics.median(meter.cpu_seconds[measured])
    return {
        "model": model,
        "steps": len(rows),
        "step_cpu_seconds": cpu_seconds,
        "step_wall_seconds": statistics.median(row["time/step"] for row in rows[measured]),
        "audio_seconds_per_step": statistics.mean(audio[measured]),
        "audio_seconds_per_cpu_second": sum(audio[measured]) / sum(meter.cpu_seconds[measured]),
        "peak_gib": meter.peak_bytes / GIB,
        "loss_first": rows[0]["train/loss"],
        "loss_last": rows[-1]["train/loss"],
    }


def in_own_process(model: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure a model in a fresh process; raises RuntimeError with the end of its output if it fails."""
    result = folder / f"{model}.json"
    command = [sys.executable, "-m", "scripts.bench.models", "--only", model, "--json", str(result)]
    command += ["--corpus", str(options.corpus or folder / "corpus"), *(["--quick"] if options.quick else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{model}: {' '.join((done.stderr or done.stdout).split()[-60:])}")
    row: dict[str, Any] = json.loads(result.read_text())
    return row


def line(row: dict[str, Any]) -> str:
    """A row of the table in Markdown."""
    return (
        f"| `{row['model']}` | {row['parameters'] / 1e6:.1f} M | {row['outputs']:,} | {row['step_cpu_seconds']:.2f} s | "
        f"{row['audio_seconds_per_cpu_second']:.1f} | {row['peak_gib']:.2f} GiB | "
        f"{row['loss_first']:.0f} -> {row['loss_last']:.0f} |"
    )


def main(arguments: list[str]) -> None:
    """Print a table in Markdown, row by row, and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to save the figures")
    parser.add_argument("--quick", action="store_true", help="three steps of the tiny models")
    parser.add_argument(
        "--corpus", type=Path, help="folder of synthetic corpora to make or reuse; default: a temporary one"
    )
    parser.add_argument("--only", help="measure one model in this process and save its row")
    chosen = parser.parse_args(arguments)
    steps, utterances = (3, 100) if chosen.quick else (20, 3000)
    if chosen.only:
        chosen.json.write_text(json.dumps(measure(chosen.only, steps, chosen.corpus, utterances)))
        return
    made_with = environment()  # recorded at the start, since commits may follow while it runs
    models = [name for name in options("model") if not chosen.quick or name.endswith("_tiny")]
    print("| model | parameters | outputs | step | audio s/s | peak memory | loss |\n|---|---|---|---|---|---|---|")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for model in models:
            rows.append(in_own_process(model, chosen, Path(name)))
            print(line(rows[-1]), flush=True)
    if chosen.json is not None:
        figures = {f"{key}/{row['model']}": row[key] for row in rows for key in row if key != "model"}
        save_figures(chosen.json, figures, rows, made_with)


if __name__ == "__main__":
    run_main(main)
