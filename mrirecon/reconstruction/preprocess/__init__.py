"""What is done to a scan before its reconstruction, and to its images afterwards.

`prepare` applies, in this order: repetitions averaged, noise whitened, readout oversampling removed, coils compressed;
`finish`, after the reconstruction: partial Fourier, and echoes combined. The functions on arrays that they call are
pure: they take and return NumPy arrays, k-space and images with the coil axis first and spatial axes last, and leave
what they are given as it is.
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
