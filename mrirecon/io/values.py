"""Checks on the numbers themselves: complex k-space, 0/1 masks, and which samples were acquired."""

from __future__ import annotations

import numpy as np

from mrirecon.errors import InputError, NoSignalError, SignalError
from mrirecon.io.safe.hdf5 import is_numeric

_PAIRS = ({"r", "i"}, {"real", "imag"}, {"re", "im"})
# Beyond these, squares and FFT sums leave the range of single precision.
LARGEST, SMALLEST = 1e30, 1e-30
# A line of which at least this share is not zero was acquired: the zeros in it were measured.
WHOLE_LINE = 0.98


def complex_dtype(dtype: np.dtype) -> bool:
    """Whether a type holds complex numbers, natively or as two fields for the real and imaginary parts."""
    if dtype.fields:
        return {name.lower() for name in dtype.fields} in _PAIRS
    return dtype.kind == "c"


def to_complex64(values: np.ndarray, where: str) -> np.ndarray:
    """Return values as native complex64.

    Any byte order, complex128, and two-field compounds such as (r, i) or (real, imag) of any real type are converted.

    Raises:
        InputError: a real array.
        SignalError: finite values that overflow single precision.

    """
    if not complex_dtype(values.dtype):
        raise real_kspace(values.dtype, values.shape, where)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if values.dtype.fields:
            names = {name.lower()[0]: name for name in values.dtype.fields}
            result = np.empty(values.shape, np.complex64)
            result.real, result.imag = values[names["r"]], values[names["i"]]
            finite = np.isfinite(values[names["r"]]).all() and np.isfinite(values[names["i"]]).all()
        else:
            result = values.astype(np.complex64)
            finite = values.dtype.itemsize > 8 and np.isfinite(values).all()
    if finite and not np.isfinite(result).all():
        raise SignalError(
            "k-space values do not fit in single precision",
            where=where,
            fix="scale the data, for instance to maximum 1",
        )
    return result


def real_kspace(dtype: np.dtype, shape: tuple[int, ...], where: str) -> InputError:
    """Return the error for k-space that is not complex."""
    if dtype.kind not in "iufb":
        fix = "store k-space as complex64"
    elif shape and shape[-1] == 2:
        fix = "its last axis has length 2: if that is (real, imaginary), store a[..., 0] + 1j * a[..., 1]"
    else:
        fix = "store k-space as complex64; a magnitude image is not k-space"
    return InputError("k-space must be complex", where=where, why=f"the array is {dtype} of shape {shape}", fix=fix)


def check_kspace(kspace: np.ndarray, axes: tuple[str, ...], where: str) -> None:
    """Refuse k-space of one item that holds no signal or something that is not a number.

    Args:
        kspace: complex64, one axis per name in `axes`.
        axes: names, for the index in the message.
        where: file, array and item.

    Raises:
        SignalError: NaN or infinity (with the first index), nothing but zeros, or a scale that squares cannot bear.

    """
    check_finite(kspace, axes, where)
    check_scale(largest_part(kspace), where)


def check_finite(kspace: np.ndarray, axes: tuple[str, ...], where: str, start: tuple[int, ...] | None = None) -> None:
    """Refuse a part of k-space, which begins at index `start`, with values that are not numbers.

    Raises:
        SignalError: NaN or infinity, with the first index.

    """
    finite = np.isfinite(kspace)
    if not finite.all():
        first = np.unravel_index(int(np.argmin(finite)), kspace.shape)
        begin = start or (0,) * kspace.ndim
        index = ", ".join(f"{name} {int(i) + s}" for name, i, s in zip(axes, first, begin, strict=True))
        raise SignalError(
            "k-space holds values that are not numbers",
            where=f"{where}, {index}",
            why=f"{int(np.size(finite) - np.count_nonzero(finite))} NaN or infinite of {finite.size} samples",
            fix="export the data again; if few are lost, --nan zero takes them as not measured",
        )


def largest_part(kspace: np.ndarray) -> float:
    """Return the largest magnitude among real and imaginary parts of complex64 values."""
    return float(np.abs(np.ascontiguousarray(kspace).view(np.float32)).max())


def check_scale(peak: float, where: str) -> None:
    """Refuse k-space of which `peak` is the largest value, where there is no signal or its scale is out of range.

    Raises:
        NoSignalError: zero.
        SignalError: beyond what squares can bear in single precision.

    """
    if peak == 0:
        raise NoSignalError("k-space is zero everywhere", where=where, fix="choose another slice or file")
    if not SMALLEST <= peak <= LARGEST:
        raise SignalError(
            "k-space has a scale that single precision cannot work with",
            where=where,
            why=f"its largest value is {peak:.3g}; {SMALLEST:g} to {LARGEST:g} will do",
            fix="scale the data, for instance to maximum 1",
        )


