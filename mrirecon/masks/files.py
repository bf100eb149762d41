"""Read and write mask files (.npy, .npz, .png, .txt); files are untrusted, so sizes are checked before values."""

from __future__ import annotations

import io
import json
import math
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from mrirecon.coils.calibration import find_calibration
from mrirecon.errors import InputError, MriReconError, UsageError
from mrirecon.masks.registry import register_mask
from mrirecon.masks.result import Bools, MaskResult, achieved_acceleration, readout_note, spread_over

SUFFIXES = (".npy", ".npz", ".png", ".txt")
CHOOSE_SUFFIX = f"choose a name that ends in one of {', '.join(SUFFIXES)}"
LARGEST = 2**28  # samples


@register_mask("file", rank=99, over="file")
def load_mask(
    path: str | Path, shape: tuple[int, ...] | None = None, *, axis: int = -1, readout: int = -1
) -> MaskResult:
    """Read the mask in a file.

    ``.npy`` and ``.npz`` contain an array of zeros and ones (in an npz with several arrays, the array ``mask``);
    ``.png`` a picture in white (sampled) and black; ``.txt`` zeros and ones, one row per line. Additional axes of
    length 1 are removed.

    Args:
        path: mask file.
        shape: (*space) required shape of the mask; None uses the shape in the file.
        axis: undersampled axis, if the file contains lines (one axis).
        readout: fully sampled axis, if the file has two axes and k-space has three.

    Raises:
        InputError: the file is not a mask or does not match the shape.
        UsageError: the suffix is unknown, or the axis does not exist.

    """
    path = Path(path)
    values = _read(path)
    levels = np.unique(values) if values.size else np.zeros(0)
    one = 255 if path.suffix.lower() == ".png" else 1
    if not set(levels.tolist()) <= {0, one}:
        invalid = levels[(levels != 0) & (levels != one)]
        raise InputError(
            f"a mask must contain only 0 and {one}",
            where=str(path),
            why=f"{len(levels)} different values, such as {', '.join(f'{v:g}' for v in invalid[:3])}",
            fix="check that this is the mask, or threshold its values",
        )
    if not values.any():
        raise InputError(
            "the mask has no samples", where=str(path), why=f"all {values.size} values are 0", fix="use another mask"
        )
    mask, axes = _fit(values != 0, shape, axis, readout, str(path))
    notes = ["the mask is fully sampled: its acceleration is 1"] if mask.all() else []
    if note := readout_note(mask.shape, axes):
        notes.append(note)
    return MaskResult(
        mask=mask,
        acceleration=achieved_acceleration(mask),
        calibration=tuple(side.stop - side.start for side in find_calibration(mask)),
        family="file",
        name=path.name,
        axes=axes,
        notes=tuple(notes),
    )


def mask_bytes(result: MaskResult, suffix: str) -> bytes:
    """Encode a mask as the bytes of a file for ``load_mask``.

    Args:
        result: mask; for ``.png`` and ``.txt``, with two axes.
        suffix: ``.npy`` (the array alone), ``.npz`` (``mask`` and ``meta``, its JSON description), ``.png`` (0 and 255,
            and the description as text), ``.txt``.

    Raises:
        UsageError: the suffix is unknown, or does not support the number of axes.

    """
    suffix, buffer = suffix.lower(), io.BytesIO()
    meta = json.dumps(result.as_dict())
    if suffix not in SUFFIXES:
        raise UsageError(f"masks cannot be written as {suffix or 'a file without suffix'}", fix=CHOOSE_SUFFIX)
    if suffix in (".png", ".txt") and result.mask.ndim != 2:
        raise UsageError(
            f"a {suffix} file needs a mask of two axes",
            why=f"the mask has {result.mask.ndim}",
            fix="write .npy or .npz",
        )
    if suffix == ".npy":
        np.save(buffer, result.mask)
    elif suffix == ".npz":
        np.savez_compressed(buffer, mask=result.mask, meta=np.array(meta))
    elif suffix == ".txt":
        np.savetxt(buffer, result.mask.astype(np.uint8), fmt="%d")
    else:
        from PIL import Image, PngImagePlugin

        text = PngImagePlugin.PngInfo()
        text.add_text("mrirecon", meta)
        Image.fromarray(result.mask.astype(np.uint8) * 255).save(buffer, format="PNG", pnginfo=text)
    return buffer.getvalue()


def _read(path: Path) -> np.ndarray:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"{path.name} is not a mask file by its name", where=str(path), fix=CHOOSE_SUFFIX)
    if not path.is_file():
        raise InputError("no such mask file", where=str(path), fix="check the path")
    try:
        if suffix == ".npy":
            with path.open("rb") as file:
                return _array(file, path.stat().st_size, str(path))
        if suffix == ".npz":
            return _read_npz(path)
        if suffix == ".txt":
            return _read_text(path)
        return _read_png(path)
    except (MriReconError, MemoryError):
        raise
    except Exception as error:  # zipfile, zlib, numpy, tokenize and pillow raise errors of many types
        raise InputError(
            f"not a readable {suffix} file",
            where=str(path),
            why=str(error) or type(error).__name__,
            fix="write it again, for example with numpy.save(path, mask)",
        ) from None


