"""The joiner: scores of all tokens, for one encoder state and one prediction together.

    logits = W s(e (+ or *) p) + b      e = W_e h_t + b_e      p = W_p g_u + b_p

Sum: Graves 2013 (arXiv 1303.5778). Element-wise product: Saon et al. 2021 (arXiv 2103.09935), where both projections
need their own bias, which contains the additive terms; without them a factor near zero stops the other's gradient. The
squashing s is tanh in both; training and decoding take it from here, so that what replaces it does so for both.

J joint dimension   V vocabulary size (blank included, token 0)   ... any leading axes that broadcast
"""

import torch
from torch import Tensor, nn

from asr.losses.inputs import Combine
from asr.losses.squashing import TANH, Squashing
from distributed.errors import UsageError
from distributed.ranges import Count


class Joiner(nn.Module):
    """Projections into the joint space, and the output layer."""

    def __init__(
        self,
        *,
        vocabulary_size: int,
        encoder_dimension: int,
        predictor_dimension: int,
        dimension: Count,
        combine: Combine,
    ) -> None:
        super().__init__()
        if combine not in ("add", "multiply"):
            raise UsageError(f"model.joiner.combine must be 'add' or 'multiply', got {combine!r}")
        self.combine: Combine = combine
        self.dimension = dimension
        self.project_encoder = nn.Linear(encoder_dimension, dimension)
        self.project_predictor = nn.Linear(predictor_dimension, dimension)
        self.output = nn.Linear(dimension, vocabulary_size)
        self.squashing: Squashing = TANH

    def logits(self, encoder_J: Tensor, predictor_J: Tensor) -> Tensor:
        """Scores (..., V) of two PROJECTED inputs (..., J). In training the loss computes them tile by tile."""
        joint_J = encoder_J + predictor_J if self.combine == "add" else encoder_J * predictor_J
        # Without gradients in the arithmetic of training, which on a CPU takes a fifth of the time.
        graph = torch.is_grad_enabled() or torch.onnx.is_in_onnx_export()
        squashed_J = self.squashing(joint_J) if graph else self.squashing.squash_(joint_J)[0]
        scores_V: Tensor = self.output(squashed_J)
        return scores_V

    def extra_repr(self) -> str:
        """The settings shown when the model is printed."""
        return f"combine={self.combine}, squashing={self.squashing!r}"
