"""The recipe of docs/measured/word-error-rates.md, "Read English", end to end: scripts/recipe.py.

phrases of texts -> synthetic speech -> the corpus cut at pauses -> the corpus -> language model -> word errors -> export

A step is a command of the project and the file that it makes last. Where that is there, the step is left out.
"""

import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from asr.data.manifest import read_manifest, write_manifest
from asr.foreign.files import TEXT, read_lines
from asr.foreign.json_text import read_json
from asr.foreign.terminal import say
from asr.runs.files import write_atomically
from asr.runs.run_folder import RunFolder
from distributed.errors import UsageError, UserError
from scripts.composition.command_line import Parser
from scripts.composition.startup import REPOSITORY

RATE, DEV_SPEAKERS = 8000, 4
PHRASE_WORDS = range(2, 11)  # words of a phrase, one number after the other
BEAM = ["decode=beam", "decode.beam=8", "decode.n_best=8"]
QUICK_UTTERANCES = {"train": 40, "dev": 10, "test": 10}
QUICK_SENTENCES = 400


@dataclass(frozen=True, slots=True)
class Encoder:
    """What a recipe trains. ``pieces``: size of the vocabulary of word pieces on the corpus; None: characters, as before it."""

    model: str
    pieces: int | None
    small: Sequence[str]  # settings of a model that only tries the steps


ENCODERS = {
    "conformer": Encoder("conformer_xs", None, ("model.encoder.layers=1", "model.encoder.dimension=32")),
    "lstm": Encoder("lstm_s", 300, ("model.encoder.layers=1", "model.encoder.hidden=32")),
}


