"""Sampling masks: seeded, of the exact size asked, with the achieved acceleration always stated (numpy only)."""

from mrirecon.masks.fastmri import fastmri_lines
from mrirecon.masks.files import load_mask, mask_bytes
from mrirecon.masks.make import COMPATS, FAMILIES, make_mask
from mrirecon.masks.psf import point_spread
from mrirecon.masks.result import MaskResult, achieved_acceleration, seed_from

__all__ = [
    "COMPATS",
    "FAMILIES",
    "MaskResult",
    "achieved_acceleration",
    "fastmri_lines",
    "load_mask",
    "make_mask",
    "mask_bytes",
    "point_spread",
    "seed_from",
]
