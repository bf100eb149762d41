"""Read a file of any format as a `Scan`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mrirecon.errors import InputError, UsageError
from mrirecon.io.readers.assemble import MAPS_NAMES
from mrirecon.io.readers.cfl import maps_store
from mrirecon.io.readers.images import open_store, pick, read_array
from mrirecon.io.readers.registry import Source, reader_of, sniff
from mrirecon.io.scan import Nan, Scan, Store
from mrirecon.io.select import select
from mrirecon.io.trajectory import TRAJECTORY_NAMES, TrajectoryOptions, correct_delays


def read(
    path: str | Path,
    *,
    axes: str | None = None,
    mask: str | Path | None = None,
    maps: str | Path | None = None,
    dataset: str | None = None,
    nan: Nan = "refuse",
    strict: bool = False,
    items: str | None = None,
    trajectory: TrajectoryOptions | None = None,
) -> Scan:
    """Read a scan of any format, recognised by its content; see `Scan.format`. The file is never modified.

    This function reads and checks only headers (and the noise scan, if there is one). The scan reads and checks the
    values, one item at a time.

    Args:
        path: the file; for a BART pair, either file or their common name.
        axes: names of the stored axes in order, such as "slice,coil,y,x"; needed if the file does not state them.
        mask: a file with a sampling mask (.npy, .npz or HDF5 `mask`, .cfl): one value per column, or one per sample.
            It overrides a mask in the file, and undersamples fully sampled data.
        maps: a file with coil maps: `maps` in HDF5 or .npz as (slice, M, coil, y, x), .npy, or BART's (`ecalib`).
        dataset: name of the k-space array with its groups ("acq/kspace"), if it is not `kspace` or the only complex
            array; for ISMRMRD, name of the group that holds `xml` and `data`.
        nan: ``zero`` treats samples that are NaN or infinite as not measured; ``refuse`` raises an error.
        strict: refuse data that otherwise only cause a note: chunks that were never written, a mask that
            contradicts the data.
        items: items to read, such as "3-17" (see `mrirecon.io.select.parse_items`); None for all.
        trajectory: what the user states about a trajectory, such as its file; by default the file states it.

    Raises:
        InputError: missing, damaged, ambiguous or unsuitable files; the message suggests `--axes` if it helps.
        UnsafeContentError: a file that refers to other files.
        UsageError: axes that do not fit the array.

    """
    with Source(Path(path), dataset, axes) as source:
        reader = reader_of(source)
        if mask is not None:
            source.mask = (read_array(mask, ("mask",)), str(mask))
        if maps is not None:
            store: Store = maps_store(Path(maps)) if sniff(maps) == "cfl" else open_store(maps)
            source.maps = (store, pick(store, MAPS_NAMES))
        if trajectory is not None:
            source.trajectory = trajectory
            if trajectory.file is not None:
                source.points = (read_points(trajectory.file), str(trajectory.file))
        stated = {name: text for name, text in (("axes", axes), ("dataset", dataset)) if text is not None}
        for name in stated:
            if name not in reader.options:
                why = "such files state it themselves, or do not need it"
                raise UsageError(f"{reader.name} files take no --{name}", where=str(path), why=why, fix="leave it out")
        scan: Scan = reader.build(source, **stated)
    scan.nan, scan.strict = nan, strict
    if source.trajectory.delays != "none":
        scan = correct_delays(scan)
    if strict and scan.warnings:
        scan.warn_or_refuse(scan.warnings[0], str(path))
    return scan if items is None else select(scan, items)


def read_points(path: Path) -> np.ndarray:
    """Read a trajectory as stored: `traj` in .npz or HDF5, .npy, or a BART array with the components first.

    Raises:
        InputError, UnsafeContentError: see `read`; complex coordinates.

    """
    store = open_store(path)
    values = store.read(pick(store, TRAJECTORY_NAMES))
    if np.iscomplexobj(values):
        if np.abs(values.imag).max(initial=0) > 0:
            raise InputError("coordinates of a trajectory must be real", where=str(path))
        values = values.real
    return values
