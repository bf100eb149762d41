"""Estimate tissue from a magnitude volume: depth below the skin, air, and the magnetic field that they cause.

Air and tissue differ in susceptibility by 9.4 ppm. The magnetized body changes the field B0, mostly near enclosed air;
in a gradient echo, a relative change δ causes a phase of 2π γ B0 TE δ. The change is a convolution with the field of a
dipole, which is a product in k-space: δ(k) = χ(k) (1/3 − (k·b)²/k²), b the direction of B0 (Salomir et al., Concepts
Magn Reson 19B:26, 2003; Marques and Bowtell, Concepts Magn Reson 25B:65, 2005).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage

from mrirecon.data.lesions import lesion_places

Real = npt.NDArray[np.floating[Any]]
Bool = npt.NDArray[np.bool_]

AIR, BONE = 9.4, -2.3  # ppm above soft tissue (Schenck, Med Phys 23:815, 1996)
GYROMAGNETIC = 42.577  # MHz/T, gyromagnetic ratio of protons
FAT = -3.4  # ppm: shift of fat relative to water
DARK = 0.07  # relative to the volume's 99.9th percentile: tissue is brighter; bone, air and some fluid are darker
SINUS = 5  # pixels of the coarse grid: minimum width of a dark region to be air
SHALLOW = 0.6  # relative to half of the shorter side: deeper dark regions are fluid
LARGEST_CHANGE = 12.0  # ppm, of air


class Anatomy:
    """Compute maps of a volume's tissue, each once and on every second pixel of a slice.

    Args:
        slices: (slice, y, x) magnitudes, scaled to a 99.9th percentile of 1.
        spacing: (slice, y, x) voxel spacing.

    """

    def __init__(self, slices: npt.NDArray[np.float16], spacing: tuple[float, float, float]) -> None:
        self.slices, self.spacing = slices, spacing
        self._field: npt.NDArray[np.float16] | None = None
        self._depth: dict[int, npt.NDArray[np.float16]] = {}
        self._places: dict[int, npt.NDArray[np.uint8]] = {}  # one bit per pixel

    def depth(self, index: int) -> npt.NDArray[np.float16]:
        """Return the depth below the skin of every second pixel of a slice, in halves of its shorter side."""
        if index not in self._depth:
            image = self.slices[index][::2, ::2]
            distance = ndimage.distance_transform_edt(np.pad(_body(image), 1))[1:-1, 1:-1]
            self._depth[index] = (distance / (min(self.slices.shape[1:]) / 4)).astype(np.float16)
        return self._depth[index]

    def homogeneous(self, index: int) -> Bool:
        """Return the mask (y, x) of allowed lesion centres in a slice."""
        if index not in self._places:
            self._places[index] = np.packbits(lesion_places(self.slices[index].astype(np.float32)), axis=1)
        return np.unpackbits(self._places[index], axis=1, count=self.slices.shape[2]).view(np.bool_)

    def field(self, index: int, axis: int) -> npt.NDArray[np.float16]:
        """Return the change δ of B0 in ppm at every second pixel (⌈y/2⌉, ⌈x/2⌉) of a slice, after shimming.

        Args:
            index: index of the slice.
            axis: direction of B0: 0 across the slices, as for axial slices, 1 along y, 2 along x.

        """
        if self._field is None:
            chi, body = self._susceptibility()
            spacing = (self.spacing[0], 2 * self.spacing[1], 2 * self.spacing[2])
            # Half precision resolves a thousandth of the range of 3 ppm.
            self._field = np.stack([shimmed(f, body) for f in dipole_fields(chi, spacing)]).astype(np.float16)
        field: npt.NDArray[np.float16] = self._field[axis, index]
        return field

    def _susceptibility(self) -> tuple[Real, Bool]:
        """Return the susceptibility relative to air in ppm (slice, ⌈y/2⌉, ⌈x/2⌉) and the mask of tissue."""
        chi = np.empty((len(self.slices), *self.slices[0, ::2, ::2].shape), np.float32)
        inside = np.empty(chi.shape, bool)
        for index in range(len(self.slices)):
            image = self.slices[index][::2, ::2].astype(np.float32)
            body, depth = _body(image), self.depth(index).astype(np.float32)
            dark = body & (ndimage.uniform_filter(image, 3) < DARK)
            sinus = ndimage.binary_opening(dark, np.ones((SINUS, SINUS))) & (depth < SHALLOW)
            chi[index] = np.where(body, -AIR + np.where(sinus, AIR, np.where(dark, BONE, 0)), 0)
            inside[index] = body & ~dark
        return chi, inside


def _body(image: Real) -> Bool:
    """Return the mask of the body: bright pixels and everything that they enclose."""
    return np.asarray(ndimage.binary_fill_holes(ndimage.binary_closing(np.pad(image > DARK, 3), iterations=2)))[
        3:-3, 3:-3
    ]


def dipole_fields(chi: Real, spacing: tuple[float, float, float]) -> list[Real]:
    """Return the change of B0 in units of ``chi`` (slice, y, x), for B0 along each of ``axes``.

    The first and the last slice are repeated beyond the volume; each slice is surrounded by air.

    Args:
        chi: (slice, y, x), susceptibility relative to the surroundings.
        spacing: (slice, y, x) voxel spacing.

    """
    beyond = max(2, len(chi) // 2)
    sizes = [len(chi) + 2 * beyond, *(n + max(8, n // 8) for n in chi.shape[1:])]
    padded = np.pad(chi.astype(np.float32), ((beyond, beyond), (0, 0), (0, 0)), mode="edge")
    shape = tuple(fft.next_fast_len(n, real=True) for n in sizes)
    spectrum = fft.rfftn(padded, shape)
    powers = [p.astype(np.float32) for p in _squares(shape, spacing)]
    total = powers[0] + powers[1] + powers[2]
    total[0, 0, 0] = 1.0
    fields = []
    for power in powers:
        kernel = np.float32(1 / 3) - power / total
        kernel[0, 0, 0] = 0
        field = fft.irfftn(spectrum * kernel, shape)
        fields.append(field[beyond : beyond + len(chi), : chi.shape[1], : chi.shape[2]])
    return fields


@lru_cache(maxsize=8)
def _squares(shape: tuple[int, ...], spacing: tuple[float, float, float]) -> list[Real]:
    """Return the squares of the spatial frequencies along each axis, on the grid of a real transform."""
    (z, y, x), (dz, dy, dx) = shape, spacing
    frequencies = np.ix_(fft.fftfreq(z, dz), fft.fftfreq(y, dy), fft.rfftfreq(x, dx))
    return [k**2 for k in frequencies]


def shimmed(field: Real, inside: Bool) -> Real:
    """Return the field after shimming: subtract polynomials up to second order, fitted inside the body."""
    z, y, x = np.ix_(*(np.linspace(-1, 1, n, dtype=np.float32) for n in field.shape))
    terms = [np.ones_like(z), z, y, x, z * z, y * y, x * x, z * y, z * x, y * x]
    coarse = (slice(None), slice(None, None, 4), slice(None, None, 4))
    fitted = inside[coarse]
    if np.count_nonzero(fitted) < 4 * len(terms):
        return np.clip(field, -LARGEST_CHANGE, LARGEST_CHANGE)
    matrix = np.stack([np.broadcast_to(t, field.shape)[coarse][fitted] for t in terms], 1).astype(np.float64)
    fit, *_ = np.linalg.lstsq(matrix, field[coarse][fitted].astype(np.float64), rcond=1e-6)
    residual = field.copy()
    for weight, term in zip(fit, terms, strict=True):
        residual -= np.float32(weight) * term
    return np.clip(residual, -LARGEST_CHANGE, LARGEST_CHANGE)
