"""Steps before a reconstruction, and on its images afterwards.

`prepare`, before it, averages repetitions, whitens noise, removes readout oversampling and compresses coils, in this
order; `finish`, after it, fills in partial Fourier and combines echoes. The functions on arrays that they call take and
return NumPy arrays, coil axis first and spatial axes last, and do not change their arguments.
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
