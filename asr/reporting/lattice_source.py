"""Computes pictures of lattices from a model and a batch: where in time the model places the true labels.

B utterances   F feature dimension   T encoder frames   J joint dimension   U labels   S = U + 1
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from asr.data.batch import Batch
from asr.data.tokenizer import Tokenizer
from asr.decoding.forced_alignment import transducer_arcs
from asr.losses.alignment import best_paths, lattice_occupancy
from asr.losses.lattice import Arcs
from asr.models.transducer import Transducer
from asr.reporting.lattice import LatticePicture


@torch.no_grad()
def lattice_pictures(
    model: Transducer,
    batch: Batch,
    tokenizer: Tokenizer,
    hypotheses: Sequence[str],
    *,
    limit: int,
    feature_frame_seconds: float,
) -> list[LatticePicture]:
    """Pictures of the first ``limit`` utterances of ``batch``, in the order of the batch.

    ``hypotheses`` holds what the model recognised, one text per utterance; the lattice is that of the reference.
    ``feature_frame_seconds`` is the hop between feature frames, before the encoder's subsampling. The model is
    evaluated without dropout and left in the mode it was in.
    """
    if len(hypotheses) != len(batch.utterance_ids):
        raise ValueError(f"hypotheses must be {len(batch.utterance_ids)}, one per utterance, got {len(hypotheses)}")
    shown = min(limit, len(batch.utterance_ids))
    if not shown:
        return []
    arcs = _arcs(model, batch, shown)
    occupancy_BTS, paths = lattice_occupancy(arcs).cpu(), best_paths(arcs)
    pictures = []
    for index in range(shown):
        labels = batch.targets[index, : int(batch.target_lengths[index])].tolist()
        pictures.append(
            LatticePicture(
                utterance_id=batch.utterance_ids[index],
                occupancy_TS=occupancy_BTS[index, : arcs.shape.frames[index], : len(labels) + 1].numpy(),
                path=[emission.frame for emission in paths[index]],
                tokens=[tokenizer.symbols[label] for label in labels],
                reference=tokenizer.decode(labels),
                hypothesis=hypotheses[index],
                frame_seconds=feature_frame_seconds * model.encoder.subsampling,
            )
        )
    return pictures


def _arcs(model: Transducer, batch: Batch, shown: int) -> Arcs:
    """Arcs of the first utterances' lattices, as the loss scores them, for the true transcripts."""
    first = replace(
        batch,
        utterance_ids=batch.utterance_ids[:shown],
        features=batch.features[:shown],
        feature_lengths=batch.feature_lengths[:shown],
        targets=batch.targets[:shown],
        target_lengths=batch.target_lengths[:shown],
    )
    training = model.training
    model.eval()
    try:
        return transducer_arcs(model, first)
    finally:
        model.train(training)
