"""Test a field of view smaller than the object: detection, and two sets of maps without the ghosts of one set."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from mrirecon.cli import app
from mrirecon.coils.espirit import SECOND_SET_SHARE, noise_power, second_set_share
from mrirecon.coils.noise import noise_deviation
from mrirecon.data.phantom import phantom
from mrirecon.data.simulate import simulate_kspace
from mrirecon.errors import UsageError
from mrirecon.evaluation.trust import examine
from mrirecon.io import read, write_kspace
from mrirecon.metrics import mean_score, scores
from mrirecon.models.checkpoints import load_model, shipped_models
from mrirecon.physics.operators import Fourier, root_sum_of_squares
from mrirecon.reconstruction.calibrate import EspiritOptions, calibrate, item_maps
from mrirecon.reconstruction.file import reconstruct_file
from mrirecon.reconstruction.run import reconstruct

MEASURED = ["brain_flash_16ch", "brain_t1_7ch", "phantom_flash_16ch"]


def halved(kspace, axis):
    """Every second line: the field of view is half as wide, and what lies outside folds in."""
    return np.ascontiguousarray(np.take(kspace, range(0, kspace.shape[axis], 2), axis))


def folded(kspace, box=(24, 24)):
    """The share of the calibration data that a second map explains, with the noise as it is measured."""
    inside = tuple(slice(n // 2 - b // 2, n // 2 - b // 2 + b) for n, b in zip(kspace.shape[1:], box, strict=True))
    region = torch.from_numpy(np.ascontiguousarray(kspace[(slice(None), *inside)]))
    noise = noise_deviation(kspace, np.ones(kspace.shape[1:], bool))
    return float(second_set_share(region[None], noise=torch.from_numpy(noise)[None])[0])


def noisy(kspace, snr):
    """With noise of 1 / snr of the object's mean added to every coil image."""
    image = combined(kspace)
    rng, sigma = np.random.default_rng(0), image[image > 0.2 * image.max()].mean() / snr / 2**0.5
    return (kspace + sigma * (rng.normal(size=kspace.shape) + 1j * rng.normal(size=kspace.shape))).astype(np.complex64)


def combined(kspace):
    return root_sum_of_squares(Fourier().adjoint(torch.from_numpy(kspace)), 0).numpy()


@pytest.mark.parametrize("snr", [3.0, 8.0, 20.0, 100.0])
def test_simulated_fields_of_view(snr):
    """A halved field of view is told from a full one, but where the noise hides it."""
    for coils in (4, 16):
        kspace = simulate_kspace(phantom((96, 88), 1, coils), coils, snr, coils).kspace[0]
        assert folded(kspace) < SECOND_SET_SHARE
        if snr >= 8:
            assert folded(halved(kspace, 1)) > SECOND_SET_SHARE
            assert folded(halved(kspace, 2)) > SECOND_SET_SHARE


def test_two_coils_cannot_tell():
    kspace = simulate_kspace(phantom((64, 64), 1, 1), 2, 50.0, 1).kspace[0]
    assert folded(halved(kspace, 1)) == 0


SNRS, BOXES = [np.inf, 15, 8, 5], [(24, 24), (16, 16), (24, 12), (12, 24)]


@pytest.mark.parametrize("name", MEASURED)
@pytest.mark.parametrize(
    ("snr", "box"),
    # each value of both; every pair is in the slow tests
    [
        pytest.param(snr, box, marks=() if i == j else pytest.mark.slow)
        for i, snr in enumerate(SNRS)
        for j, box in enumerate(BOXES)
    ],
)
def test_measured_fields_of_view(real_kspace, name, snr, box):
    kspace = read(real_kspace / f"{name}.npz").kspace(0)
    assert folded(noisy(kspace, snr), box) < SECOND_SET_SHARE / 2
    if snr >= 15:
        for axis in (1, 2):
            assert folded(noisy(halved(kspace, axis), snr), box) > 5 * SECOND_SET_SHARE


