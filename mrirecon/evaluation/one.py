"""Score the images of one file against their reference, slice by slice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mrirecon.io.readers.images import read_placed_image
from mrirecon.io.select import select_images
from mrirecon.metrics.align import aligned, apart
from mrirecon.metrics.evaluation import Evaluation, Options, compare
from mrirecon.metrics.presets import SIGNED
from mrirecon.reconstruction.reference import placed_reference


def evaluate(
    prediction: str | Path,
    reference: str | Path,
    *,
    options: Options | None = None,
    dataset: str | None = None,
    reference_dataset: str | None = None,
    axes: str | None = None,
    items: str | None = None,
) -> Evaluation:
    """Score the images of a file.

    Args:
        prediction: images: HDF5 or .npz (`reconstruction`, ...), .npy, NIfTI, a DICOM folder, a BART pair: see
            `read_image`. Where both files say how they lie, they are turned to lie as the reference does.
        reference: images likewise, or fully sampled k-space: then the magnitude of the SENSE combination with ESPIRiT
            maps of the full data. A file that holds both is taken as k-space; name a dataset to take its images. The
            preset ``fastmri`` takes the target of a fastMRI file.
        options: what is measured; the one score of `mrirecon.metrics` if left out.
        dataset: name of the images in `prediction`.
        reference_dataset: name of the images in `reference`.
        axes: names of the axes of the reference's k-space, where its file leaves them open.
        items: which of the reference's, such as "3-17"; of as many images, all are taken, else those of these numbers.

    Raises:
        InputError: files that cannot be read; images that differ in number or size; an undersampled reference.

    """
    options = options or Options()
    images, grid = read_placed_image(prediction, dataset=dataset, signed=options.preset in SIGNED)
    truth, kind, place = placed_reference(
        reference, dataset=reference_dataset, axes=axes, preset=options.preset, items=items
    )
    if len(images) != len(truth):
        images, grid = select_images(images, grid, items, prediction)
    images, grid, notes = aligned(images, grid, place)
    placed = False
    if images.shape == truth.shape:
        away = apart(images.shape[-3:], grid, place)
        placed, notes = grid.affine is not None and place.affine is not None and not away, notes + away
    _, y, x = place.spacing
    if options.spacing is None and y and x:
        options = replace(options, spacing=(y, x))
    found = compare(
        images, truth, prediction=prediction, reference=reference, kind=kind, options=options, placed=placed
    )
    found.notes[:0] = notes
    return found
