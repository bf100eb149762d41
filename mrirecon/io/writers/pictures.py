"""Write labelled side-by-side panels as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mrirecon.errors import MriReconError
from mrirecon.io.drawing import Panel, draw_panels
from mrirecon.io.safe.atomic import atomic_path


def save_panels(
    path: str | Path, panels: Sequence[Panel], columns: int | None = None, heading: str | None = None
) -> None:
    """Write panels as one picture (`mrirecon.io.drawing.draw_panels`); the file appears complete or not at all.

    Args:
        path: output path; an existing file is replaced.
        panels: panels, row by row.
        columns: panels in a row; None puts up to 5 in one row, and more in a nearly square grid.
        heading: one line above all panels.

    Raises:
        InputError: no panels, fewer than 1 column, or an image that cannot be drawn.

    """
    try:
        picture = draw_panels(panels, columns, heading)
    except MriReconError as error:
        error.where = error.where or str(path)
        raise
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG", optimize=True)
