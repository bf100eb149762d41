"""Define the command `report`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mrirecon.cli import options as opt
from mrirecon.cli.console import fail, print_json, print_line, progress
from mrirecon.errors import PartialFailure, UsageError


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Folders of images of `reconstruct SCANS -o FOLDER`; files; studies."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file to write.")] = Path("report.html"),
    reference: Annotated[
        Path | None, typer.Option("--reference", "-r", help="Folder of references or fully sampled scans; or a file.")
    ] = None,
    scans: Annotated[
        Path | None,
        typer.Option(help="Undersampled scans, for mask and zero filling. By default from the sidecars."),
    ] = None,
    preset: Annotated[str, typer.Option(help="Definition of the scores: {presets}.")] = "mrirecon",
    metrics: Annotated[str, typer.Option(help="Any of {metrics}; the first orders cases.")] = ("ssim,psnr,nmse"),
    mask: Annotated[
        Path | None, typer.Option(help="Pixels to evaluate instead of the object; a file or folder.")
    ] = None,
    region: Annotated[Path | None, typer.Option(help="Lesions: labels or a mask; a file or a folder.")] = None,
    spacing: Annotated[tuple[float, float] | None, typer.Option(help="Pixel spacing along y and x in mm.")] = None,
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "Reconstructions compared",
    limit: Annotated[float, typer.Option(min=1, help="Largest size in MB; above it, slices are left out evenly.")] = 20,
    full_images: Annotated[
        bool, typer.Option("--full-images", help="Show the whole field of view, not only the object.")
    ] = False,
    anonymous: Annotated[
        bool, typer.Option("--anonymous", help="Number the cases, and omit file names and commands.")
    ] = False,
    axes: opt.Axes = None,
    overwrite: opt.Overwrite = False,
    as_json: opt.AsJson = False,
) -> None:
    """Write one HTML file that needs no network: scores, images, and how they were made."""
    opt.require_free(output, overwrite)
    if output.suffix.lower() not in (".html", ".htm"):
        raise UsageError("a report is an HTML file", where=str(output), fix="give a name that ends in .html")
    from mrirecon.evaluation import Options
    from mrirecon.evaluation.report.cases import About
    from mrirecon.evaluation.report.gather import Sources, gather
    from mrirecon.evaluation.report.html import write_report
    from mrirecon.reconstruction.file import versions

    options = Options(preset, opt.words(metrics), mask, region, spacing)  # type: ignore[arg-type]  # the callee checks the names
    contents = gather(Sources(runs, reference, scans, options, axes, anonymous))
    command = None if anonymous else ["mrirecon", *sys.argv[1:]]
    about = About(title, options, command, versions(), notes=contents.notes)
    with progress("report", "case") as callback:
        done = write_report(
            output,
            contents.cases,
            about,
            limit=limit * 1e6,
            full_images=full_images,
            inputs=runs,
            progress=lambda done, name: callback(done, contents.count, name),
        )
    print_line(f"{done.cases} cases, {done.shown} of {done.slices} slices with images, {done.bytes / 1e6:.1f} MB")
    if as_json:
        print_json({**vars(done), "path": str(done.path)})
    else:
        typer.echo(done.path)
    if done.failed:
        error = PartialFailure(
            f"{done.failed} results failed", fix="the report is written, and lists them with the reasons"
        )
        fail(error, as_json)