class RecipeError(UserError, RuntimeError):
    """A step of the recipe failed; its own last line says why."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """The checked command line of scripts/recipe.py."""

    data: Path
    texts: Path
    encoder: Encoder
    name: str
    quick: bool

    @property
    def made(self) -> Path:
        """Folder of everything that is neither a run nor the synthetic speech."""
        return Path("data") / self.name

    def run(self, suffix: str = "") -> Path:
        """Folder of one of the runs."""
        return Path("exp") / f"{self.name}{suffix}"


@dataclass(frozen=True, slots=True)
class Step:
    """What is done: a command, or a function of ours; done where ``makes`` is there."""

    title: str
    makes: Path
    command: Callable[[], Sequence[str]] | None = (
        None  # made when its turn has come: later steps read what earlier ones wrote
    )
    function: Callable[[], None] | None = None


def recipe_options(arguments: Sequence[str], usage: str) -> Recipe | None:
    """Parse and check the command line; None if it asked for help.

    Raises:
        UsageError: the command line is wrong.
    """
    parser = Parser("recipe")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--encoder", choices=[*ENCODERS], default="conformer")
    parser.add_argument("--name")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(list(arguments))
    if options.help:
        say(*usage.strip().splitlines())
        return None
    for key, needed in (("data", "train.tsv"), ("texts", "*.txt")):
        folder = getattr(options, key)
        if folder is None or not any(folder.glob(needed)):
            raise UsageError(f"--{key}={folder}: a folder with {needed} is needed; python scripts/recipe.py --help")
    name = options.name or f"read-english-{options.encoder}{'-quick' if options.quick else ''}"
    return Recipe(options.data, options.texts, ENCODERS[options.encoder], name, options.quick)


def make(recipe: Recipe) -> None:
    """Make what is not there yet.

    Raises:
        RecipeError: a step failed.
    """
    steps = list(steps_of(recipe))
    for place, step in enumerate(steps, start=1):
        say(f"recipe, {place} of {len(steps)}: {step.title}")
        if step.makes.exists():
            say(f"  there already: {step.makes}")
        elif step.function is not None:
            step.makes.parent.mkdir(parents=True, exist_ok=True)
            step.function()
        elif step.command is not None:
            _run(step)
    say(f"the model: {recipe.run()} (load it, or go on from it with init_from=), {card_of(recipe)}")


def _run(step: Step) -> None:
    assert step.command is not None
    script, *arguments = step.command()
    say(f"  python scripts/{script}.py {shlex.join(arguments)}")
    path = str(REPOSITORY / "scripts" / f"{script}.py")
    code = subprocess.run([sys.executable, path, *arguments], check=False).returncode
    if code or not step.makes.exists():
        raise RecipeError(
            f"{step.title}: scripts/{script}.py ended with exit code {code} and {step.makes} is "
            f"{'there' if step.makes.exists() else 'missing'}; see its lines above, and give the same command again to go on"
        )


def card_of(recipe: Recipe) -> Path:
    """The model card."""
    return RunFolder(recipe.run()).export("onnx") / "README.md"


def steps_of(recipe: Recipe) -> Iterator[Step]:
    """The steps in their order."""
    yield from _corpus(recipe)
    yield from _training(recipe)
    yield from _measuring(recipe)
    yield Step(
        "files for sherpa-onnx and the model card", card_of(recipe),
        lambda: ["export", f"run={recipe.run()}", "format=onnx", "changed_texts=1", "licence=CC-BY-4.0"],
    )  # fmt: skip


# ---------------------------------------------------------------------- the corpus and the texts


def corpus_settings(recipe: Recipe) -> list[str]:
    """The settings of the corpus, whose manifests have a folder of their own."""
    return [
        "data=speechocean762", f"data.root={recipe.data}", f"data.cache={recipe.made / 'manifests'}",
        f"data.sample_rate={RATE}", f"data.dev_speakers={DEV_SPEAKERS}",
    ]  # fmt: skip


def manifest_of(recipe: Recipe, split: str) -> Path:
    """The manifest that is trained or tested on; of a try the first utterances alone."""
    return recipe.made / f"{split}.jsonl"


def _corpus(recipe: Recipe) -> Iterator[Step]:
    report = recipe.made / "report.json"
    yield Step("the corpus", report, lambda: ["prepare", *corpus_settings(recipe), f"report={report}"])
    yield Step("its manifests", manifest_of(recipe, "test"), function=lambda: take_manifests(recipe))
    if recipe.encoder.pieces is not None:
        pieces = ["tokenizer=sentencepiece", f"tokenizer.vocabulary_size={recipe.encoder.pieces}"]
        yield Step(
            "word pieces", recipe.made / "pieces",
            lambda: ["train_tokenizer", *corpus_settings(recipe), *pieces, f"out={recipe.made / 'pieces'}"],
        )  # fmt: skip
    yield Step("phrases of the texts", recipe.made / "phrases.txt", function=lambda: write_phrases(recipe))


def take_manifests(recipe: Recipe) -> None:
    """Write the manifests that the report of scripts/prepare.py names; of a try their first lines. The test's comes last."""
    report = read_json(recipe.made / "report.json")
    for split in ("train", "dev", "test"):
        utterances = read_manifest(Path(report[split]["manifest"]))
        target = manifest_of(recipe, split)
        partial = target.with_name(f".{target.name}.partial")
        write_manifest(partial, utterances[: QUICK_UTTERANCES[split]] if recipe.quick else utterances)
        partial.replace(target)


def sentences_of(recipe: Recipe) -> Iterator[str]:
    """The lines of all text files, sorted by name."""
    for file in sorted(recipe.texts.glob("*.txt")):
        lines = (line for _, line in read_lines(file, TEXT))
        yield from islice(lines, QUICK_SENTENCES if recipe.quick else None)


def phrases_of(sentences: Iterator[str]) -> Iterator[str]:
    """Sentences cut into phrases of 2, 3, ... 10, 2, ... words; a single word that is left over is none."""
    count = 0
    for sentence in sentences:
        words, place = sentence.split(), 0
        while place < len(words):
            size = PHRASE_WORDS[count % len(PHRASE_WORDS)]
            count += 1
            if len(phrase := words[place : place + size]) > 1:
                yield " ".join(phrase)
            place += size


def write_phrases(recipe: Recipe) -> None:
    """Write phrases.txt, and beside it the sentences of which a language model is trained."""
    sentences = list(sentences_of(recipe))
    write_atomically(recipe.made / "sentences.txt", "".join(f"{each.strip()}\n" for each in sentences if each.strip()))
    write_atomically(recipe.made / "phrases.txt", "".join(f"{each}\n" for each in phrases_of(iter(sentences))))


# ---------------------------------------------------------------------- training


