"""Options of what is done to k-space before a reconstruction, and to its images afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from mrirecon.errors import UsageError

if TYPE_CHECKING:
    from mrirecon.reconstruction.preprocess import Preprocess

PANEL = "Preprocessing"
_COMBINED = ("average", "echoes")
Combine = Annotated[
    list[str] | None,
    typer.Option(
        help="average: the mean of repetitions and averages; echoes: root sum of squares. Else each is an item.",
        rich_help_panel=PANEL,
    ),
]
Whiten = Annotated[
    str,
    typer.Option(
        help="loud: only coils much louder than others; auto, noise (scan), background, rim; none.",
        rich_help_panel=PANEL,
    ),
]
Readout = Annotated[
    str | None, typer.Option(help="Name of the readout axis, where it cannot be told.", rich_help_panel=PANEL)
]
Oversampling = Annotated[
    float, typer.Option("--remove-oversampling", help="Of the readout, by this factor.", rich_help_panel=PANEL)
]
Compress = Annotated[
    str | None,
    typer.Option(help="Virtual coils: how many, or the energy to keep, such as 0.95.", rich_help_panel=PANEL),
]
CompressBy = Annotated[
    str, typer.Option(help="svd, or geometric: one matrix for each place along the readout.", rich_help_panel=PANEL)
]
PartialFourier = Annotated[
    str,
    typer.Option(help="pocs, homodyne, zero (nothing is filled in by symmetry), refuse.", rich_help_panel=PANEL),
]


def options(
    combine: list[str] | None,
    whiten: str,
    readout: str | None,
    oversampling: float,
    compress: str | None,
    compress_by: str,
    partial_fourier: str,
) -> Preprocess:
    """Return what the options say.

    Raises:
        UsageError: a value that cannot be meant.

    """
    from mrirecon.reconstruction.preprocess import Preprocess

    wrong = [name for name in combine or [] if name not in _COMBINED]
    if wrong:
        raise UsageError(f"--combine cannot be {wrong[0]!r}", fix=f"choose {' or '.join(_COMBINED)}; both may be given")
    if compress is None and compress_by != "svd":
        raise UsageError("--compress-by says how, but not to how many coils", fix="give --compress 8, or 0.95, too")
    coils, energy = _amount(compress)
    return Preprocess(
        average="average" in (combine or []),
        whiten=cast(Any, whiten),
        readout=readout,
        oversampling=oversampling,
        coils=coils,
        energy=energy,
        compress=cast(Any, compress_by),
        partial_fourier=cast(Any, partial_fourier),
        echoes="echoes" in (combine or []),
    )


def _amount(text: str | None) -> tuple[int | None, float | None]:
    """Read --compress: a whole number is coils, one with a point is a share of the energy."""
    if text is None:
        return None, None
    try:
        return (int(text), None) if text.isdigit() else (None, float(text))
    except ValueError:
        raise UsageError(
            f"--compress cannot be {text!r}", fix="give a number of coils, such as 8, or a share, such as 0.95"
        ) from None