def without_nan(kspace: np.ndarray) -> np.ndarray:
    """Set samples that are NaN or infinite in some coil to zero in every coil, in place.

    A coil that saw zero would contradict the others, which a sample that nobody saw does not.

    Args:
        kspace: (coil, *space) complex.

    Returns:
        (*space) booleans, true where something was lost.

    """
    lost: np.ndarray = ~np.isfinite(kspace).all(axis=0)
    kspace[:, lost] = 0
    return lost


def magnitude_of(values: np.ndarray, where: str) -> np.ndarray:
    """Return the magnitude of real or complex values as float32.

    Raises:
        InputError: values that are not numbers, or not of a numeric type.

    """
    if not is_numeric(values.dtype):
        raise InputError("images must hold numbers", where=where, why=f"the array is {values.dtype}")
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        magnitude: np.ndarray = np.abs(to_complex64(values, where) if complex_dtype(values.dtype) else values)
        magnitude = magnitude.astype(np.float32)
    if not np.isfinite(magnitude).all():
        raise InputError(
            "the images hold values that are not numbers",
            where=where,
            why=f"{magnitude.size - int(np.count_nonzero(np.isfinite(magnitude)))} of {magnitude.size} pixels",
            fix="make them again",
        )
    return magnitude


def real_of(values: np.ndarray, where: str) -> np.ndarray:
    """Return real values as they are, negative ones included, and the magnitude of complex ones, as float32.

    Raises:
        InputError: values that are not numbers, or not of a numeric type.

    """
    found = magnitude_of(values, where)  # it checks them
    return found if complex_dtype(values.dtype) else values.astype(np.float32)


def binary_mask(values: np.ndarray, where: str) -> np.ndarray:
    """Return a sampling mask as booleans.

    Raises:
        InputError: values other than 0 and 1, or nothing sampled.

    """
    if values.dtype.kind not in "biufc" or not values.size:
        raise InputError("a mask must hold 0 and 1", where=where, why=f"{values.dtype} of shape {values.shape}")
    mask = np.asarray(values == 1)
    strange = ~(mask | (values == 0))
    if strange.any():
        found = ", ".join(str(v) for v in values[strange].reshape(-1)[:3])
        raise InputError(
            "a mask must hold 0 and 1",
            where=where,
            why=f"{np.count_nonzero(strange)} of {mask.size} values are neither, such as {found}",
            fix="threshold it, and check that it is the mask",
        )
    if not mask.any():
        raise InputError("the mask samples nothing", where=where, why=f"all {mask.size} values are 0")
    return mask


def support(kspace: np.ndarray) -> np.ndarray:
    """Return where k-space (coil, *space) was acquired: not zero in some coil.

    Integer data hold exact zeros that were measured. Where every line along some axis is either empty or all but
    full, whole lines were acquired and such zeros count as samples.
    """
    some = np.asarray((kspace != 0).any(axis=0))
    for axis in range(some.ndim):
        share = some.mean(axis=axis, keepdims=True)
        if ((share == 0) | (share >= WHOLE_LINE)).all():
            return np.broadcast_to(share > 0, some.shape).copy()
    return some


def reconcile(mask: np.ndarray, acquired: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Combine what a mask says with what the data show.

    A mask that varies along one axis only speaks of lines, and a line counts as acquired when anything in it is:
    exact zeros inside it were measured. fastMRI's masks mark zero-padded columns as sampled; those fall away.

    Args:
        mask: (*space), what the mask marks.
        acquired: (*space), from `support`.

    Returns:
        The samples to use, (*space); the share of the mask that has no data; the share of the data outside the mask.

    """
    varying = [a for a in range(mask.ndim) if (mask != mask.take([0], axis=a)).any()]
    there = acquired
    if len(varying) == 1:
        there = np.any(acquired, axis=tuple(a for a in range(mask.ndim) if a != varying[0]), keepdims=True)
    used = np.asarray(mask & there)
    missing = 1 - int(np.count_nonzero(used)) / max(1, int(np.count_nonzero(mask)))
    extra = int(np.count_nonzero(acquired & ~mask)) / max(1, int(np.count_nonzero(acquired)))
    return used, missing, extra
