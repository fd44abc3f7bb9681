"""The typical sample: the loss of one utterance of a plan's median length, run to examine how a model computes.

Its features and tokens are made up, so that nothing is read and all learners run the same; it leaves no trace.

T frames   F feature dimension   U tokens
"""

import statistics

import torch

from asr.data.batch import Batch
from asr.data.plan import BatchPlan
from asr.models.speech_model import SpeechModel
from asr.training.state import untouched

TOKEN = 1  # any token but blank; every vocabulary has this one


def typical_batch(model: SpeechModel, plan: BatchPlan, feature_dimension: int) -> Batch:
    """One utterance (1, T, F) of the plan's median frames and tokens, or one segment for a loss over segments."""
    median_frames = round(statistics.median(plan.frames.tolist()))
    frames = min(median_frames, model.unroll_frames or median_frames)
    tokens = round(statistics.median(plan.target_lengths.tolist()))
    parameter = next(model.parameters())
    targets_1U = torch.full((1, tokens), TOKEN, device=parameter.device)
    return Batch(
        utterance_ids=["typical"],
        features=torch.zeros(1, frames, feature_dimension, dtype=parameter.dtype, device=parameter.device),
        feature_lengths=torch.tensor([frames], device=parameter.device),
        targets=targets_1U,
        target_lengths=torch.tensor([tokens], device=parameter.device),
        predictor_inputs=targets_1U,
        weight=1.0,
        frame_targets=torch.zeros(1, frames, dtype=torch.int64, device=parameter.device),
    )


def run_typical(model: SpeechModel, plan: BatchPlan, feature_dimension: int) -> None:
    """Compute the loss of the typical sample in evaluation mode; restores modules, buffers and generators."""
    batch = typical_batch(model, plan, feature_dimension)
    modes = {module: module.training for module in model.modules()}
    with untouched(model, {}, batch.features.device):
        model.eval()
        model(batch)
    for module, training in modes.items():
        module.training = training
