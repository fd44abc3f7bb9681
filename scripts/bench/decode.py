"""Searches of a trained transducer: recognised utterances per second and word error rates, beside torchaudio's search.

    python scripts/bench/decode.py --run exp/my-run --set test --utterances 600 --json decode.json

One thread; the same model on the same utterances, method after method on each unit in turn, seconds of processor time
from features to labels, encoder included (on lengths that it has met before). torchaudio's RNNTBeamSearch (1-best) takes one utterance at a time, as it
must; the others take a unit, or one at a time to show the effect of batching. By default torchaudio ranks hypotheses by
score per label; "by score" is the same search with our ranking. ``--lm`` adds our search with a language model, which is stepped in few
operators, and by its modules as it is wherever else they are read (asr/decoding/lstm_steps.py). Speeds are compared with the faster of the two, word
error rates with the more accurate one, with the paired interval of scripts/evaluate.py (docs/evaluation.md).
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from scripts.composition.startup import require_environment

    require_environment()

from asr.data.batch import Batch
from asr.data.tokenizer import Tokenizer
from asr.decoding.bootstrap import REPLICATIONS
from asr.decoding.comparison import compare
from asr.decoding.wer import counts_by_utterance
from asr.models.speech_model import SpeechModel
from asr.models.transducer import Transducer
from asr.training.inference import evaluating, load
from distributed.errors import UsageError
from scripts.bench.paired import total
from scripts.bench.report import save_figures
from scripts.bench.searches import THEIRS, Recognise, methods, with_language_model
from scripts.composition.evaluation import named_set
from scripts.composition.startup import run_main
from scripts.composition.trained import Trained, load_trained

QUICK_UTTERANCES = 16


@dataclass(frozen=True, slots=True)
class Found:
    """The result of a method."""

    texts: dict[str, str]  # by utterance
    unit_seconds: list[float]  # processor time per unit


def main(arguments: list[str]) -> None:
    """Print a table in Markdown and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a trained run's folder")
    parser.add_argument("--checkpoint", default="best", help="best, last, avg:N or best:N")
    parser.add_argument("--set", default="test", help="a split of the run's corpus, or a manifest")
    parser.add_argument("--utterances", type=int, default=128, help="at most so many, spread over all lengths")
    parser.add_argument("--batch", type=int, default=16, help="utterances decoded together by ours")
    parser.add_argument("--beam", type=int, default=8, help="hypotheses of all beam searches")
    parser.add_argument("--lm", type=Path, help="the run of a language model, with which ours searches too")
    parser.add_argument("--json", type=Path, help="where to save the figures")
    parser.add_argument("--quick", action="store_true", help=f"on {QUICK_UTTERANCES} utterances, in less than a minute")
    options = parser.parse_args(arguments)
    trained = load_trained(options.run, options.checkpoint, threads=1)
    if not isinstance(trained.model, Transducer):
        raise UsageError(f"--run={options.run}: its model is no transducer, which beam search needs")
    wanted = QUICK_UTTERANCES if options.quick else options.utterances
    batch = min(options.batch, wanted)
    evaluated = named_set(trained, options.set, batch)
    units = spread(evaluated.units, max(1, wanted // batch))
    loaded = load(evaluated.dataset, units)
    batches = [each for each in loaded if each.utterance_ids]
    if not batches:
        raise UsageError(f"--set {options.set}: none of its utterances is usable")
    recognisers = methods(trained.model, options.beam)
    if options.lm is not None:
        recognisers |= with_language_model(trained.model, trained.speech.tokenizer, options.beam, options.lm)
    found = measure(trained, batches, recognisers)
    rows = rows_of(references_of(batches, trained.speech.tokenizer), found)
    report(rows)
    if options.json is not None:
        remarks = {"run": str(options.run), **trained.origin, "set": options.set, "batch": batch, "beam": options.beam}
        save_figures(options.json, figures(rows), rows, **remarks)


def spread(units: Sequence[Any], count: int) -> list[Any]:
    """``count`` of the units at even distances, or all if there are fewer."""
    step = max(1.0, len(units) / count)
    return [units[int((index + 0.5) * step)] for index in range(min(count, len(units)))]


def references_of(batches: Sequence[Batch], tokenizer: Tokenizer) -> dict[str, str]:
    """The reference texts, by utterance."""
    return {
        name: tokenizer.decode(row[:length])
        for batch in batches
        for name, row, length in zip(
            batch.utterance_ids, batch.targets.tolist(), batch.target_lengths.tolist(), strict=True
        )
    }


def meet_shapes(model: SpeechModel, batch: Batch) -> None:
    """Encode all and each alone: the encoder's setup for new shapes would be paid by the first method for all others."""
    assert isinstance(model, Transducer)
    for part in (batch, *(batch.part(index, index + 1) for index in range(len(batch.utterance_ids)))):
        model.encode(part.features, part.feature_lengths)


def measure(trained: Trained, batches: Sequence[Batch], recognisers: Mapping[str, Recognise]) -> dict[str, Found]:
    """The hypotheses and the time of each method; methods take turns on every unit."""
    found = {name: Found({}, []) for name in recognisers}
    placed = [trained.inference().moved_to_model(batch) for batch in batches]
    with evaluating(trained.model, trained.device, trained.precision):
        for recognise in recognisers.values():
            recognise(placed[0].part(0, 1))  # setup at the first call is not measured
        for batch in placed:
            meet_shapes(trained.model, batch)
            for name, recognise in recognisers.items():
                start = time.thread_time()
                tokens = recognise(batch)
                found[name].unit_seconds.append(time.thread_time() - start)
                found[name].texts.update(
                    zip(batch.utterance_ids, map(trained.speech.tokenizer.decode, tokens), strict=True)
                )
    return found


def rows_of(references: Mapping[str, str], found: Mapping[str, Found]) -> list[dict[str, Any]]:
    """One row per method, compared with torchaudio's faster search and with its more accurate one."""
    seconds = {name: sum(each.unit_seconds) for name, each in found.items()}
    counts = {name: counts_by_utterance(references, each.texts) for name, each in found.items()}
    totals = {name: total(each) for name, each in counts.items()}
    theirs = [name for name in found if name.startswith(THEIRS)]
    fastest, best = min(theirs, key=seconds.__getitem__), min(theirs, key=lambda name: totals[name].errors)
    rows = []
    for name, each in found.items():
        compared = compare(counts[name], counts[best], replications=REPLICATIONS, seed=0)
        agree = sum(text == found[THEIRS].texts[utterance] for utterance, text in each.texts.items())
        rows.append(
            {
                "method": name,
                "utterances": len(references),
                "utterances_per_second": len(references) / seconds[name],
                "speed_vs_torchaudio": seconds[fastest] / seconds[name],
                "wer": totals[name].wer,
                "cer": totals[name].cer,
                "errors": totals[name].errors,
                "reference_words": totals[name].reference_words,
                "wer_minus_torchaudio": compared.difference,
                "wer_minus_torchaudio_interval": compared.interval,
                "same_as_torchaudio": agree / len(references),
                "unit_seconds": each.unit_seconds,
            }
        )
    return rows


def figures(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Speeds, and the error rate of each method."""
    greedy, ours, alone = rows[:3]
    return {
        "beam_speed_ratio_vs_torchaudio": ours["speed_vs_torchaudio"],
        "beam_speed_ratio_vs_torchaudio_one_at_a_time": alone["speed_vs_torchaudio"],
        "beam_wer_minus_torchaudio": ours["wer_minus_torchaudio"],
        "beam_utterances_per_second": ours["utterances_per_second"],
        "greedy_utterances_per_second": greedy["utterances_per_second"],
        **{f"wer/{row['method']}": row["wer"] for row in rows},
    }


def report(rows: list[dict[str, Any]]) -> None:
    """The table in Markdown."""
    print(f"{rows[0]['utterances']} utterances, {rows[0]['reference_words']} words")
    print("| method | utterances/s | x torchaudio | WER | CER | WER - torchaudio's | 95 % interval | as torchaudio |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        low, high = row["wer_minus_torchaudio_interval"]
        print(
            f"| {row['method']} | {row['utterances_per_second']:.1f} | {row['speed_vs_torchaudio']:.2f} | "
            f"{row['wer']:.2%} | {row['cer']:.2%} | {row['wer_minus_torchaudio']:+.2%} | {low:+.2%} to {high:+.2%} | "
            f"{row['same_as_torchaudio']:.1%} |"
        )


if __name__ == "__main__":
    run_main(main)
