"""Checksums of weights."""

import itertools

import torch

from distributed.base import checksum


def test_checksum_sees_a_single_bit_and_the_order():
    tensor = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    flipped, swapped = tensor.clone(), tensor.clone()
    flipped.view(torch.int32)[500] ^= 1
    swapped[[3, 4]] = swapped[[4, 3]]
    values = [checksum([each]) for each in (tensor, flipped, swapped)]
    assert all(a != b for a, b in itertools.combinations(values, 2))
    assert checksum([tensor]) == checksum([tensor.clone()])
    assert all(0 <= value < 2**61 for value in values)
