"""Preprocess scans before a reconstruction, and postprocess its images.

`prepare` averages repetitions, whitens noise, removes readout oversampling and compresses coils, in this order, before
the reconstruction. `finish` fills in partial Fourier and combines echoes after it. Functions on arrays take and return
NumPy arrays, coil axis first and spatial axes last, and do not change their arguments.
"""

from __future__ import annotations

from mrirecon.reconstruction.preprocess.prepare import (
    Combine,
    Compress,
    PartialFourier,
    Prepared,
    Preprocess,
    Whiten,
    finish,
    note_loud_coils,
    prepare,
    prepare_like,
)

__all__ = [
    "Combine",
    "Compress",
    "PartialFourier",
    "Prepared",
    "Preprocess",
    "Whiten",
    "finish",
    "note_loud_coils",
    "prepare",
    "prepare_like",
]