@pytest.mark.parametrize("coils", [2, 8])
@pytest.mark.parametrize("box", [(24, 24), (24, 10), (9, 9, 9)])
def test_the_largest_singular_value_of_noise(coils, box):
    """As the law says, of a matrix whose rows are overlapping patches of independent noise, one coil of it louder."""
    kernel = 6 if len(box) == 2 else 4
    deviation = torch.ones(coils)
    for loud in (1.0, 5.0):
        deviation[0] = loud
        generator = torch.Generator().manual_seed(1)
        parts = [torch.randn(coils, *box, generator=generator) for _ in range(2)]
        patches = torch.complex(*parts) * deviation.reshape(-1, *[1] * len(box)) / 2**0.5
        for axis in range(1, len(box) + 1):
            patches = patches.unfold(axis, kernel, 1)
        matrix = patches.movedim(0, len(box)).reshape(-1, coils * kernel ** len(box))
        largest = float(torch.linalg.matrix_norm(matrix, 2)) ** 2
        assert largest == pytest.approx(noise_power(deviation, box, kernel), rel=0.3)


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
    assert "--map-sets" in told(tmp_path / "half.h5")


def lines(shape, axis, rate, width=24):
    """Every ``rate``-th line along an axis of coil images, and the middle ones."""
    size = shape[axis]
    line = np.zeros(size, dtype=bool)
    line[::rate] = line[size // 2 - width // 2 : size // 2 + width // 2] = True
    return np.broadcast_to(line[:, None] if axis == 1 else line, shape[1:])


def psnr(path, kspace, **options):
    if options.get("method") == "cs":
        options["options"] = {"iterations": 30}  # more sets do not remove the ghosts
    found = reconstruct(read(path), **options)
    return mean_score(scores(found.images, combined(kspace)[None])).psnr, found


@pytest.mark.parametrize(
    ("name", "axis", "rate"),
    [
        (MEASURED[0], 1, 2),
        (MEASURED[1], 2, 4),
        pytest.param(MEASURED[0], 2, 4, marks=pytest.mark.slow),
        pytest.param(MEASURED[1], 1, 2, marks=pytest.mark.slow),
        pytest.param(MEASURED[0], 1, 4, marks=pytest.mark.slow),
        pytest.param(MEASURED[0], 2, 2, marks=pytest.mark.slow),
        pytest.param(MEASURED[1], 1, 4, marks=pytest.mark.slow),
        pytest.param(MEASURED[1], 2, 2, marks=pytest.mark.slow),
    ],
)
def test_two_sets_are_taken_where_the_object_exceeds_the_field_of_view(real_kspace, tmp_path, name, axis, rate):
    """Measured brains cut to half their field of view: the reference knows of no maps."""
    kspace = halved(read(real_kspace / f"{name}.npz").kspace(0), axis)
    mask = lines(kspace.shape, axis, rate)
    write_kspace(tmp_path / "k.h5", kspace[None] * mask, mask=mask)
    assert "--map-sets" in told(tmp_path / "k.h5")
    score = {sets: psnr(tmp_path / "k.h5", kspace, method="cs", espirit=EspiritOptions(sets=sets)) for sets in (1, 2)}
    auto, found = psnr(tmp_path / "k.h5", kspace, method="cs")
    assert found.sets == [2]
    assert any("Two sets are used" in note for note in found.notes)
    assert any("use --maps espirit --map-sets 2" in note for note in score[1][1].notes)
    assert auto > score[2][0] - 0.05
    assert auto > score[1][0] + 2  # dB
    assert score[1][1].sets == [1]


@pytest.mark.parametrize("name", MEASURED[:2])
@pytest.mark.parametrize("rate", [2, 4])
def test_one_set_is_taken_where_the_field_of_view_is_large_enough(real_kspace, tmp_path, name, rate):
    kspace = read(real_kspace / f"{name}.npz").kspace(0)
    mask = lines(kspace.shape, 2, rate)
    write_kspace(tmp_path / "k.h5", kspace[None] * mask, mask=mask)
    one, _ = psnr(tmp_path / "k.h5", kspace, method="cs", espirit=EspiritOptions(sets=1))
    auto, found = psnr(tmp_path / "k.h5", kspace, method="cs")
    assert found.sets == [1]
    assert not any("map-sets" in note for note in found.notes)
    assert auto > one - 0.05


@pytest.mark.parametrize("method", sorted(shipped_models()))
def test_models_trained_with_one_set_work_with_two(real_kspace, tmp_path, method):
    """No worse than compressed sensing with two sets, and far better than themselves with one."""
    kspace = halved(read(real_kspace / "brain_t1_7ch.npz").kspace(0), 2)
    mask = lines(kspace.shape, 2, 4)
    write_kspace(tmp_path / "k.h5", kspace[None] * mask, mask=mask)
    model = load_model(shipped_models()[method])
    cs, _ = psnr(tmp_path / "k.h5", kspace, method="cs")
    one, _ = psnr(tmp_path / "k.h5", kspace, model=model, espirit=EspiritOptions(sets=1))
    auto, found = psnr(tmp_path / "k.h5", kspace, model=model)
    assert found.sets == [2]
    assert auto > cs - 0.1
    assert auto > one + 2


@pytest.fixture
def mixed(tmp_path):
    """Three items, of which the second alone exceeds the field of view; sampled 2-fold."""
    wide = halved(simulate_kspace(phantom((96, 96), 1, 3), 8, 60.0, 3).kspace[0], 2)
    narrow = [simulate_kspace(phantom((96, 48), 1, seed), 8, 60.0, seed).kspace[0] for seed in (3, 5)]
    kspace = np.stack([narrow[0], wide, narrow[1]]).astype(np.complex64)
    mask = lines(kspace.shape[1:], 1, 2)
    write_kspace(tmp_path / "k.h5", kspace * mask, mask=mask)
    return tmp_path / "k.h5"


def test_each_item_has_the_sets_that_it_needs(mixed, tmp_path):
    told = reconstruct_file(mixed, tmp_path / "image.h5", method="cs")
    assert told["maps"]["sets"] == [1, 2, 1]
    assert sum("two sets are used" in note.lower() for note in told["notes"]) == 1
    assert "slice 1" in next(note for note in told["notes"] if "two sets" in note.lower())
    assert calibrate(read(mixed)).shape[:2] == (3, 2)
    assert calibrate(read(mixed), options=EspiritOptions(sets=1)).shape[:2] == (3, 1)


def test_items_of_one_and_of_two_sets_share_a_batch(mixed):
    model = load_model(shipped_models()["cirim"])
    together = reconstruct(read(mixed), model=model, batch=3)
    alone = reconstruct(read(mixed), model=model)
    assert together.sets == [1, 2, 1]
    assert len(together.reasons) == 3
    np.testing.assert_allclose(together.images, alone.images, atol=1e-4 * np.abs(alone.images).max())


def test_sources_that_have_one_set(mixed):
    """They say that the object exceeds the field of view, and refuse to be asked for two."""
    scan = read(mixed)
    for source in ("walsh", "sigpy"):
        with pytest.raises(UsageError, match="one set"):
            item_maps(scan, 1, scan.kspace(1), scan.mask(1), source=source, options=EspiritOptions(sets=2))
    found = item_maps(scan, 1, scan.kspace(1), scan.mask(1), source="walsh")
    assert found.maps.shape[1] == 1
    assert "--maps espirit --map-sets 2" in found.note
    assert reconstruct(read(mixed), method="sigpy-cs", options={"iterations": 2}).sets == [1, 1, 1]


def test_trust_looks_at_both_sets(mixed):
    """What of the samples is not explained is noise; one set of maps leaves more, and a ghost in the null space."""
    found = examine(read(mixed), 1, replicas=4)
    assert found.residual < 3 * found.noise_share
    assert found.noise.shape == found.g.shape == found.null_space.shape == (96, 48)
    assert found.g_median is not None
    assert np.isfinite(found.g).all()


def test_what_map_sets_can_be(mixed, tmp_path):
    done = CliRunner().invoke(app, ["reconstruct", str(mixed), "-o", str(tmp_path / "x.h5"), "--map-sets", "3"])
    assert done.exit_code == 2
    assert "'auto', '1', '2'" in done.output
    done = CliRunner().invoke(app, ["calibrate", str(mixed), "-o", str(tmp_path / "m.h5"), "--map-sets", "2"])
    assert done.exit_code == 0, done.output
