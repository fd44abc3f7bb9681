"""N-best label smoothing: with some probability the labels are one of the K best hypotheses of another model.

Cui et al. 2022, "Improving generalization of deep neural network acoustic models with length perturbation and n-best
based label smoothing" (Interspeech), arXiv 2203.15176, section 3. For each utterance, each time it is presented,

    labels = truth where gamma <= 1 - epsilon, else one of the K hypotheses, each as likely        gamma ~ U[0, 1]

The whole sequence is replaced, both the loss's targets and the inputs of the prediction network. A hypothesis equal to
the truth stays in its list, as the paper does not exclude it; ``<hook>/epsilon`` logs how often labels really differ.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from asr.data.batch import RawBatch, Stage
from asr.data.nbest import NBestError, NBestLists, read_nbest, truth_of
from asr.data.plan import planned_tokens
from asr.data.tokenizer import load_tokenizer
from asr.hooks.epochs import Epochs, HookOfEpochs
from asr.hooks.pinned import Pinned
from asr.runs.fingerprint import fingerprint
from asr.runs.run_folder import RunFolder
from asr.training.hook import Run
from distributed.ranges import Count, Fraction, Natural, NonNegative

log = logging.getLogger(__name__)

KEY = "hooks.nbest_label_smoothing"


def usable(lengths: list[int], longest: int) -> list[int]:
    """Ranks of the hypotheses that can be labels, given their lengths: those of 1 to ``longest`` tokens."""
    return [rank for rank, length in enumerate(lengths) if 0 < length <= longest]


class NBestLabelSmoothing(HookOfEpochs):
    """Replaces the labels of some training utterances; the choice depends on (seed, epoch, utterance, hook's name) alone.

    Args:
        lists: folder that scripts/make_nbest.py wrote. Ids are those of the recordings, however they are perturbed.
        epsilon: probability of a hypothesis instead of the truth.
        hypotheses: K, the best so many of a list are drawn from.
        max_lengthening: longer hypotheses than this fraction above the truth's tokens, rounded up, are left out.
        missing: what to do with training utterances that have no list.
        from_epoch: the first epoch with smoothing, counted from 0.
        until_epoch: the first epoch without it again; None: never.
    """

    stage: ClassVar[Stage | None] = "targets"
    nbest: NBestLists  # read when training starts, since a trained model is used without it

    def __init__(
        self,
        *,
        lists: Path,
        epsilon: Fraction,
        hypotheses: Count,
        max_lengthening: NonNegative,
        missing: Literal["refuse", "keep"],
        from_epoch: Natural,
        until_epoch: Natural | None,
    ) -> None:
        super().__init__(Epochs(from_epoch, until_epoch))
        self.lists = Path(lists)
        self.epsilon = epsilon
        self.hypotheses = hypotheses
        self.max_lengthening = max_lengthening
        self.missing = missing
        self.pinned = Pinned(f"{KEY}.lists")

    @property
    def lengthens_targets(self) -> float:
        """The largest lengthening of the targets, as a fraction; hypotheses that exceed it are not used."""
        return self.max_lengthening if self.epsilon > 0 else 0.0

    def on_fit_start(self, run: Run, resumed: bool) -> None:
        """Read the lists, which loading processes then share.

        Raises:
            NBestError: the lists are for other tokens, or for other utterances (of the same ids or not), incomplete, or
                shorter than K.
            HookError: the lists differ from those of the other learners or of the run's start.
        """
        super().on_fit_start(run, resumed)
        header, self.nbest = read_nbest(self.lists, load_tokenizer(RunFolder(run.folder).tokenizer))
        if header.hypotheses < self.hypotheses:
            raise NBestError(
                f"{KEY}.hypotheses={self.hypotheses}: {self.lists} keeps {header.hypotheses} of each utterance; set "
                f"{header.hypotheses} or less, or write longer lists: scripts/make_nbest.py hypotheses={self.hypotheses}"
            )
        decoded = (each for each in run.utterances if each.id in self.nbest)
        if other := next((each for each in decoded if self.nbest.truth(each.id) != truth_of(each)), None):
            raise NBestError(
                f"{self.lists}: its list of {other.id} is of another utterance of that name, with another text or duration: "
                f"{header.run} was trained on other data (data.seed, data.held_out, ...); train a run on this data, and "
                "decode its training set: python scripts/make_nbest.py run=exp/..."
            )
        without = [each for each in run.plan.utterance_ids if each not in self.nbest]
        if without and self.missing == "refuse":
            raise NBestError(
                f"{self.lists} has no list for {len(without)} of {run.plan.utterances} training utterances, {without[0]} "
                f"first; decode the training set as it is now, or let them keep their labels: {KEY}.missing=keep"
            )
        tensors = (self.nbest.tokens_N, self.nbest.ends_H, self.nbest.firsts_U)
        self.pinned.pin(fingerprint("\n".join([header.text(), *self.nbest.rows]), tensors), self.lists, run.world)
        kept = f", {len(without)} without one keep their labels" if without else ""
        log.info("%s: lists of %d utterances by %s%s", KEY, len(self.nbest.rows), header.run, kept)

    def state_dict(self) -> dict[str, Any]:
        return self.pinned.state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.pinned.take_back(state)

    def on_batch(self, raw: RawBatch) -> None:
        if raw.epoch not in self.epochs:
            return
        differing = 0
        for position, truth in enumerate(raw.targets):
            labels = self.smooth(raw.utterance_ids[position], truth, raw.generator(position))
            if labels != truth:
                differing += 1
                raw.targets[position], raw.predictor_inputs[position] = labels, list(labels)
        raw.metrics[f"{raw.hook}/epsilon"] = differing / len(raw.targets)

    def smooth(self, utterance_id: str, truth: list[int], generator: torch.Generator) -> list[int]:
        """The labels of one presentation: the truth, or a hypothesis; the truth where there is no usable one."""
        gamma = float(torch.rand((), generator=generator, dtype=torch.float64))
        if gamma <= 1.0 - self.epsilon or utterance_id not in self.nbest:
            return truth
        longest = planned_tokens(len(truth), self.max_lengthening)
        ranks = usable(self.nbest.lengths(utterance_id, self.hypotheses), longest)
        if not ranks:
            return truth
        chosen = int(torch.randint(len(ranks), (), generator=generator))
        return self.nbest.hypothesis(utterance_id, ranks[chosen])
