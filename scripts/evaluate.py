"""Word error rates of a trained run: python scripts/evaluate.py run=exp/my-run [checkpoint=best] [sets=[test]]

Writes eval/<set>/recogs-, errs-, wer-<decode>.txt and wer-<decode>.json into the run's folder.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig, open_dict

from asr.data.pipeline import unit_loader
from asr.decoding.wer import write_results
from asr.training.evaluation import Decode, Decoded, EvaluationSet, decode_set
from scripts.build import MANIFEST_SUFFIXES, build, evaluation_set, readable
from scripts.configuration import compose, print_help
from scripts.startup import UsageError, run_main
from scripts.trained import Trained, load_trained

SPLITS = ("train", "dev", "test")  # of every corpus


def main(arguments: list[str]) -> None:
    """Evaluate every set and print one line for each."""
    if print_help("evaluate", arguments, __doc__ or ""):
        return
    config = compose("evaluate", arguments)
    check_names(config.sets)
    trained = load_trained(Path(config.run), config.checkpoint, config.threads)
    decode = build(config.decode)
    print(f"{trained.folder}: {trained.checkpoint}, {decode.name} search")
    for name in config.sets:
        evaluated = named_set(trained, name, config.unit_utterances)
        decoded = decode_evaluation_set(trained, evaluated, decode)
        speakers = {utterance.id: utterance.speaker for utterance in evaluated.screened.usable}
        summary = write_results(
            trained.folder / "eval" / evaluated.name,
            decode.name,
            decoded.references,
            decoded.hypotheses,
            speakers,
            trained.checkpoint,
        )
        print(summary)


def check_names(sets: Sequence[str]) -> None:
    """Results lie in eval/<name>: refuse sets that would overwrite those of another one."""
    taken = [name for name in sets if Path(name).suffix not in MANIFEST_SUFFIXES]
    for manifest in (Path(name) for name in sets if Path(name).suffix in MANIFEST_SUFFIXES):
        if manifest.stem in (*SPLITS, *taken):
            raise UsageError(
                f"sets={manifest}: eval/{manifest.stem} holds the results of another set of that name; "
                f"rename the manifest, or choose a split by its name: sets=[{SPLITS[-1]}]"
            )
        taken.append(manifest.stem)


def named_set(trained: Trained, name: str, unit_utterances: int) -> EvaluationSet:
    """A split of the run's corpus, or a manifest of the user's, named by its file."""
    config: DictConfig = trained.config.copy()
    with open_dict(config):
        config.evaluation.unit_utterances = unit_utterances
    with readable():
        return evaluation_set(config, trained.speech, name, cache=False)


def decode_evaluation_set(trained: Trained, evaluated: EvaluationSet, decode: Decode) -> Decoded:
    """Decode a whole set in this process."""
    batches = unit_loader(evaluated.dataset, evaluated.units, num_workers=0, prefetch=1)
    return decode_set(
        trained.model,
        batches,
        decode=decode,
        tokenizer=trained.speech.tokenizer,
        device=torch.device("cpu"),
        precision=trained.config.trainer.precision,
    )


if __name__ == "__main__":
    run_main(main)
