"""Alignment-length synchronous beam search (Saon, Tüske, Audhkhasi 2020, ICASSP), of a whole batch at once.

Step i extends alignments of i symbols: a hypothesis of u labels is at frame t = i - u, and takes a blank (t + 1) or a
label (u + 1). All are equally long, so that their probabilities compare, and alignments of the same labels are at the
same frame, so that they merge: the blank extension of a hypothesis and the label extension of its prefix become one.

    alpha(t, u) = alpha(t-1, u) p(blank | t-1, u) + alpha(t, u-1) p(y_u | t, u-1)

A hypothesis that takes the blank of its last frame is complete and leaves the beam. All others of all utterances share
one call of the joiner per step, and one of the prediction network, which reads only where a label was added.

B utterances still searched   T encoder frames   D dimension   J joint dimension
K hypotheses of a beam   V classes with blank
"""

from copy import copy

import torch
from torch import Tensor

from asr.decoding.beam_front import Front
from asr.decoding.beam_history import Histories
from asr.decoding.beam_state import Complete, LabelTerms, Reader
from asr.decoding.fusion import Fusion
from asr.decoding.search import Hypothesis, Model, SearchError, TokenModel
from asr.decoding.search_networks import networks_of, small_products
from distributed.ranges import Count, Positive

STEPS_PER_READ = 4  # a quarter of the hypotheses, some more or less, have a new label after a step


class BeamSearch:
    """Beam search with its settings, as ``decode`` in the configuration builds it."""

    def __init__(self, *, beam: Count, max_labels_per_frame: Positive, n_best: Count, fusion: Fusion) -> None:
        self.beam = beam
        self.max_labels_per_frame = max_labels_per_frame
        self.count = n_best
        self.fusion = fusion
        self.terms: LabelTerms | None = None if fusion.names_models else fusion.terms(None, None)
        self.name = f"beam{beam}{fusion.suffix}"

    def with_models(self, external: TokenModel | None, source: TokenModel | None) -> "BeamSearch":
        """Return this search with the language models that ``fusion`` names."""
        fused = copy(self)
        fused.terms = self.fusion.terms(external, source)
        return fused

    def check(self, model: object) -> None:
        """Raise SearchError for a model without a prediction network, and where named language models were not loaded."""
        if not hasattr(model, "predictor"):
            raise SearchError("decode=beam searches a transducer, and this model is one of CTC: choose decode=greedy")
        if self.terms is None:
            raise SearchError("decode.fusion names language models, which this search was not given: see with_models")

    def __call__(self, model: Model, encoder_states_BTD: Tensor, lengths_B: Tensor) -> list[Hypothesis]:
        """The best hypothesis of each utterance."""
        return [best for best, *_ in self._search(model, encoder_states_BTD, lengths_B, 1)]

    def n_best(self, model: Model, encoder_states_BTD: Tensor, lengths_B: Tensor) -> list[list[Hypothesis]]:
        """The ``n_best`` best hypotheses of each utterance, distinct and best first; fewer where no more were found."""
        return self._search(model, encoder_states_BTD, lengths_B, self.count)

    def _search(self, model: Model, states_BTD: Tensor, lengths_B: Tensor, count: int) -> list[list[Hypothesis]]:
        self.check(model)
        assert self.terms is not None, "just checked"
        max_labels_B = (lengths_B * self.max_labels_per_frame).long().clamp(min=1)
        return beam_search(model, states_BTD, lengths_B, self.terms, beam=self.beam, max_labels_B=max_labels_B, n=count)


@torch.no_grad()
def beam_search(
    model: Model,
    encoder_states_BTD: Tensor,
    lengths_B: Tensor,
    terms: LabelTerms,
    *,
    beam: int,
    max_labels_B: Tensor,
    n: int,
) -> list[list[Hypothesis]]:
    """The best ``n`` complete hypotheses of each utterance, best first, found with ``beam`` hypotheses at a time.

    A score is the log probability of all alignments of these labels that stayed in the beam, plus the labels' terms.
    An utterance has at most ``max_labels_B`` labels; one of no frames has the empty hypothesis. The search of an
    utterance ends as soon as nothing in its beam can become better than the ``n`` hypotheses it has.
    """
    device, (batch, frames) = encoder_states_BTD.device, encoder_states_BTD.shape[:2]
    lengths_B, max_labels_B = lengths_B.to(device), max_labels_B.to(device)
    reads = batch * frames * beam // STEPS_PER_READ
    networks, terms = networks_of(model, reads, device), terms.of_search(reads, device)
    encoder_BTJ = networks.project_encoder(encoder_states_BTD)
    reader, histories, complete = Reader(networks, terms), Histories(beam), Complete(lengths_B, n)
    with small_products(batch * beam, device):
        front = Front.start(reader, encoder_BTJ, lengths_B, max_labels_B, beam)
        encoder_NJ, bonus = encoder_BTJ.flatten(0, 1), terms.constant or 0.0
        while len(front.score_BK):
            frames_BK = front.frames()
            scores_BKV = front.extensions(networks, encoder_NJ, frames_BK, bonus)
            last_BK = front.in_last_frame(frames_BK)
            if last_BK is not None:
                complete.add(front.completed(scores_BKV, last_BK), front.length * beam)
            histories.add(front.extend(scores_BKV, last_BK))
            if last_BK is not None:
                better_B = front.promise(terms.max_gain) > complete.score_BN[:, -1]
                if not bool(better_B.all()):
                    kept_B = better_B.nonzero()[:, 0]
                    front.keep(kept_B)
                    complete.keep(kept_B)
            front.read(reader)
    return complete.hypotheses(histories)
