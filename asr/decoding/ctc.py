"""Greedy search of a CTC head: the most probable class of every state, repeats collapsed, blanks taken out.

B utterances   S encoder states   D state dimension   V classes with blank
"""

import torch
from torch import Tensor

from asr.data.tokenizer import BLANK
from asr.decoding.search import CtcModel, Emitted, Hypothesis, SearchError
from asr.losses.ctc import ctc_log_probs


class CtcGreedy:
    """The search as an option of the configuration: of a CTC model, or of a transducer's CTC head."""

    name = "ctc_greedy"

    def check(self, model: object) -> None:
        """Raise SearchError if the model has no CTC head."""
        if getattr(model, "ctc_head", None) is None:
            raise SearchError(
                "decode=ctc_greedy needs a model with a CTC head; this one has none: choose decode=greedy"
            )

    def __call__(self, model: CtcModel, encoder_states_BSD: Tensor, lengths_B: Tensor) -> list[Hypothesis]:
        """One hypothesis for each utterance; raises SearchError as ``check`` does."""
        self.check(model)
        return ctc_greedy_decode(model.ctc_head(encoder_states_BSD), lengths_B)

    def online(self, model: CtcModel) -> "OnlineCtc":
        """The search of one recording while it is heard; raises SearchError as ``check`` does."""
        self.check(model)
        return OnlineCtc(model)


@torch.no_grad()
def ctc_greedy_decode(logits_BSV: Tensor, lengths_B: Tensor) -> list[Hypothesis]:
    """The text of the best alignment of each utterance, and that alignment's log probability.

    A token's frame is the first state of its run.
    """
    best_BS, classes_BS = ctc_log_probs(logits_BSV).max(-1)
    inside_BS = torch.arange(classes_BS.shape[1], device=lengths_B.device) < lengths_B[:, None]
    starts_BS = torch.ones_like(inside_BS)
    starts_BS[:, 1:] = classes_BS[:, 1:] != classes_BS[:, :-1]
    emits_BS = (inside_BS & starts_BS & (classes_BS != BLANK)).cpu()
    scores = best_BS.where(inside_BS, 0.0).double().sum(1).tolist()
    rows = zip(classes_BS.cpu(), emits_BS, scores, strict=True)
    return [
        Hypothesis(classes_S[emits_S].tolist(), score, emits_S.nonzero().squeeze(1).tolist())
        for classes_S, emits_S, score in rows
    ]


class OnlineCtc:
    """``ctc_greedy_decode`` of one recording, whose states come in pieces."""

    def __init__(self, model: CtcModel) -> None:
        self.model = model
        self.last = BLANK  # class of the newest state
        self.frame = 0

    @torch.no_grad()
    def push(self, encoder_states_SD: Tensor) -> list[Emitted]:
        """The tokens that begin in the next states."""
        log_probs_SV = ctc_log_probs(self.model.ctc_head(encoder_states_SD[None]))[0].cpu()
        best_S, classes_S = log_probs_SV.max(-1)
        before_S = torch.cat([torch.tensor([self.last]), classes_S[:-1]])
        certain_S = confidence(best_S, log_probs_SV[:, BLANK])
        places = ((classes_S != before_S) & (classes_S != BLANK)).nonzero().squeeze(1).tolist()
        found = [Emitted(int(classes_S[s]), self.frame + s, float(certain_S[s])) for s in places]
        self.last, self.frame = int(classes_S[-1]), self.frame + len(classes_S)
        return found


def confidence(log_prob: Tensor, blank_log_prob: Tensor) -> Tensor:
    """The probability of a label among all labels, blank aside; of elements where it is the most probable class."""
    return (log_prob - torch.log1p(-blank_log_prob.exp())).exp()
