"""What half an hour of one's own speech brings: word error rates of a run before and after it goes on with new speakers.

    python scripts/bench/own_speech.py --run exp/read-english-conformer --data /corpora/speechocean762 --json own-speech.json

The new speakers are the first of the table train.tsv of --data (columns path, utt, speaker, text), as many as have --minutes of
speech to train on. The last three utterances of each are kept: one for dev, which chooses the checkpoint, two to be tested.
Strangers, the speakers of test.tsv, show what of it helps others of the same kind; the run's own test set, what is forgotten.
The training is experiment=own_speech with what follows `--` on the command line, for one learner. Greedy search.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

from asr.data.audio import read_audio
from asr.data.manifest import Utterance, read_manifest, write_manifest
from asr.decoding.results import figures_of, score_set
from asr.foreign.terminal import say
from asr.parts import build
from asr.recogniser import load
from asr.runs.run_folder import RunFolder
from distributed.errors import UsageError
from scripts.bench.report import save_figures
from scripts.composition.compose import compose
from scripts.composition.run_configuration import load_run_config
from scripts.composition.settings import TrainSettings
from scripts.composition.startup import REPOSITORY, run_main

KEPT = {"dev": 1, "own": 2}  # of each new speaker's utterances, the last ones
SETS = {
    "own": "other sentences of the same speakers",
    "strangers": "unseen speakers of the same corpus",
    "old": "the run's own test set",
}


def main(arguments: list[str]) -> None:
    """Print a table in Markdown and save the figures."""
    place = arguments.index("--") if "--" in arguments else len(arguments)
    options, overrides = parsed(arguments[:place]), arguments[place + 1 :]
    config = load_run_config(options.run, TrainSettings)
    sets = sets_of(options, config.data.sample_rate, build(config.data).prepare())
    folder = Path("data") / options.name
    folder.mkdir(parents=True, exist_ok=True)
    for name, utterances in sets.items():
        write_manifest(folder / f"{name}.jsonl", utterances)
    began = time.monotonic()
    train(options, config, folder, overrides)
    seconds = time.monotonic() - began
    runs = {"before": options.run, "after": Path("exp") / options.name}
    rows = [
        {"model": when, "set": name} | measured(run, sets[name])
        for when, run in runs.items()
        for name in SETS
        if sets.get(name)
    ]
    minutes = sum(each.duration for each in sets["train"]) / 60
    speakers = len({each.speaker for each in sets["train"]})
    say(f"{minutes:.1f} minutes of {speakers} speakers to train on, {seconds / 60:.1f} minutes of training")
    report(rows)
    if options.json is not None:
        figures = {f"{row['model']} {row['set']}": row["wer"] for row in rows}
        save_figures(
            options.json,
            figures,
            rows,
            minutes=minutes,
            speakers=speakers,
            training_seconds=seconds,
            overrides=overrides,
        )


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of the run that goes on")
    parser.add_argument("--data", type=Path, required=True, help="folder of the new speakers' corpus")
    parser.add_argument("--minutes", type=float, default=30.0, help="of speech to train on")
    parser.add_argument(
        "--utterances", type=int, default=200, help="at most so many of strangers and of the old test set"
    )
    parser.add_argument("--name", default="own", help="of the run that is made, and of its manifests' folder in data/")
    parser.add_argument("--json", type=Path, help="where to save the figures")
    return parser.parse_args(arguments)


def sets_of(options: argparse.Namespace, rate: int, manifests: Mapping[str, Path]) -> dict[str, list[Utterance]]:
    """What is trained and tested on; ``manifests`` are those of the run's corpus."""
    settings = [
        "data=speechocean762", f"data.root={options.data}", f"data.sample_rate={rate}", "data.resample=true",
        "data.dev_speakers=0",
    ]  # fmt: skip
    tables = {name: read_manifest(path) for name, path in build(compose("prepare", settings).data).prepare().items()}
    sets = new_speakers(tables["train"], 60 * options.minutes)
    old = read_manifest(manifests["test"]) if "test" in manifests else []
    return sets | {"strangers": tables["test"][: options.utterances], "old": old[: options.utterances]}


def new_speakers(utterances: Sequence[Utterance], seconds: float) -> dict[str, list[Utterance]]:
    """train, dev and own of as many speakers, in the order of their names, as have so many seconds to train on.

    Raises:
        UsageError: all together have less.
    """
    sets: dict[str, list[Utterance]] = {"train": [], "dev": [], "own": []}
    ordered = sorted(utterances, key=lambda each: (each.speaker, each.id))
    for _, group in groupby(ordered, key=lambda each: each.speaker):
        if sum(each.duration for each in sets["train"]) >= seconds:
            return sets
        own = list(group)
        first, second = len(own) - sum(KEPT.values()), len(own) - KEPT["own"]
        for name, part in (
            ("train", own[: max(0, first)]),
            ("dev", own[max(0, first) : second]),
            ("own", own[second:]),
        ):
            sets[name] += part
    if sum(each.duration for each in sets["train"]) < seconds:
        raise UsageError(f"--minutes={seconds / 60:g}: the corpus has less to train on; give another --data or less")
    return sets


def train(options: argparse.Namespace, config: Any, folder: Path, overrides: Sequence[str]) -> None:
    """Go on with the run; a training that was stopped goes on.

    Raises:
        UsageError: it failed.
    """
    command = [
        sys.executable, str(REPOSITORY / "scripts" / "train.py"), "experiment=own_speech", "backend=single",
        f"name={options.name}", f"init_from={options.run}", f"model_of={options.run}", "data.test=own.jsonl",
        f"data.root={folder}", "data.train=train.jsonl", "data.dev=dev.jsonl", f"data.sample_rate={config.data.sample_rate}",
        f"features.num_mels={config.features.num_mels}", *tokenizer_of(options.run, config), *overrides,
    ]  # fmt: skip
    if subprocess.run(command, check=False).returncode:
        raise UsageError(f"--run={options.run}: the training failed; its lines above say why")


def tokenizer_of(run: Path, config: Any) -> list[str]:
    """The run's tokenizer: a model of pieces has its folder."""
    size = config.tokenizer.get("vocabulary_size")
    if size is None:
        return []
    return [
        "tokenizer=sentencepiece",
        f"tokenizer.model={RunFolder(run).tokenizer}",
        f"tokenizer.vocabulary_size={size}",
    ]


def measured(run: Path, utterances: Sequence[Utterance]) -> dict[str, Any]:
    """Word errors of a run's best checkpoint, greedy search; recordings are resampled to its rate."""
    model = load(run, device="cpu")
    heard = [read_audio(each, model.sample_rate, resample=True) for each in utterances]
    found = model.transcribe(heard, alignment=False)
    texts = {
        each.id: " ".join(one.text.split()) for each, one in zip(utterances, found, strict=True) if one.error is None
    }
    references = {each.id: each.text for each in utterances if each.id in texts}
    return {
        "run": str(run),
        "left_out": len(utterances) - len(texts),
        **figures_of(score_set("set", references, texts)),
    }


def report(rows: Sequence[Mapping[str, Any]]) -> None:
    """The table in Markdown."""
    say("| speech | model | WER | 95 % interval | words |", f"|{'---|' * 5}")
    for row in sorted(rows, key=lambda row: list(SETS).index(row["set"])):
        low, high = row["wer_interval"]
        say(
            f"| {SETS[row['set']]} | {row['model']} | {100 * row['wer']:.2f} % | {100 * low:.2f} to {100 * high:.2f} % | "
            f"{row['reference_words']} |"
        )


if __name__ == "__main__":
    run_main(main)
