"""The transducer (Graves 2012, arXiv 1211.3711): encoder, prediction network, joiner and their loss, as one module.

``forward(batch)`` is all that the training loop calls: it returns the loss SUMMED over the batch, so that learners with
different numbers of utterances can be averaged exactly. An optional CTC head on the encoder (Graves et al. 2006) gives
the encoder a direct gradient early in training. Losses are in at least fp32; the joiner's products follow autocast.

B utterances   T feature frames   S encoder states   U tokens   J joint dimension   V vocabulary size
"""

from collections.abc import Callable

from torch import Tensor, nn

from asr.data.batch import Batch
from asr.data.tokenizer import BLANK
from asr.losses.ctc import ctc_impossible, ctc_loss
from asr.losses.inputs import LossInputs, LossSettings
from asr.models.effective import effective_weight
from asr.models.encoder import Encoder
from asr.models.joiner import Joiner
from asr.models.predictor import Predictor
from asr.models.speech_model import LossOutput, Recogniser
from distributed.ranges import NonNegative


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
        loss: LossSettings,
        vocabulary_size: int,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.predictor = predictor
        self.joiner = joiner
        self.ctc_head = nn.Linear(encoder.dimension, vocabulary_size) if ctc_weight > 0 else None
        self.ctc_weight = ctc_weight
        self.loss = loss.sized(joint=joiner.dimension, classes=vocabulary_size)
        self.vocabulary_size = vocabulary_size

    def forward(self, batch: Batch) -> LossOutput:
        """The summed loss of ``batch``; for a unit without utterances, ``nothing``."""
        if batch.features.shape[0] == 0:
            return LossOutput(self.nothing(), batch.weight)
        states_BSD, lengths_B = self.encode(batch.features, batch.feature_lengths)
        rnnt = self.loss(self.loss_inputs(states_BSD, lengths_B, batch)).sum()
        total, terms = rnnt, {"rnnt": rnnt.detach()}
        if self.ctc_head is not None:
            ctc = ctc_loss(self.ctc_head(states_BSD), lengths_B, batch.targets, batch.target_lengths)
            total, terms["ctc"] = total + self.ctc_weight * ctc, ctc.detach()
            impossible_B = ctc_impossible(lengths_B, batch.targets, batch.target_lengths)
            terms["ctc_impossible"] = impossible_B.sum().to(ctc.dtype)
        return LossOutput(total, batch.weight, terms, states_BSD)

    def encode(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder states (B, S, D), before the joiner's projection, and their lengths (B,)."""
        states_BSD, lengths_B = self.encoder(features_BTF, lengths_B)
        return states_BSD, lengths_B

    def loss_inputs(self, states_BSD: Tensor, lengths_B: Tensor, batch: Batch) -> LossInputs:
        """The loss's inputs for ``batch``: the predictor reads ``predictor_inputs``, the labels are ``targets``."""
        return LossInputs(
            encoder_BTJ=self.joiner.project_encoder(states_BSD),
            predictor_BSJ=self.joiner.project_predictor(self.predictor(batch.predictor_inputs)),
            weight_VJ=effective_weight(self.joiner.output),
            bias_V=self.joiner.output.bias,
            targets_BU=batch.targets,
            encoder_lengths_B=lengths_B,
            target_lengths_B=batch.target_lengths,
            combine=self.joiner.combine,
            blank=BLANK,
            squashing=self.joiner.squashing,
        )


def transducer(
    *,
    encoder: Callable[..., Encoder],
    predictor: Callable[..., Predictor],
    joiner: Callable[..., Joiner],
    ctc_weight: NonNegative,
    loss: LossSettings,
    vocabulary_size: int,
    feature_dimension: int,
) -> Transducer:
    """Build the model of a configuration: parts have their settings bound and get the sizes known at run time.

    Initial weights are drawn from torch's global generator, in the order encoder, predictor, joiner, CTC head, loss.
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
        loss=loss,
        vocabulary_size=vocabulary_size,
    )
