"""Test known noise: it replaces the measurement and follows all changes of the problem."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from mrirecon.coils.noise import measure_noise
from mrirecon.data.batch import part_of
from mrirecon.data.samples import SampleFactory
from mrirecon.data.settings import Data, MaskFamily, Simulation
from mrirecon.data.sources import open_sources
from mrirecon.methods.regularization import weight_by_noise
from mrirecon.physics.transforms import Scale


def batch():
    masks = [MaskFamily(family="random", acceleration=[3.0], calibration=[20])]
    simulation = Simulation(coils=[6, 6], snr=[5.0, 14.0])
    data = Data(train=["phantom:0"], val=["phantom:9"], masks=masks, crop=[96, 96], simulation=simulation)
    return SampleFactory(open_sources(data).train, data, 3, 2).make([(0, 0, 0), (0, 1, 3)])


def test_a_simulated_sample_knows_its_noise(monkeypatch):
    p = batch().problem
    measured = weight_by_noise("cs", replace(p, noise=None))
    for item in range(2):
        found = measure_noise(p.y[item].numpy(), p.mask[item, 0].numpy() > 0).covariance
        true = p.noise[item].numpy()
        assert np.trace(found).real / np.trace(true).real < 1.3
        assert np.trace(found).real / np.trace(true).real > 0.7
    monkeypatch.setattr("mrirecon.methods.regularization.noise_of_samples", lambda *_: 1 / 0)
    known = weight_by_noise("cs", p)
    assert torch.allclose(known, measured, rtol=0.3)
    assert known[0] != known[1]
    # λ and the noise are relative to the scale
    assert torch.allclose(weight_by_noise("cs", Scale(torch.tensor([3.0, 1e-4])).apply(p)), known, rtol=1e-4)
    assert torch.equal(weight_by_noise("cs", p.to("cpu")), known)


def test_a_part_of_a_batch_has_its_own():
    whole = batch()
    part = part_of(whole, slice(1, 2)).problem
    assert torch.equal(part.noise, whole.problem.noise[1:])
