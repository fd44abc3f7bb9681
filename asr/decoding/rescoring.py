"""Tuning the weights of fusion on N-best lists: every setting of a grid chooses from the same lists.

    chosen(u) = argmax_n  log p(y|x) + lambda log p_external(y) - mu log p_source(y) + rho |y|

A list holds what the transducer alone finds good, so that this is cheaper than a search for each setting and a little
pessimistic: a search with the language models in it also meets texts that are in no list.

U utterances   N hypotheses of a list   P settings
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Weights:
    """One setting of the fusion weights."""

    external: float  # lambda
    source: float  # mu
    label_bonus: float  # rho


@dataclass(frozen=True, slots=True)
class Lists:
    """Scores and errors of all hypotheses, float64; lists shorter than the longest are padded with -inf."""

    log_prob_UN: Tensor  # the transducer's log p(y|x)
    external_UN: Tensor
    source_UN: Tensor
    labels_UN: Tensor
    errors_UN: Tensor  # word errors


def chosen(lists: Lists, settings: Sequence[Weights]) -> Tensor:
    """(P, U) rank in its list of the hypothesis that each setting chooses; the first of equal ones."""
    weights_P3 = torch.tensor([(each.external, -each.source, each.label_bonus) for each in settings]).double()
    terms_3UN = torch.stack([lists.external_UN, lists.source_UN, lists.labels_UN])
    parts = weights_P3.split(max(1, 2**24 // max(1, lists.log_prob_UN.numel())))  # 128 MiB of scores at a time
    return torch.cat([(lists.log_prob_UN + torch.einsum("pk,kun->pun", part, terms_3UN)).argmax(-1) for part in parts])


def word_errors(lists: Lists, chosen_PU: Tensor) -> Tensor:
    """(P,) word errors of the chosen hypotheses."""
    utterances = torch.arange(len(lists.errors_UN))
    return lists.errors_UN[utterances, chosen_PU].sum(1)


def best_setting(settings: Sequence[Weights], errors_P: Tensor) -> int:
    """The setting with the fewest errors; among equals, the one with the smallest weights."""
    weight = [each.external + each.source + abs(each.label_bonus) for each in settings]
    return min(range(len(settings)), key=lambda index: (float(errors_P[index]), weight[index]))
