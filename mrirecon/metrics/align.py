"""Turn images to lie as their reference, where both files state their position in the patient."""

from __future__ import annotations

import numpy as np

from mrirecon.io.geometry import Grid, from_matrix

_APART = 0.1  # voxels that corresponding voxels may lie apart
_WORDS = {0: "left-right", 1: "up-down"}


def aligned(images: np.ndarray, grid: Grid, reference: Grid) -> tuple[np.ndarray, Grid, list[str]]:
    """Exchange and mirror axes of images so that they lie as the reference, and say how.

    Nothing is interpolated: a different order of storing is undone, and nothing else.

    Args:
        images: (slice, y, x), or volumes (item, z, y, x).
        grid: their position.
        reference: the reference's position.

    Returns:
        The images, their new position, and notes; unchanged where one of the two has no position.

    """
    mine, theirs = grid.matrix, reference.matrix
    if mine is None or theirs is None:
        return images, grid, []
    cosines = _directions(theirs).T @ _directions(mine)  # of each axis (x, y, slice) here with each one there
    target = np.abs(cosines).argmax(0)
    if sorted(target) != [0, 1, 2] or np.abs(cosines).max(0).min() < np.sqrt(0.5):
        return images, grid, []
    mirrored = [bool(cosines[target[a], a] < 0) for a in range(3)]
    matrix = np.empty_like(mine)
    matrix[3], matrix[:3, 3] = (0, 0, 0, 1), mine[:3, 3]
    for axis in range(3):
        length = images.shape[-1 - axis]
        sign = -1 if mirrored[axis] else 1
        matrix[:3, target[axis]] = sign * mine[:3, axis]
        if mirrored[axis]:
            matrix[:3, 3] += (length - 1) * mine[:3, axis]
    # numpy's last axis is x: axis a of the matrix is axis -1 - a of the array.
    lead = images.ndim - 3
    order = [lead + 2 - int(np.flatnonzero(target == 2 - position)[0]) for position in range(3)]
    flipped = np.flip(images, tuple(images.ndim - 1 - a for a in range(3) if mirrored[a]))
    turned = flipped.transpose(*range(lead), *order)
    return np.ascontiguousarray(turned), from_matrix(matrix, grid.thickness), _describe(target, mirrored)


def upright(images: np.ndarray, grid: Grid) -> tuple[np.ndarray, Grid, list[str]]:
    """Turn images within their planes as radiologists look at them; return them, their position, and a note.

    Axial slices have the patient's right on the left and the front on top, coronal ones the right on the left and the
    head on top, sagittal ones the front on the left and the head on top; slices keep their order. Viewers of DICOM
    show images as stored, those of NIfTI turn them.

    Args:
        images: (item, y, x) or (item, z, y, x).
        grid: their position; without one, nothing is turned.

    """
    matrix = grid.matrix
    if matrix is None:
        return images, grid, []
    left, back, head = np.eye(3)
    normal = int(np.abs(np.cross(*_directions(matrix).T[:2])).argmax())
    x, y = ((back, -head), (left, -head), (left, back))[normal]
    wanted = from_matrix(np.column_stack((x, y, _directions(matrix)[:, 2], (0, 0, 0))))
    turned, position, notes = aligned(images, grid, wanted)
    return turned, position, ["turned upright, by its coordinates"] if notes else []


def apart(shape: tuple[int, ...], grid: Grid, reference: Grid) -> list[str]:
    """Say how far voxels of the same index lie apart in the patient; nothing where they agree or a position is missing.

    Args:
        shape: (slice, y, x) of both.
        grid: the images' position.
        reference: the reference's position.

    """
    mine, theirs = grid.matrix, reference.matrix
    if mine is None or theirs is None:
        return []
    corners = np.array([[x, y, z, 1] for x in (0, shape[2] - 1) for y in (0, shape[1] - 1) for z in (0, shape[0] - 1)])
    distance = float(np.linalg.norm(((mine - theirs) @ corners.T)[:3], axis=0).max())
    if distance <= _APART * min(float(s) for s in reference.spacing if s):
        return []
    turn = np.degrees(np.arccos(np.clip((np.trace(_directions(theirs).T @ _directions(mine)) - 1) / 2, -1, 1)))
    how = f", turned by {turn:.1f} degrees" if turn > 0.1 else ""
    return [f"by their coordinates, the two lie up to {distance:.3g} mm apart{how}: they were compared voxel by voxel"]


def _directions(matrix: np.ndarray) -> np.ndarray:
    return np.asarray(matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0))


def _describe(target: np.ndarray, mirrored: list[bool]) -> list[str]:
    words = ["with axes exchanged"] if list(target) != [0, 1, 2] else []
    for axis, flip in enumerate(mirrored):
        if flip:
            there = int(target[axis])
            words.append(f"mirrored {_WORDS[there]}" if there in _WORDS else "with slices in reverse order")
    if not words:
        return []
    return [f"stored {' and '.join(words)}, relative to the reference: turned to lie as it does, by their coordinates"]
