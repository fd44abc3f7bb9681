"""What the bench of training methods compares: the corpora, how each is split, and every method's settings of scripts/train.py."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

BASELINE = "baseline"
CROSSED = "crossed_nbest_label_smoothing"


@dataclass(frozen=True, slots=True)
class Corpus:
    """A corpus on which methods are compared."""

    experiment: str
    folds: Mapping[str, Sequence[str]]
    language_model: Sequence[str]  # settings of scripts/train_lm.py: the language model that is fused
    transcripts: Sequence[str]  # the same of one that has read what recognisers hear, and no more
    methods: Mapping[str, Sequence[str]]  # settings of scripts/train.py; in braces: see places_of
    epochs: int = 24  # of a recogniser
    fewest: int = 12  # epochs, of which the last sixth, or the last one, is without the methods that papers end early


def alone(hook: str, *settings: str, lifted: bool = True) -> list[str]:
    """The hooks of a run with one method in addition to SpecAugment, which all runs have."""
    until = [f"hooks.{hook}.until_epoch={{lifted}}"] if lifted else []
    return [f"hooks=[{hook},spec_augment]", *until, *(f"hooks.{hook}.{each}" for each in settings)]


METHODS = {
    BASELINE: ["hooks=[spec_augment]"],
    "length_perturbation": alone("length_perturbation"),
    "nbest_label_smoothing": alone("nbest_label_smoothing", "lists={lists}"),
    CROSSED: alone("nbest_label_smoothing", "lists={crossed}"),
    "switchout": alone("switchout"),
    "scheduled_sampling": alone("scheduled_sampling", "lm={lm}"),
    "sequence_noise": alone("sequence_noise", lifted=False),
    "dropconnect": alone("dropconnect", lifted=False),
    "replicas": alone("replicas", lifted=False),
    # Like swb300_combined, with scheduled sampling, which excludes SwitchOut.
    "combined": [
        "hooks=[nbest_label_smoothing,scheduled_sampling,dropconnect,replicas,sequence_noise,length_perturbation,spec_augment]",
        "hooks.nbest_label_smoothing.lists={lists}", "hooks.nbest_label_smoothing.until_epoch={middle}",
        "hooks.scheduled_sampling.lm={lm}", "hooks.scheduled_sampling.until_epoch={lifted}",
        "hooks.length_perturbation.drop_probability=0.5", "hooks.length_perturbation.insert_probability=0.5",
        "hooks.length_perturbation.from_epoch={middle}", "hooks.length_perturbation.until_epoch={lifted}",
    ],
}  # fmt: skip
SPEAKERS = {speaker: [f"data.held_out={speaker}"] for speaker in ("george", "jackson", "lucas")}
WHOLE_TEXTS = ["data=fsdd_connected", "data.train_strings=4000"]  # the texts of what is left out of a quarter, too
QUARTER_TEXTS = ["data=fsdd_connected", "data.train_strings=1000"]
CORPORA = {
    "fsdd": Corpus("fsdd_quarter_baseline", SPEAKERS, WHOLE_TEXTS, QUARTER_TEXTS, METHODS),
    "fsdd_language": Corpus(
        "fsdd_quarter_baseline",
        {speaker: [*of_fold, "data.language=everyday"] for speaker, of_fold in SPEAKERS.items()},
        WHOLE_TEXTS,
        QUARTER_TEXTS,
        METHODS,
    ),
    # Further steps from a start that --override init_from= names. It has heard all of train: no lists can be crossed.
    "librispeech": Corpus(
        "librispeech_small_finetune",
        {"": []},
        ["data=manifests"],
        ["data=manifests"],
        {
            name: [each.replace("spec_augment]", "speed_perturbation,spec_augment]") for each in settings]
            for name, settings in METHODS.items()
            if name != CROSSED
        },
        epochs=4,
        fewest=4,
    ),
    "speechocean762": Corpus(
        "speechocean762",
        {"": []},
        ["data=speechocean762"],
        ["data=speechocean762"],
        {
            name: METHODS[name]
            for name in (BASELINE, "length_perturbation", "nbest_label_smoothing", "sequence_noise", "scheduled_sampling")
        },
    ),
}  # fmt: skip
