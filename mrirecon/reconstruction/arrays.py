"""Reconstruct, and estimate coil maps, from NumPy arrays and torch tensors: `mrirecon.reconstruct`, `mrirecon.espirit`.

Arrays are represented as a `Scan`, and then treated as scans from files are. Errors name arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mrirecon.errors import InputError, UsageError, errors_name_arguments, in_terms_of_arguments
from mrirecon.io.drawing import Panel, Shown, slice_panels
from mrirecon.io.readers.arrays import scan_of_arrays
from mrirecon.io.scan import Nan, Scan
from mrirecon.models.checkpoints import TrainedModel
from mrirecon.models.hardware import PrecisionChoice
from mrirecon.reconstruction.adaptation.settings import Adaptation
from mrirecon.reconstruction.calibrate import EspiritOptions, MapSets, calibrate
from mrirecon.reconstruction.plan import Plan, Request
from mrirecon.reconstruction.preprocess.prepare import Preprocess, prepare
from mrirecon.reconstruction.run import Progress, Reconstruction
from mrirecon.reconstruction.run import reconstruct as reconstruct_scan

Array = npt.ArrayLike | Tensor


@dataclass(frozen=True)
class Maps(Shown):
    """Hold estimated coil maps; `numpy.asarray` returns them, and `mrirecon.reconstruct` takes them.

    Attributes:
        maps: (*loops, M, coil, *space) complex64, M = 1 or 2 sets; zero outside the object.
        space: number of spatial axes.
        notes: notes for the user.

    """

    maps: np.ndarray = field(repr=False)
    space: int = 2
    notes: tuple[str, ...] = ()

    def panels(self) -> list[Panel]:
        """Return panels with the magnitude of at most 16 coils of the first set, of the middle item or slice."""
        volumes = self.maps.reshape(-1, *self.maps.shape[-self.space - 2 :])
        maps = volumes[len(volumes) // 2, 0]
        return slice_panels(maps if self.space == 2 else maps[:, maps.shape[1] // 2], name="coil")

    def caption(self) -> list[str]:
        """Return the shape and the notes."""
        return [f"coil maps {'×'.join(map(str, self.maps.shape))}", *self.notes]

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.maps, dtype) if copy else np.asarray(self.maps, dtype)


@errors_name_arguments()
def reconstruct(
    kspace: Scan | Array,
    request: Request | None = None,
    *,
    mask: Array | None = None,
    maps: Array | str = "auto",
    axes: str | None = None,
    nan: Nan = "refuse",
    method: str = "auto",
    options: Mapping[str, object] | None = None,
    lam: float | Literal["auto"] | None = None,
    model: TrainedModel | str | Path | None = None,
    adaptation: Adaptation | None = None,
    strict_model: bool = False,
    map_sets: MapSets = "auto",
    preprocess: Preprocess | None = None,
    device: str = "auto",
    precision: PrecisionChoice = "float32",
    seed: int = 0,
    batch: int = 1,
    plan: Plan | None = None,
    progress: Progress | None = None,
    on_iterates: Callable[[int, np.ndarray], None] | None = None,
    scratch: Sequence[Path] | None = None,
    skip_failed: bool = False,
) -> Reconstruction:
    """Reconstruct k-space: an array, a tensor, or a scan that `mrirecon.read` returned.

    The axes of an array are, in this order:

    - 2 axes: (y, x), one coil
    - 3 axes: (coil, y, x)
    - more axes, or others: as ``axes`` states, such as "slice,coil,y,x", "coil,z,y,x" (a volume), or "slice,y,x" (one
      coil)

    k-space is centred on every axis: ``image = fftshift(ifftn(ifftshift(kspace), norm="ortho"))``.

    Args:
        kspace: complex k-space, or a scan.
        request: all of the user's settings, instead of the arguments from ``method`` to ``batch``.
        mask: sampling mask, 1 where sampled, in the order of the axes without coil: one value per column (x), or one
            per sample, for all items or for each, or (y, x) for a volume. Data outside it are set to zero. None:
            k-space is zero where not sampled. For an array only.
        maps: coil maps of an array, (M, coil, *space) with M = 1 or 2 sets, or (coil, *space), with slices in front; or
            their source: ``auto``, ``espirit``, ``walsh``, ``sigpy``, ``unit``, or ``file`` (those of a scan).
        axes: names of the axes of an array, separated by commas.
        nan: ``zero`` treats samples of an array that are NaN or infinite as not measured; ``refuse`` raises an error.
        method: ``auto``, or a registered method (`mrirecon.list_methods`), such as ``cs`` or ``cirim``.
        options: options of the method, such as ``{"iterations": 50}``.
        lam: regularization weight relative to the scale of the data; None computes it from the mask and the noise.
        model: a trained model or its folder, instead of a method.
        adaptation: adapt the model to this scan first.
        strict_model: refuse data for which the model was not trained, instead of a note.
        map_sets: number of sets of coil maps; ``auto`` takes two if the object exceeds the field of view.
        preprocess: steps before the reconstruction, such as ``Preprocess(coils=8)``. By default, very noisy coils of an
            array are scaled down, and a scan is not changed.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, …
        precision: precision of networks; ``auto`` takes bfloat16 if it is faster.
        seed: seed of random numbers.
        batch: number of items that a network processes at a time.
        plan: decisions of `mrirecon.reconstruction.choose.choose` for this scan; by default they are made here.
        progress: function of (items done, items, current work).
        on_iterates: function of (item, images (step, *space)) that gets every iterate.
        scratch: folders for temporary files, in order of preference.
        skip_failed: skip items that cannot be reconstructed (see `Reconstruction.failed`) instead of an error.

    Returns:
        The image (``result.image``, with the axes of k-space but no coils, complex64) and how it was reconstructed.
        ``result.show()`` shows it; notebooks show it by themselves.

    Raises:
        UsageError: arguments that are not possible; a method, option or device that does not exist.
        ModelMismatchError: with ``strict_model``, data that the model was not trained for.
        InputError: data that cannot be reconstructed; the message names the item.
        ResourceError: not enough disk space or memory.

    """
    source = maps if isinstance(maps, str) else "file"
    settings = Request(
        method=method,
        maps=source,
        espirit=None if map_sets == "auto" else EspiritOptions(sets=map_sets),
        options=options,
        lam=lam,
        model=model,
        adaptation=adaptation,
        strict_model=strict_model,
        device=device,
        precision=precision,
        seed=seed,
        batch=batch,
        preprocess=preprocess or Preprocess(),
    )
    if request is not None and settings != Request():
        raise UsageError("settings are given twice", why="request holds them all", fix="omit request, or the others")
    if isinstance(kspace, Scan):
        scan = kspace if preprocess is None else prepare(kspace, settings.steps)
        for_arrays = {"mask": mask is not None, "axes": axes is not None, "nan": nan != "refuse"}
        for_arrays["maps"] = not isinstance(maps, str)
        if any(for_arrays.values()):
            names = ", ".join(name for name, is_given in for_arrays.items() if is_given)
            raise UsageError(f"{names}: only valid with an array", fix="give it to mrirecon.read, which takes a file")
    else:
        stored = _scan(kspace, mask, None if isinstance(maps, str) else maps, axes, nan)
        scan = prepare(stored, (request or settings).steps)
    result = reconstruct_scan(
        scan,
        request or settings,
        plan=plan,
        progress=progress,
        on_iterates=on_iterates,
        scratch=scratch,
        skip_failed=skip_failed,
    )
    result.notes = [in_terms_of_arguments(note) for note in result.notes]
    return result


@errors_name_arguments()
def espirit(
    kspace: Scan | Array,
    *,
    mask: Array | None = None,
    axes: str | None = None,
    sets: MapSets = "auto",
    size: int = 24,
    kernel: int = 6,
    threshold: float = 0.02,
    crop: float = 0.8,
) -> Maps:
    """Estimate ESPIRiT coil maps (Uecker et al., MRM 71:990, 2014) from the fully sampled centre of k-space.

    Args:
        kspace: complex k-space with the axes of `reconstruct`, or a scan.
        mask: sampling mask of an array; see `reconstruct`.
        axes: names of the axes of an array, separated by commas.
        sets: number of sets of maps; ``auto`` takes two if the object exceeds the field of view.
        size: largest number of samples of the calibration region along each axis.
        kernel: side of the k-space kernel.
        threshold: singular values of the calibration matrix below this fraction of the largest are noise.
        crop: eigenvalue below which a voxel counts as empty.

    Raises:
        CalibrationError: the calibration region is missing or smaller than the kernel.
        InputError, UsageError: see `reconstruct`.

    """
    if isinstance(kspace, Scan):
        if mask is not None or axes is not None:
            raise UsageError("mask and axes are only valid with an array", fix="give them to mrirecon.read")
        scan = kspace
    else:
        scan = _scan(kspace, mask, None, axes, "refuse")
    options = EspiritOptions(sets=sets, size=size, kernel=kernel, threshold=threshold, crop=crop)
    maps = calibrate(scan, options=options)
    notes = tuple(in_terms_of_arguments(note) for note in scan.notes)
    return Maps(maps.reshape(*scan.layout.loop_shape, *maps.shape[1:]), len(scan.space), notes)


def to_numpy(values: Array, name: str) -> np.ndarray:
    """Return an array of numbers from anything that NumPy takes, or from a torch tensor on any device.

    Raises:
        InputError: a ragged list or objects; the message begins with ``name``.
        UsageError: a path or text.

    """
    if isinstance(values, Tensor):
        tensor = values.detach().cpu().resolve_conj().resolve_neg()
        if tensor.dtype in (torch.bfloat16, torch.complex32):  # NumPy has no such types
            tensor = tensor.to(torch.complex64 if tensor.is_complex() else torch.float32)
        return np.asarray(tensor.numpy())
    if isinstance(values, str | Path):
        why = f"{str(values)[:80]!r} is text"
        raise UsageError(f"{name} must be an array", why=why, fix="read the file first, with mrirecon.read(path)")
    try:
        array = np.asarray(values)
    except (ValueError, TypeError) as error:
        raise InputError(f"{name} cannot be read as an array", why=str(error), fix="give a NumPy array") from error
    if array.dtype.kind not in "biufc":
        raise InputError(f"{name} must hold numbers", why=f"its type is {array.dtype}", fix="give a NumPy array")
    return array


def _scan(kspace: Array, mask: Array | None, maps: Array | None, axes: str | None, nan: Nan) -> Scan:
    """Represent arrays or tensors as a scan."""
    return scan_of_arrays(
        to_numpy(kspace, "kspace"),
        mask=None if mask is None else to_numpy(mask, "mask"),
        maps=None if maps is None else to_numpy(maps, "maps"),
        axes=axes,
        nan=nan,
    )
