"""Reorient images to their reference if both files state their position in the patient."""

from __future__ import annotations

import numpy as np

from mrirecon.io.geometry import Grid, from_matrix

_APART = 0.1  # maximum distance of corresponding voxels, in voxels
_DIRECTIONS = {0: "left-right", 1: "up-down"}


def aligned(images: np.ndarray, grid: Grid, reference: Grid) -> tuple[np.ndarray, Grid, list[str]]:
    """Exchange and mirror axes of images to match the orientation of the reference, and describe it.

    Only the storage order is changed; nothing is interpolated.

    Args:
        images: (slice, y, x), or volumes (item, z, y, x).
        grid: position of the images.
        reference: position of the reference.

    Returns:
        The images, their new position, and notes; unchanged if a position is missing.

    """
    affine, reference_affine = grid.matrix, reference.matrix
    if affine is None or reference_affine is None:
        return images, grid, []
    cosines = _directions(reference_affine).T @ _directions(affine)  # cosines between the axes (x, y, slice) of both
    target = np.abs(cosines).argmax(0)
    if sorted(target) != [0, 1, 2] or np.abs(cosines).max(0).min() < np.sqrt(0.5):
        return images, grid, []
    mirrored = [bool(cosines[target[a], a] < 0) for a in range(3)]
    matrix = np.empty_like(affine)
    matrix[3], matrix[:3, 3] = (0, 0, 0, 1), affine[:3, 3]
    for axis in range(3):
        length = images.shape[-1 - axis]
        sign = -1 if mirrored[axis] else 1
        matrix[:3, target[axis]] = sign * affine[:3, axis]
        if mirrored[axis]:
            matrix[:3, 3] += (length - 1) * affine[:3, axis]
    # numpy's last axis is x: axis a of the matrix is axis -1 - a of the array.
    lead = images.ndim - 3
    order = [lead + 2 - int(np.flatnonzero(target == 2 - position)[0]) for position in range(3)]
    flipped = np.flip(images, tuple(images.ndim - 1 - a for a in range(3) if mirrored[a]))
    turned = flipped.transpose(*range(lead), *order)
    return np.ascontiguousarray(turned), from_matrix(matrix, grid.thickness), _describe(target, mirrored)


def upright(images: np.ndarray, grid: Grid) -> tuple[np.ndarray, Grid, list[str]]:
    """Rotate images in-plane to the radiological display convention; return them, their position, and a note.

    In axial slices, the patient's right is on the left and anterior is at the top; in coronal slices, right is on the
    left and the head at the top; in sagittal slices, anterior is on the left and the head at the top. The order of
    slices does not change. DICOM viewers show images as stored; NIfTI viewers reorient them.

    Args:
        images: (item, y, x) or (item, z, y, x).
        grid: position of the images; without it, nothing is changed.

    """
    matrix = grid.matrix
    if matrix is None:
        return images, grid, []
    left, back, head = np.eye(3)
    normal = int(np.abs(np.cross(*_directions(matrix).T[:2])).argmax())
    x, y = ((back, -head), (left, -head), (left, back))[normal]
    wanted = from_matrix(np.column_stack((x, y, _directions(matrix)[:, 2], (0, 0, 0))))
    turned, position, notes = aligned(images, grid, wanted)
    return turned, position, ["reoriented for display, by its coordinates"] if notes else []


def apart(shape: tuple[int, ...], grid: Grid, reference: Grid) -> list[str]:
    """Describe the distance in the patient of voxels with equal index; empty if they agree or it is unknown.

    Args:
        shape: (slice, y, x) of both.
        grid: position of the images.
        reference: position of the reference.

    """
    affine, reference_affine = grid.matrix, reference.matrix
    if affine is None or reference_affine is None:
        return []
    corners = np.array([[x, y, z, 1] for x in (0, shape[2] - 1) for y in (0, shape[1] - 1) for z in (0, shape[0] - 1)])
    distance = float(np.linalg.norm(((affine - reference_affine) @ corners.T)[:3], axis=0).max())
    if distance <= _APART * min(float(s) for s in reference.spacing if s):
        return []
    turn = np.degrees(
        np.arccos(np.clip((np.trace(_directions(reference_affine).T @ _directions(affine)) - 1) / 2, -1, 1))
    )
    rotation = f", rotated by {turn:.1f} degrees" if turn > 0.1 else ""
    return [
        f"by their coordinates, both differ by up to {distance:.3g} mm{rotation}; they were compared voxel by voxel"
    ]


def _directions(matrix: np.ndarray) -> np.ndarray:
    return np.asarray(matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0))


def _describe(target: np.ndarray, mirrored: list[bool]) -> list[str]:
    changes = ["with axes exchanged"] if list(target) != [0, 1, 2] else []
    for axis, flip in enumerate(mirrored):
        if flip:
            direction = int(target[axis])
            changes.append(
                f"mirrored {_DIRECTIONS[direction]}" if direction in _DIRECTIONS else "with slices in reverse order"
            )
    if not changes:
        return []
    return [f"stored {' and '.join(changes)}, relative to the reference: reoriented to match it, by their coordinates"]
