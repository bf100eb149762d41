"""A field of view smaller than the object: noticed, and shown by two sets of maps where one leaves ghosts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from mrirecon.calibrate import FOLDED, EspiritOptions
from mrirecon.cli import app
from mrirecon.coils.calibration import find_calibration
from mrirecon.coils.espirit import espirit
from mrirecon.data.phantom import phantom
from mrirecon.data.simulate import simulate_kspace
from mrirecon.inference import reconstruct
from mrirecon.io import read, write_kspace
from mrirecon.metrics import mean_score, scores
from mrirecon.operators import Fourier, root_sum_of_squares

MEASURED = ["brain_flash_16ch", "brain_t1_7ch", "phantom_flash_16ch"]


def halved(kspace, axis):
    """Every second line: the field of view is half as wide, and what lies outside folds in."""
    return np.ascontiguousarray(np.take(kspace, range(0, kspace.shape[axis], 2), axis))


def folded(kspace, size=24):
    box = find_calibration(np.ones(kspace.shape[1:], dtype=bool), size)
    region = torch.from_numpy(np.ascontiguousarray(kspace[(slice(None), *box)]))
    return float(espirit(region[None], kspace.shape[1:]).folded()[0])


def combined(kspace):
    return root_sum_of_squares(Fourier().adjoint(torch.from_numpy(kspace)), 0).numpy()


@pytest.mark.parametrize("snr", [3.0, 8.0, 20.0, 100.0])
def test_simulated_fields_of_view(snr):
    """Where noise is taken for signal nothing is said; else a halved field is told from a full one."""
    for coils in (4, 16):
        kspace = simulate_kspace(phantom((96, 88), 1, coils), coils, snr, coils).kspace[0]
        assert folded(kspace) < FOLDED
        if snr >= 20:
            assert folded(halved(kspace, 1)) > FOLDED
        if snr >= 100:
            assert folded(halved(kspace, 2)) > FOLDED


def test_two_coils_cannot_tell():
    kspace = simulate_kspace(phantom((64, 64), 1, 1), 2, 50.0, 1).kspace[0]
    assert folded(halved(kspace, 1)) == 0


@pytest.mark.parametrize("name", MEASURED)
def test_measured_fields_of_view(real_kspace, name):
    kspace = read(real_kspace / f"{name}.npz").kspace(0)
    for size in (16, 24):
        assert folded(kspace, size) < 0.01
        assert min(folded(halved(kspace, 1), size), folded(halved(kspace, 2), size)) > FOLDED


def told(path):
    """What `mrirecon info` prints."""
    done = CliRunner().invoke(app, ["info", str(path)])
    assert done.exit_code == 0, done.output
    return done.output


def test_info_says_nothing_of_a_field_that_is_large_enough(tmp_path):
    made = simulate_kspace(phantom((96, 88), 1, 4), 4, 50.0, 4)
    write_kspace(tmp_path / "k.h5", made.kspace)
    assert "map-sets" not in told(tmp_path / "k.h5")
    write_kspace(tmp_path / "half.h5", halved(made.kspace[0], 1)[None])
    assert "--map-sets 2" in told(tmp_path / "half.h5")


@pytest.mark.parametrize("name", MEASURED[:2])
@pytest.mark.parametrize("axis", [1, 2])
def test_two_sets_beat_one_and_are_advised(real_kspace, tmp_path, name, axis):
    """Measured brains cut to half their field of view, lines 2-fold undersampled: the reference knows of no maps."""
    kspace = halved(read(real_kspace / f"{name}.npz").kspace(0), axis)
    size = kspace.shape[axis]
    line = np.zeros(size, dtype=bool)
    line[::2] = line[size // 2 - 12 : size // 2 + 12] = True
    mask = np.broadcast_to(line[:, None] if axis == 1 else line, kspace.shape[1:])
    write_kspace(tmp_path / "k.h5", kspace[None] * mask, mask=mask)
    assert "--map-sets 2" in told(tmp_path / "k.h5")
    psnr, notes = {}, {}
    for sets in (1, 2):
        found = reconstruct(read(tmp_path / "k.h5"), method="sense", espirit=EspiritOptions(sets=sets))
        psnr[sets] = mean_score(scores(found.images, combined(kspace)[None])).psnr
        notes[sets] = any("--map-sets 2" in note for note in found.notes)
    assert psnr[2] > psnr[1] + 2.5  # dB
    assert notes == {1: True, 2: False}
