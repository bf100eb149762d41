"""`read(path)`: any file that can be read, as a `Scan`."""

from __future__ import annotations

from pathlib import Path

from mrirecon.io.readers.assemble import MAPS_NAMES, Given, MapsSource
from mrirecon.io.readers.cfl import maps_store
from mrirecon.io.readers.images import open_store, pick, read_array
from mrirecon.io.readers.registry import call, reader_of, sniff
from mrirecon.io.scan import Nan, Scan, Store
from mrirecon.io.select import select


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
) -> Scan:
    """Read a scan, of whatever format, told by its content; see `Scan.format`. The file is never modified.

    Only what the headers say is read and checked here (and the noise scan, where there is one); values are read, and
    checked, one item at a time by the scan.

    Args:
        path: the file; of a BART pair, either file or their common name.
        axes: names of the stored axes in order, such as "slice,coil,y,x"; needed where the file leaves them open.
        mask: a file with a sampling mask (.npy, .npz or HDF5 `mask`, .cfl): one value per column, or one per sample.
            It overrides a mask in the file, and undersamples fully sampled data.
        maps: a file with coil maps: `maps` in HDF5 or .npz as (slice, M, coil, y, x), .npy, or BART's (`ecalib`).
        dataset: name of the k-space array, where it is not `kspace` or the only complex one, with its groups
            ("acq/kspace"); of ISMRMRD, of the group that holds `xml` and `data`.
        nan: ``zero`` takes samples that are NaN or infinite as not measured, where ``refuse`` raises.
        strict: refuse what is otherwise noted and worked around: chunks that were never written, a mask that
            contradicts the data.
        items: which of them, such as "3-17" (see `mrirecon.io.select.parse_items`); None for all.

    Raises:
        InputError: missing, damaged, ambiguous or unfit files; `--axes` is asked for where it helps.
        UnsafeContentError: a file that reaches outside itself.
        UsageError: axes that do not fit the array.

    """
    scan = _read(Path(path), axes=axes, mask=mask, maps=maps, dataset=dataset)
    scan.nan, scan.strict = nan, strict
    if strict and scan.warnings:
        scan.warn_or_refuse(scan.warnings[0], str(path))
    return scan if items is None else select(scan, items)


def _read(
    path: Path, *, axes: str | None, mask: str | Path | None, maps: str | Path | None, dataset: str | None
) -> Scan:
    reader = reader_of(path, dataset, axes)
    given: Given = None if mask is None else (read_array(mask, ("mask",)), str(mask))
    source: MapsSource = None
    if maps is not None:
        store: Store = maps_store(Path(maps)) if sniff(maps) == "cfl" else open_store(maps)
        source = (store, pick(store, MAPS_NAMES))
    scan: Scan = call(reader, path, {"axes": axes, "dataset": dataset, "mask": given, "maps": source})
    return scan
