"""A recogniser without a prediction network: an encoder and a linear layer, trained with CTC (Graves et al. 2006).

Each state is a token or blank by itself, which is quick to learn: the papers' LSTM transducer takes its encoder from
such a model (Saon et al. 2021, arXiv 2103.09935, section 2). The parts have the names they have in the transducer, so
that ``init_modules=[encoder]``, or with the transducer's own CTC head ``init_modules=[encoder,ctc_head]``, finds them.

B utterances   T feature frames   S encoder states   D state dimension   V vocabulary size
"""

from collections.abc import Callable

from torch import nn

from asr.data.batch import Batch
from asr.losses.ctc import ctc_impossible, ctc_loss
from asr.models.encoder import Encoder
from asr.models.speech_model import LossOutput, Recogniser


class CtcModel(Recogniser):
    """CTC loss on an encoder."""

    has_lattice = False

    def __init__(self, *, encoder: Encoder, vocabulary_size: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.ctc_head = nn.Linear(encoder.dimension, vocabulary_size)

    def forward(self, batch: Batch) -> LossOutput:
        """The summed loss of ``batch``; utterances with too few states add nothing, and are counted in its terms."""
        if batch.features.shape[0] == 0:
            return LossOutput(self.nothing(), batch.weight)
        states_BSD, lengths_B = self.encode(batch.features, batch.feature_lengths)
        total = ctc_loss(self.ctc_head(states_BSD), lengths_B, batch.targets, batch.target_lengths)
        impossible_B = ctc_impossible(lengths_B, batch.targets, batch.target_lengths)
        return LossOutput(total, batch.weight, {"ctc_impossible": impossible_B.sum().to(total.dtype)}, states_BSD)


def ctc_model(*, encoder: Callable[..., Encoder], vocabulary_size: int, feature_dimension: int) -> CtcModel:
    """Build the model of a configuration. Initial weights are drawn in the order encoder, CTC head."""
    return CtcModel(encoder=encoder(feature_dimension=feature_dimension), vocabulary_size=vocabulary_size)
