"""What is done to a scan before its reconstruction, and to its images afterwards."""

from __future__ import annotations

from mrirecon.reconstruction.preprocess.prepare import (
    Compress,
    PartialFourier,
    Prepared,
    Preprocess,
    Whiten,
    finish,
    note_loud,
    prepare,
    prepare_like,
)

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
