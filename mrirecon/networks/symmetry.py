"""Average a network's output over symmetries of images: complex conjugation and mirroring.

The conjugate or mirrored image of a scan is as plausible as the image itself. A network that learned from a limited
number of images treats them slightly differently, and the mean over them has a smaller error ("self-ensemble" of Lim et
al., Proc. CVPR Workshops 2017, 1132).
"""

from __future__ import annotations

import torch
from torch import Tensor

# (whether to conjugate, mirrored axes)
_SYMMETRIES: tuple[tuple[bool, tuple[int, ...]], ...] = (
    (False, ()),
    (True, ()),
    (False, (-2, -1)),
    (True, (-2, -1)),
    (False, (-1,)),
    (True, (-1,)),
    (False, (-2,)),
    (True, (-2,)),
)


def symmetric_copies(x: Tensor, count: int) -> Tensor:
    """Stack the first ``count`` symmetric copies of x along the batch: (N, C, y, x) ↦ (count·N, C, y, x).

    Args:
        x: real and imaginary channels in turn, as of `mrirecon.networks.to_real`.
        count: 1 to 8.

    """
    if count == 1:
        return x
    copies = torch.cat([_transformed(x, *symmetry) for symmetry in _SYMMETRIES[:count]])
    return copies.contiguous(memory_format=torch.channels_last)


def symmetric_mean(copies: Tensor, count: int) -> Tensor:
    """Undo the symmetries of stacked copies, and return their mean: (count·N, C, y, x) ↦ (N, C, y, x)."""
    if count == 1:
        return copies
    images = zip(copies.chunk(count), _SYMMETRIES, strict=False)
    return torch.stack([_transformed(image, *symmetry) for image, symmetry in images]).mean(0)


def _transformed(x: Tensor, conjugate: bool, axes: tuple[int, ...]) -> Tensor:
    """Conjugate and mirror images; every symmetry is its own inverse."""
    if axes:
        x = x.flip(axes)
    if conjugate:
        signs = x.new_ones(x.shape[1], 1, 1)
        signs[1::2] = -1
        x = x * signs
    return x
