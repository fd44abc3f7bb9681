"""The transducer (Graves 2012, arXiv 1211.3711): encoder, prediction network, joiner and their loss, as one module.

``forward(batch)`` is all that the training loop calls: it returns the loss SUMMED over the batch, so that learners
with different numbers of utterances can be averaged exactly. An optional CTC head on the encoder (Graves et al. 2006)
gives the encoder a direct gradient early in training. Losses are computed in at least fp32, whatever the model's own.

B utterances   T feature frames   S encoder states   U tokens   J joint dimension   V vocabulary size
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from asr.data.batch import Batch
from asr.data.tokenizer import BLANK
from asr.losses.ctc import ctc_impossible, ctc_loss
from asr.losses.rnnt import transducer_loss
from asr.models.encoder import Encoder
from asr.models.joiner import Joiner
from asr.models.predictor import Predictor
from asr.models.speech_model import LossOutput, Recogniser
from distributed.ranges import Count, NonNegative


class Transducer(Recogniser):
    """RNN-T loss plus ``ctc_weight`` x CTC loss; ``ctc_weight`` 0 has no CTC head."""

    has_lattice = True

    def __init__(
        self,
        *,
        encoder: Encoder,
        predictor: Predictor,
        joiner: Joiner,
        ctc_weight: NonNegative,
        tile_cells: Count,
        vocabulary_size: int,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.predictor = predictor
        self.joiner = joiner
        self.ctc_head = nn.Linear(encoder.dimension, vocabulary_size) if ctc_weight > 0 else None
        self.ctc_weight = ctc_weight
        self.tile_cells = tile_cells
        self.vocabulary_size = vocabulary_size

    def forward(self, batch: Batch) -> LossOutput:
        """The summed loss of ``batch``; ``nothing`` of a unit emptied of utterances."""
        if batch.features.shape[0] == 0:
            return LossOutput(self.nothing(), batch.weight)
        states_BSD, lengths_B = self.encode(batch.features, batch.feature_lengths)
        rnnt = self._rnnt_loss(states_BSD, lengths_B, batch)
        total, terms = rnnt, {"rnnt": rnnt.detach()}
        if self.ctc_head is not None:
            ctc = ctc_loss(self.ctc_head(states_BSD), lengths_B, batch.targets, batch.target_lengths)
            total, terms["ctc"] = total + self.ctc_weight * ctc, ctc.detach()
            impossible_B = ctc_impossible(lengths_B, batch.targets, batch.target_lengths)
            terms["ctc_impossible"] = impossible_B.sum().to(ctc.dtype)
        return LossOutput(total, batch.weight, terms, states_BSD)

    def _rnnt_loss(self, states_BSD: Tensor, lengths_B: Tensor, batch: Batch) -> Tensor:
        encoder_BSJ = self.joiner.project_encoder(states_BSD)
        predictor_BUJ = self.joiner.project_predictor(self.predictor(batch.predictor_inputs))
        with torch.autocast(states_BSD.device.type, enabled=False):
            losses_B = transducer_loss(
                at_least_fp32(encoder_BSJ),
                at_least_fp32(predictor_BUJ),
                at_least_fp32(self.joiner.output.weight),
                at_least_fp32(self.joiner.output.bias),
                batch.targets,
                lengths_B,
                batch.target_lengths,
                combine=self.joiner.combine,
                blank=BLANK,
                tile_cells=self.tile_cells,
            )
        return losses_B.sum()


def transducer(
    *,
    encoder: Callable[..., Encoder],
    predictor: Callable[..., Predictor],
    joiner: Callable[..., Joiner],
    ctc_weight: NonNegative,
    tile_cells: Count,
    vocabulary_size: int,
    feature_dimension: int,
) -> Transducer:
    """The model of a configuration: parts come with their own settings bound and get the sizes known at run time.

    Initial weights are drawn from torch's global generator, in the order encoder, predictor, joiner, CTC head.
    """
    encoder_part = encoder(feature_dimension=feature_dimension)
    predictor_part = predictor(vocabulary_size=vocabulary_size)
    joiner_part = joiner(
        vocabulary_size=vocabulary_size,
        encoder_dimension=encoder_part.dimension,
        predictor_dimension=predictor_part.dimension,
    )
    return Transducer(
        encoder=encoder_part,
        predictor=predictor_part,
        joiner=joiner_part,
        ctc_weight=ctc_weight,
        tile_cells=tile_cells,
        vocabulary_size=vocabulary_size,
    )


def at_least_fp32(x: Tensor) -> Tensor:
    """Half precisions become fp32; fp32 and fp64 stay."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