def _training(recipe: Recipe) -> Iterator[Step]:
    speech, run, lm = recipe.run("-synthetic"), recipe.run(), recipe.run("-lm")
    quick = recipe.quick
    yield Step("synthetic speech, and a model of it", RunFolder(speech).summary, lambda: [
        "train", "experiment=librispeech_small_pretrain", f"model={recipe.encoder.model}", "backend=single",
        f"data.texts={recipe.made / 'phrases.txt'}", f"name={speech.name}",
        *(["data.train_utterances=64", "data.dev_utterances=8", "data.test_utterances=8"] if quick else []),
        *short(recipe, steps=6), *(recipe.encoder.small if quick else ()),
    ])  # fmt: skip
    cut = recipe.made / "cut"
    yield Step(
        "the corpus, cut at pauses", cut / "train.jsonl",
        lambda: ["cut", f"run={speech}", f"out={cut}", str(manifest_of(recipe, "train"))],
    )  # fmt: skip
    yield Step("the corpus", RunFolder(run).summary, lambda: [
        "train", *recipe_of_corpus(recipe), f"data.train={cut / 'train.jsonl'}",
        *(f"data.{split}={manifest_of(recipe, split)}" for split in ("dev", "test")),
        f"init_from={speech}", "backend=single", f"name={run.name}",
        *short(recipe, steps=6), *(recipe.encoder.small if quick else ()),
    ])  # fmt: skip
    yield Step("a language model", RunFolder(lm).summary, lambda: [
        "train_lm", "data=manifests", f"data.sample_rate={RATE}",
        *(f"data.{split}={manifest_of(recipe, split)}" for split in ("train", "dev")),
        f"texts=[{recipe.made / 'sentences.txt'}]", *tokens_of_lm(recipe), "model.predictor.dimension=384", "batch.units=1",
        "backend=single", f"name={lm.name}", *short(recipe, steps=20),
    ])  # fmt: skip


def short(recipe: Recipe, steps: int) -> list[str]:
    """The settings of a try: so few steps."""
    return [f"trainer.max_steps={steps}", "batch.unit_utterances=4"] if recipe.quick else []


def recipe_of_corpus(recipe: Recipe) -> list[str]:
    """Experiment, model, tokens, and the modules that go on from synthetic speech: all with the same tokens, else the encoder."""
    model = f"model={recipe.encoder.model}"
    if recipe.encoder.pieces is None:
        return ["experiment=librispeech_small_characters", model]
    pieces = [f"tokenizer.model={recipe.made / 'pieces'}", f"tokenizer.vocabulary_size={recipe.encoder.pieces}"]
    return ["experiment=librispeech_small", model, *pieces, "init_modules=[encoder]"]


def tokens_of_lm(recipe: Recipe) -> list[str]:
    """Tokens of the language model, and how often it reads the texts: characters are some five times as many as pieces."""
    if recipe.encoder.pieces is None:
        return ["tokenizer=characters", "batch.unit_utterances=32", "trainer.epochs=1"]
    pieces = [f"tokenizer.model={recipe.made / 'pieces'}", f"tokenizer.vocabulary_size={recipe.encoder.pieces}"]
    return ["tokenizer=sentencepiece", *pieces, "batch.unit_utterances=64", "trainer.epochs=4"]


# ---------------------------------------------------------------------- word errors


def _measuring(recipe: Recipe) -> Iterator[Step]:
    run, folder = f"run={recipe.run()}", RunFolder(recipe.run())
    fused = [*BEAM, f"decode.fusion.external={recipe.run('-lm')}"]
    sets = "sets=[dev,test]"
    yield Step("word errors, greedy", folder.evaluation("test", "greedy").figures, lambda: ["evaluate", run, sets])
    yield Step("with a beam of 8", folder.evaluation("test", "beam8").figures, lambda: ["evaluate", run, sets, *BEAM])
    tuned = folder.evaluation("dev", "beam8-lm").fusion
    yield Step("weights of the language model, on dev", tuned, lambda: ["tune_fusion", run, *fused])
    yield Step(
        "with these weights", folder.evaluation("test", "beam8-lm").figures,
        lambda: ["evaluate", run, *fused, *weights_in(tuned)],
    )  # fmt: skip


def weights_in(tuned: Path) -> list[str]:
    """The settings of the search that scripts/tune_fusion.py has found the best."""
    best = read_json(tuned)["best"]
    return [f"decode.fusion.external_weight={best['external']}", f"decode.fusion.label_bonus={best['label_bonus']}"]