def _array(file: IO[bytes], size: int, location: str) -> np.ndarray:
    """Read a .npy stream of ``size`` bytes; its header is checked before memory is allocated."""
    version = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = header(file)
    if any(type(n) is not int or n < 0 for n in shape):
        raise InputError(
            "the header of the file has impossible lengths", where=location, why=f"shape {shape}", fix="write it again"
        )
    if dtype.kind not in "biuf":
        raise InputError(
            "a mask must contain real numbers", where=location, why=f"its type is {dtype}", fix="save 0 and 1"
        )
    _check_size(math.prod(shape), location)
    if size - file.tell() < math.prod(shape) * dtype.itemsize:
        raise InputError("the file is truncated", where=location, why=f"expected shape {shape}", fix="copy it again")
    file.seek(0)
    return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


def _read_npz(path: Path) -> np.ndarray:
    with zipfile.ZipFile(path) as archive:
        members = {Path(m.filename).stem: m for m in archive.infolist() if m.filename.endswith(".npy")}
        if "mask" not in members and len(members) != 1:
            raise InputError(
                "several arrays, none of which is named mask",
                where=str(path),
                why=f"arrays: {', '.join(sorted(members)[:8]) or 'none'}",
                fix="save it as numpy.savez(path, mask=mask)",
            )
        member = members.get("mask") or next(iter(members.values()))
        with archive.open(member) as file:
            return _array(file, member.file_size, f"{path}:{member.filename}")


def _read_text(path: Path) -> np.ndarray:
    if path.stat().st_size > 4 * LARGEST:
        _check_size(path.stat().st_size // 4, str(path))
    rows = [line.replace(",", " ").split() for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row and not row[0].startswith("#")]
    if not rows or len({len(row) for row in rows}) != 1:
        raise InputError(
            "the rows of a mask must have equal lengths", where=str(path), fix="write 0 and 1, with spaces"
        )
    return np.array([[float(word) for word in row] for row in rows])


def _read_png(path: Path) -> np.ndarray:
    from PIL import Image

    try:
        picture = Image.open(path, formats=["PNG"])
    except Image.DecompressionBombError as error:
        raise InputError("the picture is too large", where=str(path), why=str(error), fix="check the file") from None
    with picture:
        _check_size(picture.width * picture.height, str(path))
        levels = np.asarray(picture.convert("I") if picture.mode.startswith("I") else picture.convert("L"))
    # White is 65535 in 16-bit pictures. The caller rejects other grey levels.
    return np.where(levels == 65535, 255, levels) if levels.max(initial=0) == 65535 else levels


def _check_size(samples: int, location: str) -> None:
    if samples > LARGEST:
        raise InputError(
            "the mask is too large", where=location, why=f"{samples} samples, more than {LARGEST}", fix="check the file"
        )


def _fit(
    mask: Bools, shape: tuple[int, ...] | None, axis: int, readout: int, location: str
) -> tuple[Bools, tuple[int, ...]]:
    """Return a mask (*space) and its undersampled axes."""
    if shape is None:
        mask = mask.squeeze() if mask.ndim > 2 else mask
        shape = mask.shape
    if mask.shape != shape:
        mask = mask.squeeze()
    for number, option in ((axis, "axis"), (readout, "readout")):
        if not -len(shape) <= number < len(shape):
            raise UsageError(
                f"axis {number} does not exist", why=f"{option}={number}, shape {shape}", fix="choose another"
            )
    axis, readout = axis % len(shape), readout % len(shape)
    if mask.shape == shape:
        varying = tuple(a for a in range(mask.ndim) if (mask != mask.take([0], axis=a)).any())
        return np.ascontiguousarray(mask), varying
    plane = tuple(a for a in range(len(shape)) if a != readout)
    if mask.ndim == 1 and mask.size == shape[axis]:
        return spread_over(mask, shape, (axis,)), (axis,)
    if mask.ndim == 2 and len(shape) == 3 and mask.shape == tuple(shape[a] for a in plane):
        return spread_over(mask, shape, plane), plane
    others = [a for a, n in enumerate(shape) if mask.ndim == 1 and mask.size == n]
    if others:
        fix = f"set axis={others[0]}, which has this number of lines"
    elif mask.ndim == len(shape) and mask.shape == shape[::-1]:
        fix = "transpose the mask"
    else:
        fix = "use a mask of that shape, or one value per line with the undersampled axis"
    raise InputError(
        "the mask does not match k-space",
        where=location,
        why=f"mask {mask.shape}, k-space {shape}, undersampled axis {axis}",
        fix=fix,
    )
