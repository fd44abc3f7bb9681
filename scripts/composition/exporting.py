"""Exports a run's model for other programs, with a card of what is known about it."""

import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig

from asr.decoding.greedy import Greedy
from asr.decoding.results import figures_of, score_set
from asr.export.card import ONE_SYMBOL, Facts, Result, card
from asr.export.onnx_files import ExportError, export_part
from asr.export.sherpa import Fitting, fitting, write_sherpa
from asr.foreign.json_text import read_json
from asr.foreign.terminal import log_to_stderr, say
from asr.recogniser import MAX_SYMBOLS
from asr.runs.files import begun_folder, put_in_place
from asr.runs.model_folder import LoadedModel
from asr.runs.run_folder import RunFolder
from asr.training.evaluation import Decoded, decode_set
from asr.training.measures import Decode
from compression.quantization.exported import in_form
from distributed.errors import UsageError
from scripts.composition.compose import compose
from scripts.composition.evaluation import named_set
from scripts.composition.startup import REPOSITORY
from scripts.composition.trained import Trained, load_trained, warn_if_masked


def run(arguments: list[str]) -> None:
    """Export the model that the overrides in ``arguments`` name, and print one line about the folder written."""
    log_to_stderr()
    config = compose("export", arguments)
    name = str(config.name or config.format)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", name):
        raise UsageError(f"name={name}: must be the name of a folder, of letters, digits, '_', '.', '+' and '-'")
    for package in ("onnx", "onnxruntime", "onnxscript"):
        export_part(package)  # before the long work
    weights = None if config.weights is None else Path(config.weights)
    trained = load_trained(Path(config.run), config.checkpoint, config.threads, weights=weights)
    warn_if_masked(trained)
    streaming = config.format == "onnx_streaming"
    parts, on_codes = fitting_forms(trained.loaded, config.history, streaming=streaming)
    checked, limited = (None, []) if config.check is None else one_symbol(trained, config)
    final = RunFolder(trained.folder).export(name)
    folder = begun_folder(final)
    write_sherpa(parts, folder, on_codes)
    client = "sherpa_streaming.py" if streaming else "sherpa.py"
    shutil.copyfile(REPOSITORY / "scripts" / "clients" / client, folder / "transcribe.py")
    known = facts_of(trained, weights, config.licence)
    facts = replace(known, checked=checked, results=[*known.results, *limited])
    (folder / "README.md").write_text(card(folder, parts, facts), encoding="utf-8")
    put_in_place(folder, final)
    sizes = {each: sum(path.stat().st_size for path in final.glob(each)) / 2**20 for each in ("*.int8.onnx", "*.onnx")}
    fp32 = sizes["*.onnx"] - sizes["*.int8.onnx"]
    say(
        f"{final}: {config.format} of {trained.checkpoint}, {fp32:.2f} MiB in fp32, {sizes['*.int8.onnx']:.2f} MiB in int8"
    )


def fitting_forms(loaded: LoadedModel, history: int, *, streaming: bool) -> tuple[Fitting, Fitting | None]:
    """What is exported in fp32, and of a model with layers of few bits what is exported in int8: the same on codes.

    Raises:
        UsageError: it does not fit the layout; the message names the remedy.
    """
    on_values, on_codes = in_form(loaded.model, "values"), in_form(loaded.model, "codes")
    parts = fitting(replace(loaded, model=on_values), history, streaming=streaming)
    if on_codes is loaded.model:
        return parts, None
    return parts, fitting(replace(loaded, model=on_codes), history, streaming=streaming)


def one_symbol(trained: Trained, config: DictConfig) -> tuple[str, list[Result]]:
    """What the client's limit of one symbol per state costs on a split: a line for the card, and the word errors with it.

    Raises:
        ExportError: more texts change by it than ``changed_texts`` allows.
    """
    evaluated = named_set(trained, config.check, config.unit_utterances)

    def decoded(limit: int) -> Decoded:
        search = cast(Decode, Greedy(max_symbols=limit))
        return decode_set(trained.inference(), evaluated.batches(), decode=search, tokenizer=trained.speech.tokenizer)

    limited, free = decoded(1), decoded(MAX_SYMBOLS)
    changed = sum(limited.hypotheses[name] != text for name, text in free.hypotheses.items())
    line = f"changes {changed} of {len(free.hypotheses)} texts of {config.check}"
    if changed > config.changed_texts * len(free.hypotheses):
        raise ExportError(
            f"the client emits at most one symbol per state, which {line}, more than changed_texts={config.changed_texts:g}; "
            "train with larger tokens (tokenizer=sentencepiece) or shorter states (model.encoder.stack), or raise changed_texts"
        )
    figures = figures_of(score_set(evaluated.name, limited.references, limited.hypotheses))
    return line, [(evaluated.name, ONE_SYMBOL, figures)] if _has_rates(figures) else []


def _has_rates(figures: Mapping[str, Any]) -> bool:
    """Whether a set has words to be counted against, as one of silence has not."""
    return figures.get("wer") is not None and None not in figures["wer_interval"]


def facts_of(trained: Trained, weights: Path | None, licence: str | None) -> Facts:
    """What a run knows of its model: its data, and the evaluations of these very weights."""
    digests = [str(each) for each in trained.origin["weights_sha256"]]
    evaluations = RunFolder(trained.folder if weights is None else weights).evaluated()
    records = [(each, read_json(each.figures)) for each in evaluations]
    return Facts(
        name=trained.folder.name,
        checkpoint=trained.checkpoint,
        digests=digests,
        data=f"{name_of_data(trained.config.data)}, {trained.speech.features.sample_rate} Hz",
        licence=licence,
        transforms=[str(node["_target_"]).rpartition(".")[2] for node in trained.loaded.description.transforms],
        results=[
            (each.name, each.decode, record)
            for each, record in records
            if record.get("weights_sha256") == digests and _has_rates(record)
        ],
    )


def name_of_data(data: DictConfig) -> str:
    """The kind of a corpus, and its folder; of manifests in the working directory the one that was trained on."""
    folder = Path(data.root).name or str(data.get("train"))
    return f"{str(data['_target_']).rpartition('.')[2]}, {folder}"
