"""Long utterances cut at pauses that level and forced alignment agree on, written as manifests of pieces."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from asr.data.audio import read_audio
from asr.data.batch import Unit
from asr.data.cutting import Cutter, WordsDifferError
from asr.data.manifest import Utterance, write_manifest
from asr.data.material import manifest_name, refuse_doubles
from asr.decoding.forced_alignment import Method, chosen_method, word_spans
from asr.foreign.terminal import log_to_stderr, say
from asr.parts import build
from asr.training.evaluation import EvaluationSet
from distributed.errors import UsageError
from scripts.composition.alignment import alignable
from scripts.composition.compose import compose, split_arguments
from scripts.composition.evaluation import named_set
from scripts.composition.trained import Trained, load_configured

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Pieces:
    """The result of cutting a set: pieces to train on, and utterances or pieces left out, with the reason."""

    kept: list[Utterance] = field(default_factory=list)
    lost: list[tuple[Utterance, str]] = field(default_factory=list)
    cut: int = 0  # number of utterances cut into several pieces

    def add(self, pieces: Sequence[Utterance], max_seconds: float) -> None:
        """Add the pieces of one utterance."""
        self.cut += len(pieces) > 1
        for piece in pieces:
            if piece.duration <= max_seconds:
                self.kept.append(piece)
            else:
                self.lost.append((piece, f"has no pause in {piece.duration:.1f} s that its text agrees with"))


def run(arguments: list[str]) -> None:
    """Cut the sets given in ``arguments`` (beside overrides) and print one line for each."""
    log_to_stderr()
    overrides, named = split_arguments(arguments)
    config = compose("cut", overrides)
    sets = [str(each) for each in named] or list(config.sets)
    refuse_doubles("sets", sets, [manifest_name(each) for each in sets], ())
    outputs = [output_path(Path(config.out), each) for each in sets]
    cutter: Cutter = build(config.cutter)
    trained = load_configured(config)
    chosen_method(trained.recogniser, config.method)
    for name, path in zip(sets, outputs, strict=True):
        evaluated = named_set(trained, name, config.unit_utterances)
        pieces = cut_set(trained, evaluated, cutter, config.method)
        if not pieces.kept:
            raise UsageError(
                f"{name}: none of its {len(pieces.lost)} pieces lasts at most {cutter.max_seconds:g} s, so {path} is not "
                "written; raise cutter.max_seconds or lower cutter.pause_seconds"
            )
        partial = path.with_name(f".{path.name}.partial")
        write_manifest(partial, pieces.kept)
        partial.replace(path)
        say(f"{path}: {summary(pieces, len(evaluated.screened.usable))}")


def output_path(out: Path, name: str) -> Path:
    """Path of the manifest of a set's pieces. It must not exist: it could be the only manifest of a corpus.

    Raises:
        UsageError: there is a file already.
    """
    path = out / f"{manifest_name(name)}.jsonl"
    if path.exists():
        what = "is the manifest to be cut" if path.resolve() == Path(name).resolve() else "exists already"
        raise UsageError(f"out: {path} {what} and would be replaced; choose another folder, or move the file away")
    return path


def cut_set(trained: Trained, evaluated: EvaluationSet, cutter: Cutter, method: Method) -> Pieces:
    """Pieces of every utterance, in the manifest's order; only utterances that are too long are aligned."""
    usable = evaluated.screened.usable
    units = list(only(evaluated.units, {at for at, each in enumerate(usable) if each.duration > cutter.max_seconds}))
    paths = alignable(trained, replace(evaluated, units=units), method) if units else {}
    pieces = Pieces()
    for utterance in usable:
        if utterance.duration <= cutter.max_seconds:
            pieces.kept.append(utterance)
        elif utterance.id not in paths:
            pieces.lost.append((utterance, "is too long and could not be aligned"))
        else:
            try:
                pieces.add(pieces_of(trained, utterance, paths[utterance.id], cutter), cutter.max_seconds)
            except WordsDifferError as error:
                pieces.lost.append((utterance, f"cannot be cut: {error}"))
    for lost, reason in pieces.lost:
        log.warning("left out: %s %s", lost.id, reason)
    return pieces


def only(units: Iterable[Unit], wanted: set[int]) -> Iterable[Unit]:
    """Restrict units to the wanted utterances; units that would be empty are left out."""
    for unit in units:
        if kept := tuple(index for index in unit.utterances if index in wanted):
            yield replace(unit, utterances=kept)


def pieces_of(trained: Trained, utterance: Utterance, path_S: Tensor, cutter: Cutter) -> list[Utterance]:
    """The pieces of one aligned utterance."""
    speech = trained.speech
    rate, tokenizer = speech.corpus.sample_rate, speech.tokenizer
    seconds = speech.features.frame_seconds * trained.model.subsampling
    states = word_spans(path_S, tokenizer.encode(utterance.text), tokenizer.symbols)
    spans = [((first + 0.5) * seconds, (last + 0.5) * seconds) for first, last in states]
    samples = read_audio(utterance, rate, resample=speech.corpus.resample)
    return cutter.pieces(utterance, samples, rate, spans)


def summary(pieces: Pieces, utterances: int) -> str:
    """Line with the numbers of pieces, utterances and pieces left out."""
    hours, lost = (
        sum(each.duration for each in some) / 3600 for some in (pieces.kept, [each for each, _ in pieces.lost])
    )
    return (
        f"{len(pieces.kept)} pieces ({hours:.2f} h) of {utterances} utterances, {pieces.cut} of them cut; "
        f"{len(pieces.lost)} pieces left out ({60 * lost:.1f} min)"
    )
