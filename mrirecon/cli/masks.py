"""Define the commands `masks make`, `masks show` and `masks apply`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mrirecon.cli import options as opt
from mrirecon.errors import UsageError

if TYPE_CHECKING:
    from mrirecon.masks import MaskResult

app = typer.Typer(name="masks", help="Make, show and apply sampling masks.", no_args_is_help=True)

Rate = Annotated[float | None, typer.Option("--acceleration", "-R", help="Calibration region included.")]
Calibration = Annotated[
    str | None, typer.Option(help="Fully sampled centre: lines (24) or a box (24, 24x16). 0 for none.")
]
Seed = Annotated[int | None, typer.Option(help="Any integer; by default 0.")]
Compat = Annotated[str, typer.Option(help="Draw the mask of another toolkit: {compats}.")]
Axis = Annotated[int, typer.Option(help="The undersampled axis of lines: 0 is the first spatial axis, -1 the last.")]
Readout = Annotated[int, typer.Option(help="The fully sampled axis of a 2D mask in 3D.")]
Fraction = Annotated[float | None, typer.Option("--center-fraction", help="Calibration as a fraction, as in fastMRI.")]
Options = Annotated[list[str] | None, typer.Option("--set", help="Option of the family: key=value.")]
DRAWN = ("acceleration", "calibration", "seed", "compat", "axis", "readout", "center_fraction", "fwhm", "options")
Fwhm = Annotated[float | None, typer.Option(help="Width of the Gaussian families at half maximum, k-space -1 to 1.")]


@app.command(cls=opt.Derived)
def make(
    family: Annotated[str, typer.Argument(help="{families}")],
    output: Annotated[Path, typer.Option("--output", "-o", help="{mask_files}")],
    shape: Annotated[str, typer.Option(help="Spatial size of k-space, such as 320x320.")],
    acceleration: Rate = None,
    calibration: Calibration = None,
    seed: Seed = None,
    name: Annotated[str, typer.Option(help="File name for the random numbers: each file has its own mask.")] = "",
    slice: Annotated[int, typer.Option(help="Slice for the random numbers: each slice has its own mask.")] = 0,
    compat: Compat = "none",
    axis: Axis = -1,
    readout: Readout = -1,
    center_fraction: Fraction = None,
    fwhm: Fwhm = None,
    options: Options = None,
    as_json: Annotated[bool, typer.Option("--json", help="Describe the mask as JSON.")] = False,
) -> None:
    """Draw a mask and write it; the same options always give the same mask."""
    arguments = {key: value for key, value in locals().items() if key in DRAWN}
    from mrirecon.io.safe.atomic import atomic_path
    from mrirecon.masks import make_mask, mask_bytes

    result = make_mask(family, opt.sizes(shape, "--shape"), name=name, slice=slice, **_drawing(arguments))
    content = mask_bytes(result, output.suffix)
    with atomic_path(output) as temporary:
        temporary.write_bytes(content)
    print_mask(result, as_json)


@app.command(cls=opt.Derived)
def show(
    mask: Annotated[Path, typer.Argument(help="Mask file: {mask_files}")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Image to write, .png")],
    as_json: Annotated[bool, typer.Option("--json", help="Describe the mask as JSON.")] = False,
) -> None:
    """Draw a mask with its point spread function, and print its acceleration."""
    from mrirecon.io.safe.atomic import refuse_overwrite
    from mrirecon.io.writers.pictures import save_panels
    from mrirecon.masks import load_mask
    from mrirecon.masks.picture import mask_panels

    if output.suffix.lower() != ".png":
        raise UsageError("the image must be a .png file", why=f"--output is {output}", fix="add .png to its name")
    refuse_overwrite([output], [mask])
    result = load_mask(mask)
    panels, highest = mask_panels(result)
    save_panels(output, panels)
    print_mask(result, as_json, highest_sidelobe=highest)


@app.command(cls=opt.Derived)
def apply(
    kspace: Annotated[Path, typer.Argument(help="k-space file, fully sampled")],
    output: Annotated[Path, typer.Option("--output", "-o", help="{arrays}")],
    mask: Annotated[Path | None, typer.Option(help="Mask file, instead of a --family.")] = None,
    family: Annotated[str | None, typer.Option(help="{families}")] = None,
    axes: Annotated[str | None, typer.Option(help='Axes of the file, if it does not state them: "coil,y,x"')] = None,
    acceleration: Rate = None,
    calibration: Calibration = None,
    seed: Seed = None,
    name: Annotated[
        str | None, typer.Option(help="File name for the random numbers, instead of that of the file.")
    ] = None,
    per_slice: Annotated[bool, typer.Option("--per-slice", help="Draw a different mask for every slice.")] = False,
    compat: Compat = "none",
    axis: Axis = -1,
    readout: Readout = -1,
    center_fraction: Fraction = None,
    fwhm: Fwhm = None,
    options: Options = None,
    keep_reference: Annotated[bool, typer.Option("--keep-reference", help="Copy the file's reference image.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Describe the mask as JSON.")] = False,
) -> None:
    """Undersample a k-space file retrospectively; each file name and seed has its own mask."""
    arguments = {key: value for key, value in locals().items() if key in DRAWN}
    from mrirecon.data.undersample import undersample
    from mrirecon.io.readers.reader import read
    from mrirecon.masks import make_mask
    from mrirecon.masks.registry import describe_families

    if (mask is None) == (family is None):
        raise UsageError("give either --mask FILE or --family NAME", fix=f"families: {describe_families()}")
    if name is None:
        # fastMRI seeds only by the file name; a seed on the command line replaces it.
        name = "" if compat == "fastmri" and seed is not None else kspace.name
    scan, drawing = read(kspace, axes=axes), _drawing(arguments) | {"name": name, "path": mask}
    result = undersample(
        scan,
        output,
        lambda index: make_mask(family or "file", scan.space_shape, slice=index, **drawing),
        per_slice=per_slice,
        keep_reference=keep_reference,
    )
    written = [str(path) for path in result.paths]
    print_mask(result.mask, as_json, notes=result.notes, written=written, kept_acceleration=result.acceleration)


def _drawing(given: dict[str, Any]) -> dict[str, Any]:
    """Convert the options that `make` and `apply` share to arguments of `make_mask`."""
    read = {"calibration": opt.box(given["calibration"]), "seed": given["seed"] or 0}
    return given | read | {"options": opt.pairs(given["options"])}


def print_mask(result: MaskResult, as_json: bool, notes: tuple[str, ...] | None = None, **more: object) -> None:
    """Print a description of a mask, as text or JSON."""
    notes = result.notes if notes is None else notes
    if as_json:
        typer.echo(json.dumps(result.as_dict() | {"notes": list(notes)} | more))
        return
    typer.echo(result.describe())
    for note in notes:
        typer.echo(f"  {note}")
    for key, value in more.items():
        text = f"{value:.4g}" if isinstance(value, float) else ", ".join(value) if isinstance(value, list) else value
        typer.echo(f"  {key.replace('_', ' ')}: {text}")
