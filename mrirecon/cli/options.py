"""Options that several commands share, as typer types, and what their texts mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from mrirecon.errors import UsageError

if TYPE_CHECKING:
    from mrirecon.reconstruction.preprocess import Preprocess

Dataset = Annotated[str | None, typer.Option(help="Name of the k-space array, where the file leaves it open.")]
Format = Annotated[
    Literal["h5", "npz", "cfl", "nii", "dicom", "png"] | None, typer.Option(help="By default the name tells.")
]
Sets = Annotated[
    Literal["auto", "1", "2"], typer.Option("--map-sets", help="Two where the object exceeds the field of view.")
]

PANEL = "Preprocessing"
_COMBINED = ("average", "echoes")  # typer takes no lists of literals
Combine = Annotated[
    list[str] | None,
    typer.Option(
        help="average: the mean of repetitions and averages; echoes: root sum of squares. Else each is an item.",
        rich_help_panel=PANEL,
    ),
]
Whiten = Annotated[
    Literal["loud", "none", "auto", "noise", "background", "rim"],
    typer.Option(
        help="loud: only coils much louder than others; noise: by the noise scan.",
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
    Literal["svd", "geometric"],
    typer.Option(help="geometric: one matrix for each place along the readout.", rich_help_panel=PANEL),
]
PartialFourier = Annotated[
    Literal["pocs", "homodyne", "zero", "refuse"],
    typer.Option(help="zero: nothing is filled in by symmetry.", rich_help_panel=PANEL),
]


def preprocess(
    combine: list[str] | None,
    whiten: str,
    readout: str | None,
    oversampling: float,
    compress: str | None,
    compress_by: str,
    partial_fourier: str,
) -> Preprocess:
    """Return what the options of preprocessing ask for.

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


def weight(text: str | None) -> Any:
    """Read --lambda: None, "auto", or a number.

    Raises:
        UsageError: something else.

    """
    if text is None or text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--lambda cannot be {text!r}", fix="give a number, such as 0.003, or auto") from None


def pairs(options: list[str] | None) -> dict[str, object]:
    """Read key=value options; values are YAML scalars, and 1e-3 is a number.

    Raises:
        UsageError: no key, no value, or a value that cannot be read.

    """
    import yaml

    values: dict[str, object] = {}
    for text in options or []:
        key, equals, value = text.partition("=")
        if not (key and equals and value):
            raise UsageError(f"--set cannot be {text!r}", fix="write --set key=value, such as --set iterations=50")
        try:
            number = "e" in value.lower() and value[0] in "+-.0123456789"
            values[key] = float(value) if number else yaml.safe_load(value)
        except (ValueError, yaml.YAMLError):
            raise UsageError(f"--set {key} cannot be {value!r}", fix="give a number, true, false or a word") from None
    return values


def map_sets(text: str) -> Any:
    """Read --map-sets."""
    return text if text == "auto" else int(text)
