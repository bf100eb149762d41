"""Score reconstructed images against a reference, slice by slice: what `mrirecon evaluate` does."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mrirecon.errors import InputError
from mrirecon.inference import sense_reference
from mrirecon.io import atomic_path, read, read_image
from mrirecon.io.identify import sniff
from mrirecon.io.images import IMAGE_NAMES, open_store
from mrirecon.io.values import complex_dtype
from mrirecon.metrics import METRICS, Score, mean_score, scores

COLUMNS = ("item", "slice", *METRICS, "scale", "reason")


@dataclass(frozen=True)
class Evaluation:
    """Scores of every slice, and their mean.

    Attributes:
        prediction: the file scored.
        reference: the file compared with.
        kind: what the reference is, in words.
        shape: of the images, (item, *space).
        slices: one score a slice, items first, then along z.
        mean: over the slices where a metric is defined.
        undefined: of each metric, in how many slices it is not.

    """

    prediction: Path
    reference: Path
    kind: str
    shape: tuple[int, ...]
    slices: list[Score]
    mean: Score
    undefined: dict[str, int]

    def rows(self) -> list[dict[str, object]]:
        """Return one row a slice: item, slice (None where items are 2D), metrics, scale, and why one is undefined."""
        depth = self.shape[1] if len(self.shape) == 4 else None
        return [
            {
                "item": i if depth is None else i // depth,
                "slice": None if depth is None else i % depth,
                **{name: getattr(s, name) for name in (*METRICS, "scale")},
                "reason": "; ".join(dict.fromkeys(s.reasons.values())) or None,
            }
            for i, s in enumerate(self.slices)
        ]

    def as_dict(self) -> dict[str, object]:
        """Return plain data that JSON can hold; what is undefined is null."""
        return {
            "prediction": str(self.prediction),
            "reference": {"file": str(self.reference), "kind": self.kind},
            "shape": list(self.shape),
            "mean": {name: getattr(self.mean, name) for name in METRICS},
            "undefined": self.undefined,
            "slices": self.rows(),
        }

    def write_csv(self, path: str | Path) -> None:
        """Write `rows` as CSV, whole or not at all; what is undefined is left empty.

        Raises:
            UsageError: the path is one of the files compared, or a folder.
            ResourceError: it cannot be written.

        """
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(self.rows())
        with atomic_path(path, inputs=[self.prediction, self.reference]) as temporary:
            temporary.write_text(text.getvalue(), encoding="utf-8", newline="")


def evaluate(
    prediction: str | Path,
    reference: str | Path,
    *,
    dataset: str | None = None,
    reference_dataset: str | None = None,
    axes: str | None = None,
) -> Evaluation:
    """Score the images of a file by the one score of `mrirecon.metrics`.

    Args:
        prediction: images: HDF5 or .npz (`reconstruction`, ...), .npy, a BART pair; see `mrirecon.io.read_image`.
        reference: images likewise, or fully sampled k-space: then the magnitude of the SENSE combination with ESPIRiT
            maps of the full data. A file that holds both is taken as k-space; name a dataset to take its images.
        dataset: name of the images in `prediction`.
        reference_dataset: name of the images in `reference`.
        axes: names of the axes of the reference's k-space, where its file leaves them open.

    Raises:
        InputError: files that cannot be read; images that differ in number or size; an undersampled reference.

    """
    images = read_image(prediction, dataset=dataset)
    truth, kind = reference_images(reference, dataset=reference_dataset, axes=axes)
    return compare(images, truth, prediction=prediction, reference=reference, kind=kind)


def compare(
    images: np.ndarray, truth: np.ndarray, *, prediction: str | Path, reference: str | Path, kind: str
) -> Evaluation:
    """Score images (item, *space) against reference magnitudes of the same shape; the names are for errors and reports.

    Raises:
        InputError: the images differ in number or size.

    """
    _check_shapes(images, truth, prediction, reference)
    found = scores(images, truth)
    undefined = {name: sum(getattr(s, name) is None for s in found) for name in METRICS}
    return Evaluation(Path(prediction), Path(reference), kind, images.shape, found, mean_score(found), undefined)


def reference_images(
    path: str | Path, *, dataset: str | None = None, axes: str | None = None
) -> tuple[np.ndarray, str]:
    """Return reference magnitudes (item, *space), and what they are, in words.

    Images are taken as they are; fully sampled k-space is combined with ESPIRiT maps of the full data; an undersampled
    file must hold a reference of its own.

    Raises:
        InputError, UnsafeContentError: see `mrirecon.io.read`; undersampled k-space without a reference.

    """
    if dataset is not None or (axes is None and holds_images(path)):
        return read_image(path, dataset=dataset), "images"
    scan = read(path, axes=axes)
    if scan.reference is not None and scan.mask(0).mean() < 0.9:
        return scan.reference, "the reference beside its k-space"
    return sense_reference(scan), "SENSE combination of its k-space"


def holds_images(path: str | Path) -> bool:
    """Whether a file holds images and no k-space, as far as names, types and shapes tell.

    Raises:
        InputError, UnsafeContentError: see `mrirecon.io.read`.

    """
    store = open_store(path)
    kind = sniff(Path(path))
    if kind == "cfl":
        # Dimension 3 of a BART array is the coils: k-space of one coil looks like an image, and needs `axes`.
        return next(iter(store.arrays.values()))[0][3] == 1
    if kind == "npy":
        shape, dtype = next(iter(store.arrays.values()))
        return len(shape) < 4 and not complex_dtype(dtype)
    names = {name.lower() for name in store.arrays}
    return "kspace" not in names and "ksp" not in names and any(name in names for name in IMAGE_NAMES)


def _check_shapes(images: np.ndarray, truth: np.ndarray, prediction: str | Path, reference: str | Path) -> None:
    if images.shape == truth.shape:
        return
    fix = "compare images of the same scan, at the same matrix size"
    if len(images) != len(truth):
        what = f"{len(images)} {_plural(len(images))} cannot be compared with {len(truth)}"
    elif images.shape[1:] == truth.shape[:0:-1] and images.ndim == 3:
        what, fix = "the images lie across each other", "transpose one of them"
    else:
        what = "the images differ in size"
        if all(a <= b for a, b in zip(images.shape, truth.shape, strict=False)):
            fix += "; one seems to be cropped"
    raise InputError(
        what,
        where=f"{prediction} and {reference}",
        why=f"shapes {_times(images.shape)} and {_times(truth.shape)} (items first)",
        fix=fix,
    )


def _plural(count: int) -> str:
    return "image" if count == 1 else "images"


def _times(shape: Iterable[int]) -> str:
    return "×".join(map(str, shape))
