"""Test the measures of lesions with known contrast, size and sharpness."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from mrirecon.errors import InputError
from mrirecon.metrics.lesions import by_size, detectability, measure_lesions, separate


def brain(contrast=0.4, blur=0.0, radius=6.0, noise=0.0, seed=0, shape=(96, 96)):
    """Return a disc of tissue of value 1 with a blurred round lesion, and the mask of the lesion."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    tissue = (np.hypot(y - shape[0] / 2, x - shape[1] / 2) < 40).astype(float)
    lesion = np.hypot(y - 40, x - 52) < radius
    added = contrast * lesion
    if blur:
        added = ndimage.gaussian_filter(added, blur)
    return tissue + added * tissue + noise * rng.normal(size=shape), lesion.astype(np.uint8)


@pytest.mark.parametrize("contrast", [0.4, -0.3, 0.05])
def test_contrast_is_what_was_inserted(contrast):
    image, mask = brain(contrast)
    (measured,) = measure_lesions(image, image, mask)
    assert measured.contrast == pytest.approx(contrast, rel=1e-9)
    assert measured.recovery == pytest.approx(1)
    assert measured.diameter == pytest.approx(12, rel=0.05)
    assert measured.pixels == mask.sum()
    assert measured.reason is None


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_recovery_is_the_share_of_contrast_that_is_left_at_any_scale(share):
    (image, mask), (reference, _) = brain(0.4 * share), brain(0.4)
    (measured,) = measure_lesions(image * 3.7e-6, reference, mask)
    assert measured.recovery == pytest.approx(share)


def test_contrast_to_noise_has_the_tissue_s_deviation():
    image, mask = brain(0.5, noise=0.05, radius=8)
    (measured,) = measure_lesions(image, image, mask)
    # about 200 pixels of shell: the deviation is known to 5 %
    assert measured.cnr == pytest.approx(0.5 / 0.05, rel=0.15)


def test_sharpness_falls_with_blur_and_not_with_contrast_and_has_units():
    sharp, mask = brain(0.4, 0.5)
    measured = [
        measure_lesions(brain(c, b)[0], sharp, mask, spacing=s)[0].sharpness
        for c, b, s in (
            (0.4, 0.5, (1, 1)),
            (0.4, 1.5, (1, 1)),
            (0.4, 3, (1, 1)),
            (0.8, 1.5, (1, 1)),
            (0.4, 1.5, (2, 2)),
        )
    ]
    assert measured[0] > measured[1] > measured[2] > 0
    assert measured[3] == pytest.approx(measured[1], rel=0.02)
    assert measured[4] == pytest.approx(measured[1] / 2, rel=1e-6)


def test_connected_parts_are_lesions_and_labels_are_kept():
    mask = np.zeros((4, 20, 20), int)
    mask[1, 3:6, 3:6] = mask[2, 5:8, 5:8] = mask[1, 14:17, 14:17] = 1
    assert separate(mask).max() == 2
    assert separate(mask * 1)[1, 3, 3] == separate(mask)[2, 7, 7]
    mask[1, 14:17, 14:17] = 5
    assert set(np.unique(separate(mask))) == {0, 1, 5}


def test_each_lesion_has_its_own_row_and_group():
    image, mask = brain(0.4)
    y, x = np.mgrid[:96, :96]
    small = np.hypot(y - 66, x - 40) < 1.6
    image, labels = image + 0.2 * small, mask + 2 * small.astype(np.uint8)
    big, little = measure_lesions(np.stack([image] * 3), np.stack([image] * 3), np.stack([labels] * 3), spacing=(1, 1))
    assert (big.label, little.label) == (1, 2)
    assert (big.slices, little.slices) == (3, 3)
    assert little.contrast == pytest.approx(0.2)
    rows = by_size([big, little])
    assert [r["lesions"] for r in rows] == [1, 0, 1]
    assert [r["recovery"] for r in rows] == [pytest.approx(1), None, pytest.approx(1)]
    assert rows[-1]["to mm"] is None


def test_what_cannot_be_measured_says_why():
    image, mask = brain()
    tiny = np.zeros_like(mask)
    tiny[40, 52] = 1
    (measured,) = measure_lesions(image, image, tiny)
    assert measured.contrast is None
    assert "4 are needed" in measured.reason
    (measured,) = measure_lesions(image, brain(0.0)[0], mask)
    assert measured.recovery is None
    assert measured.contrast is not None
    assert "no contrast" in measured.reason
    (measured,) = measure_lesions(image, image, np.ones_like(mask))
    assert measured.contrast is None
    assert measure_lesions(image, image, np.zeros_like(mask)) == []
    with pytest.raises(InputError, match="differ in shape"):
        measure_lesions(image, image, mask[:-1])


# pairs


def pairs(count, *, share=1.0, noise=0.1, invented=0.0, seed=0):
    rng = np.random.default_rng(seed)
    out = ([], [], [], [])
    for _ in range(count):
        background = rng.random((24, 24))
        lesion = np.zeros((24, 24))
        lesion[8:14, 9:15] = 0.5
        out[0].append(background + share * lesion + noise * rng.normal(size=lesion.shape))
        out[1].append(background + invented * lesion + noise * rng.normal(size=lesion.shape))
        out[2].append(background + lesion)
        out[3].append(background)
    return out


def test_detectability_in_white_noise_is_the_textbook_s():
    """Check d' = ‖s‖ / σ: 3 for 36 pixels of 0.5 in noise of 1."""
    result = detectability(*pairs(2000, noise=1.0))
    assert result.d_prime == pytest.approx(3, rel=0.06)
    assert result.recovered == pytest.approx(1, abs=0.03)
    # half the height is 1.5 deviations away from both means
    assert result.missed == pytest.approx(0.0668, abs=0.02)
    assert result.hallucinated == pytest.approx(0.0668, abs=0.02)


def test_lesions_that_are_wiped_out_or_invented_are_seen():
    wiped, invented = detectability(*pairs(200, share=0.3)), detectability(*pairs(200, invented=0.9))
    assert (wiped.missed, wiped.hallucinated) == (1, 0)
    assert wiped.recovered == pytest.approx(0.3, abs=0.02)
    assert (invented.missed, invented.hallucinated) == (0, 1)
    assert detectability(*pairs(50, noise=0)).d_prime is None or detectability(*pairs(50, noise=0)).d_prime > 1e6


def test_pairs_must_be_pairs():
    for wrong in (pairs(1), (*pairs(3)[:3], pairs(2)[3])):
        with pytest.raises(InputError):
            detectability(*wrong)
    a, b, c, _ = pairs(3)
    with pytest.raises(InputError, match="no lesion"):
        detectability(a, b, c, c)
