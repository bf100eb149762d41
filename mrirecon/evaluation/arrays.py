"""Score arrays and tensors against a reference, or files: `mrirecon.evaluate`. Errors name arguments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mrirecon.errors import InputError, UsageError, errors_name_arguments
from mrirecon.evaluation.files import evaluate as evaluate_files
from mrirecon.metrics import METRICS, score_metrics
from mrirecon.metrics.evaluation import Evaluation, Options, compare
from mrirecon.metrics.presets import Preset
from mrirecon.reconstruction.arrays import Array, to_numpy


@errors_name_arguments()
def evaluate(
    image: Array | Path,
    reference: Array | Path,
    *,
    metrics: Sequence[str] | None = None,
    preset: Preset = "mrirecon",
    mask: Array | None = None,
    options: Options | None = None,
    dataset: str | None = None,
    reference_dataset: str | None = None,
    axes: str | None = None,
    items: str | None = None,
) -> Evaluation:
    """Score images against a reference: two arrays (or tensors, or results of `mrirecon.reconstruct`), or two files.

    By default, scores are those of pixels inside the object, after one least-squares scale for each slice.

    Args:
        image: (y, x), (slice, y, x), or (item, z, y, x); real or complex, of which the magnitude is used. Or a file.
        reference: the same shape. Or a file, see `mrirecon.evaluation.files.evaluate`.
        metrics: names of registered metrics, such as ``("ssim", "hfen")``; by default SSIM, PSNR and NMSE.
        preset: definition of the metrics: ``mrirecon``, or that of another toolkit (`mrirecon.metrics.presets`). With
            another toolkit's, all slices are one volume.
        mask: the evaluated pixels of arrays, in their shape or as (y, x); for files, see ``options``.
        options: for files, settings of the metrics instead of ``metrics`` and ``preset``.
        dataset: for files, name of the image dataset.
        reference_dataset: for files, name of the image dataset of the reference.
        axes: for files, axis names of the reference's k-space.
        items: for files, items of the reference, such as "3-17".

    Returns:
        The scores: ``evaluation.mean`` holds the mean of each metric, ``evaluation.rows()`` one row per slice.

    Raises:
        UsageError: a metric or preset that does not exist, or arguments that do not fit together.
        InputError: arrays that differ in shape, or hold NaN; a file that cannot be read.

    """
    files = [isinstance(value, str | Path) for value in (image, reference)]
    if any(files) != all(files):
        fix = "read the file first, with mrirecon.io.read_image"
        raise UsageError("an array cannot be compared with a file", fix=fix)
    chosen = options or Options(preset, score_metrics() if metrics is None else tuple(metrics))
    if isinstance(image, str | Path) and isinstance(reference, str | Path):
        if mask is not None:
            raise UsageError("mask is only valid with arrays", fix="give options=Options(mask=Path(...))")
        return evaluate_files(
            image,
            reference,
            options=chosen,
            dataset=dataset,
            reference_dataset=reference_dataset,
            axes=axes,
            items=items,
        )
    names = {"dataset": dataset, "reference_dataset": reference_dataset, "axes": axes, "items": items}
    for name, value in names.items():
        if value is not None:
            raise UsageError(f"{name} is only valid with files", fix=f"omit {name}")
    x, truth = _images(image, "image"), _images(reference, "reference")
    inside = None
    if mask is not None:
        chosen.require_mask_support()
        inside = _mask(to_numpy(mask, "mask"), truth.shape)
    result = compare(
        x,
        truth,
        prediction="image",
        reference="reference",
        kind="array",
        options=chosen,
        inside=inside,
    )
    return replace(result, example=_worst(result, np.abs(x), np.abs(truth)))


def _images(values: Array | Path, name: str) -> np.ndarray:
    """Return images as (item, *space).

    Raises:
        InputError: not two to four axes, an empty array, or NaN or infinite values.

    """
    array = to_numpy(values, name)  # type: ignore[arg-type]  # the caller has excluded files
    if array.ndim not in (2, 3, 4) or not array.size:
        fix = "give (y, x), (slice, y, x) or (item, z, y, x)"
        raise InputError(f"{name} must hold images", why=f"its shape is {array.shape}", fix=fix)
    wrong = array.size - int(np.count_nonzero(np.isfinite(array)))
    if wrong:
        raise InputError(f"{name} holds NaN or infinite values", why=f"{wrong} of {array.size}", fix="compute it again")
    return array[None] if array.ndim == 2 else array


def _mask(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the evaluated pixels in the shape of the images.

    Raises:
        InputError: another shape, or values other than 0 and 1.

    """
    if values.shape not in (shape, shape[1:], shape[-2:]):
        raise InputError("mask does not match the images", why=f"shapes {values.shape} and {shape} (items first)")
    if not np.isin(values, (0, 1)).all():
        raise InputError("mask must hold 0 and 1", fix="threshold it first")
    return np.broadcast_to(values.astype(bool), shape)


def _worst(result: Evaluation, image: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the slice with the worst first metric (the middle slice if none is defined), scaled to its reference."""
    name = result.options.metrics[0]
    sign = 1.0 if METRICS[name].higher else -1.0
    values = [row.get(name) for row in result.slices]
    ranks = [math.inf if value is None else sign * value for value in values]
    number = int(np.argmin(ranks)) if min(ranks) < math.inf else len(ranks) // 2
    x, r = (v.reshape(-1, *v.shape[-2:])[number] for v in (image, truth))
    scale = result.slices[number].get("scale")
    return x if scale is None else x * scale, r
