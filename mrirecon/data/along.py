"""Sample fully sampled Cartesian scans along a trajectory, in retrospect."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from mrirecon.errors import InputError
from mrirecon.io.scan import Scan
from mrirecon.io.writers.write import write_kspace
from mrirecon.physics.fourier import to_image
from mrirecon.physics.nonuniform import NonUniformFourier


def sample_along(images: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the samples of coil images along a trajectory.

    Args:
        images: (C, *space) complex.
        points: (readout, sample, ndim) in 1/FOV.

    Returns:
        (C, readout, sample) complex64.

    """
    fourier = NonUniformFourier(torch.from_numpy(np.ascontiguousarray(points))[None], images.shape[1:])
    samples: np.ndarray = fourier(torch.from_numpy(images.astype(np.complex64))[None])[0].numpy()
    return samples


def write_along(
    scan: Scan,
    path: str | Path,
    points: np.ndarray,
    *,
    keep_reference: bool = False,
    sidecar: Mapping[str, object] | None = None,
) -> list[Path]:
    """Write the samples of a fully sampled Cartesian scan along a trajectory, with the trajectory.

    The samples are interpolated, so noise outside of the field of view is missing.

    Args:
        scan: scan, fully sampled.
        path: output file (.h5 or .npz).
        points: (readout, sample, ndim) in 1/FOV.
        keep_reference: also copy the fully sampled image, if the file holds one.
        sidecar: further content of the sidecar.

    Raises:
        InputError: the scan is undersampled, has a trajectory itself or another number of axes; no reference to copy.

    """
    scan.require_grid("sampling along a trajectory")
    if len(scan.space) != points.shape[-1]:
        raise InputError(
            "the trajectory does not have the axes of the scan",
            where=str(scan.path),
            why=f"its axes are {', '.join(scan.shape)}, and the trajectory has {points.shape[-1]} components",
        )
    reference = scan.reference if keep_reference else None
    if keep_reference and reference is None:
        raise InputError("no reference to copy", where=str(scan.path), fix="omit --keep-reference")
    axes = tuple(range(-len(scan.space), 0))
    samples = []
    for item in range(len(scan)):
        if scan.is_empty(item):
            samples.append(np.zeros((scan.coils, *points.shape[:2]), np.complex64))
            continue
        kspace, mask = scan.samples(item)
        if mask.mean() < 0.9:
            raise InputError(
                "an undersampled scan cannot be sampled along a trajectory",
                where=scan.where(item),
                why=f"{mask.mean():.0%} of its k-space was measured",
            )
        samples.append(sample_along(to_image(kspace, axes), points))
    shape = (*scan.layout.loop_shape, scan.coils, *points.shape[:2])
    return write_samples(
        path,
        np.stack(samples).reshape(shape),
        points,
        scan.space_shape,
        loops=scan.layout.loops,
        reference=reference,
        attributes=scan.attributes,
        sidecar={"input": str(scan.path), "sha256": scan.sha256(), **(sidecar or {})},
        inputs=scan.store.files,
    )


def write_samples(
    path: str | Path,
    samples: np.ndarray,
    points: np.ndarray,
    matrix: tuple[int, ...],
    *,
    loops: tuple[str, ...] = ("slice",),
    **fields: object,
) -> list[Path]:
    """Write samples along a trajectory, so that `mrirecon.io.read` can read them.

    Args:
        path: output file (.h5 or .npz).
        samples: (*loops, coil, readout, sample) complex.
        points: (readout, sample, ndim) in 1/FOV.
        matrix: shape of the images.
        loops: names of the loop axes.
        fields: further arguments of `mrirecon.io.writers.write.write_kspace`.

    """
    beside = {"traj": points.astype(np.float32), "matrix": np.array(matrix)}
    axes = ",".join((*loops, "coil", "readout", "sample"))
    written: list[Path] = write_kspace(path, samples, axes=axes, beside=beside, **fields)  # type: ignore[arg-type]
    return written
