"""Draw and read sampling masks: seeded, with an exact number of samples and the achieved acceleration (numpy only)."""

from mrirecon.masks.compat import fastmri_lines
from mrirecon.masks.files import load_mask, mask_bytes
from mrirecon.masks.make import make_mask
from mrirecon.masks.psf import point_spread
from mrirecon.masks.registry import FAMILIES, Family, register_mask
from mrirecon.masks.result import MaskResult, achieved_acceleration, seed_from

__all__ = [
    "FAMILIES",
    "Family",
    "MaskResult",
    "achieved_acceleration",
    "fastmri_lines",
    "load_mask",
    "make_mask",
    "mask_bytes",
    "point_spread",
    "register_mask",
    "seed_from",
]
