"""Fingerprints of content: the same for the same content, and other ones for all others."""

import copy

import torch
from torch import nn

from asr.runs.fingerprint import fingerprint, weights_fingerprint


def test_a_fingerprint_is_one_of_all_that_was_read() -> None:
    values = torch.arange(6.0)
    same = {fingerprint("a", [values]), fingerprint("a", [values.clone()]), fingerprint("a", [torch.arange(12.0)[:6]])}
    assert same == {fingerprint("a", [values])}
    others = [
        fingerprint("b", [values]),
        fingerprint("a", []),
        fingerprint("a", [values.view(2, 3)]),
        fingerprint("a", [values.double()]),
        fingerprint("a", [values[:3], values[3:]]),
        fingerprint("a", [values + torch.tensor([0, 0, 0, 0, 0, 1e-6])]),
        fingerprint("a", [torch.zeros(0), torch.tensor(1.0)]),
    ]
    assert len({*same, *others}) == 1 + len(others)
    assert all(0 <= each < 2**60 for each in others)


def test_a_fingerprint_of_weights_is_theirs_wherever_they_came_from() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    same = copy.deepcopy(model).eval().requires_grad_(False)
    assert weights_fingerprint(same) == weights_fingerprint(model)
    renamed = nn.ModuleDict({"a": model[0], "b": model[1]})
    trained, seen = copy.deepcopy(model), copy.deepcopy(model)
    with torch.no_grad():
        trained[0].bias[1] += 1e-6
    seen[1](torch.ones(4, 2))  # a buffer
    assert len({weights_fingerprint(each) for each in (model, renamed, trained, seen)}) == 4
