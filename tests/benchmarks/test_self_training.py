"""What self-training knows of a checkpoint without anybody's picks."""

from __future__ import annotations

import torch

from benchmarks.self_training import read_by
from ppd.encoders.looks import Looks
from ppd.encoders.population import fit_whitening


def test_looks_read_in_more_directions_of_the_same_pictures_read_the_same():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(400, 20, generator=generator) @ torch.randn(20, 20, generator=generator)
    known, own = ((features - center) @ basis for center, basis in (fit_whitening(features, dims) for dims in (6, 11)))
    readings = torch.randn(3, 6, generator=generator)
    names = ("a", "b", "c")
    looks = Looks(names, names, names, torch.linalg.pinv(readings).T, readings, torch.ones(3))
    again = read_by(looks, known, own)
    assert again.dim == 11
    torch.testing.assert_close(own @ again.readings.T, known @ readings.T, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(again.steps @ again.readings.T, torch.eye(3), rtol=1e-3, atol=1e-4)
