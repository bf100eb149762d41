"""Where the images of many files go, looked at before the first is made: no two may go to one place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mrirecon.errors import MriReconError, UsageError
from mrirecon.io import read
from mrirecon.io.bids import bids_path
from mrirecon.registry import methods
from mrirecon.request import Request, output_path


def refuse_same_targets(sources: Sequence[Path], output: Path, request: Request) -> None:
    """Refuse files whose images would replace each other, as their names are made fit for outputs.

    A name loses its folders, what follows its first dot, and characters that not every system takes; a label of BIDS
    holds letters and digits alone. So different files can lead to one name.

    Args:
        sources: the files.
        output: folder.
        request: how; with ``bids``, headers are read where names alone do not tell two files apart.

    Raises:
        UsageError: two files with the place that both would take.

    """
    places: dict[Path, list[Path]] = {}
    for source in sources:
        place = _place(source, output, request)
        if place is not None:
            places.setdefault(place, []).append(source)
    for place, several in places.items():
        if len(several) > 1 and request.bids is not None:
            _refuse_same_contrast(several, place, request)
        elif len(several) > 1:
            raise _same(several[0], several[1], place)


def _place(source: Path, output: Path, request: Request) -> Path | None:
    """Return where images go, as far as the name of the source alone tells: equal for all that could be equal."""
    if request.bids is not None:
        try:
            return bids_path(request.bids, source, request.method, contrast=request.contrast or "T1w")
        except UsageError:  # it fails by itself, with this very error
            return None
    # The longest ending leaves the least room, so that names that are cut are found as well.
    known = [request.method] if request.method != "auto" else sorted(methods())
    return output_path(source, output, max(known, key=len), request.format)


def _refuse_same_contrast(several: Sequence[Path], place: Path, request: Request) -> None:
    """Refuse files with the same labels, unless their headers state different contrasts."""
    root = request.bids or ""
    taken: dict[Path, Path] = {}
    unread: Path | None = None
    for source in several:
        try:
            target = bids_path(root, source, request.method, contrast=request.contrast)
        except UsageError:
            try:
                attributes = read(source, axes=request.axes, dataset=request.dataset).attributes
                target = bids_path(root, source, request.method, attributes=attributes)
            except UsageError:  # no contrast is stated: nothing is written of it
                continue
            except MriReconError:  # it may be readable by the time that its turn comes
                unread, target = source, place
        if target in taken or (unread is not None and taken):
            raise _same(taken.get(target) or next(iter(taken.values())), source, target)
        taken[target] = source


def _same(first: Path, second: Path, place: Path) -> UsageError:
    names = [p.name.split(".")[0] for p in (first, second)]
    what = f"two of the files are called {names[0]!r}" if names[0] == names[1] else "two of the files have one output"
    return UsageError(
        what,
        where=None if names[0] == names[1] else str(place),
        why=f"{first} and {second}",
        fix="use different output folders, or rename one",
    )
