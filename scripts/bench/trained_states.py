"""Joiner states of a trained run, so that a loss is measured on lattices as narrow as training makes them."""

from pathlib import Path

import torch
from torch.nn import functional

from asr.data.cache import SignalCache
from asr.data.tokenizer import BLANK
from asr.losses.inputs import LossInputs
from asr.models.transducer import Transducer
from scripts.composition.build import evaluation_set
from scripts.composition.trained import load_trained

IMPOSSIBLE = -60.0  # logit of classes that the trained model does not have


def trained_states(run: Path, batch: int, classes: int, joint: int) -> LossInputs:
    """The longest ``batch`` utterances of the run's first evaluation set, in a lattice of the given sizes.

    Dead classes and joint dimensions are added, zeros and a low bias: they cost what others cost, and change neither
    probabilities nor occupancies.
    """
    trained = load_trained(run, "best", threads=1)
    name = trained.config.evaluation.sets[0]
    evaluated = evaluation_set(trained.config, trained.speech, name, SignalCache(limit_gb=0))
    model, longest = trained.model, evaluated.dataset[evaluated.units[-1]]
    if not isinstance(model, Transducer):
        raise ValueError(f"--run: the model of {run} is no transducer, and so has no lattice")
    with torch.no_grad():
        states_BTD, lengths_B = model.encode(longest.features, longest.feature_lengths)
        inputs = model.loss_inputs(states_BTD, lengths_B, longest)
    used = min(batch, len(lengths_B))
    more_classes, more_joint = classes - inputs.weight_VJ.shape[0], joint - inputs.weight_VJ.shape[1]
    if min(more_classes, more_joint) < 0:
        raise ValueError(f"--run: {run} has more classes or joint dimensions than {classes} and {joint}")
    frames, labels = int(lengths_B[:used].max()), int(inputs.target_lengths_B[:used].max())
    return LossInputs(
        encoder_BTJ=functional.pad(inputs.encoder_BTJ[:used, :frames], (0, more_joint)),
        predictor_BSJ=functional.pad(inputs.predictor_BSJ[:used, : labels + 1], (0, more_joint)),
        weight_VJ=functional.pad(inputs.weight_VJ.detach(), (0, more_joint, 0, more_classes)),
        bias_V=functional.pad(inputs.bias_V.detach(), (0, more_classes), value=IMPOSSIBLE),
        targets_BU=inputs.targets_BU[:used, :labels],
        encoder_lengths_B=lengths_B[:used],
        target_lengths_B=inputs.target_lengths_B[:used],
        combine=inputs.combine,
        blank=BLANK,
    )
