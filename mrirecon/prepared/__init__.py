"""A scan as it is to be reconstructed: `prepare` it, reconstruct it, and what it still needs is done on the way out."""

from __future__ import annotations

from mrirecon.prepared.options import Compress, PartialFourier, Preprocess, Whiten
from mrirecon.prepared.prepare import Prepared, finish, note_loud, prepare, prepare_like

__all__ = [
    "Compress",
    "PartialFourier",
    "Prepared",
    "Preprocess",
    "Whiten",
    "finish",
    "note_loud",
    "prepare",
    "prepare_like",
]
