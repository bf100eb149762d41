"""Define the commands `trust` and `detect`, which measure the reliability of images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mrirecon.cli import options as opt
from mrirecon.cli.console import print_json, print_line, progress, table

_MEANING = {
    "residual": "misfit of the acquired samples, relative",
    "noise_share": "  expected from noise",
    "noise_deviation": "noise of a sample, root mean square over coils",
    "noise_low": "  at least",
    "noise_high": "  at most",
    "held_out": "error of hidden samples, relative",
    "held_out_zero_filled": "  of the zero-filled image",
    "null_share": "share of the image energy that is not measured",
    "g_median": "g-factor, median over the object",
    "g_high": "  95th percentile",
}
Models = Annotated[list[Path] | None, typer.Option("--model", help="A trained model; may be repeated.")]


def trust(
    scan: Annotated[Path, typer.Argument(help="Undersampled k-space.")],
    method: Annotated[
        str, typer.Option("--method", "-m", help="The method to examine.", autocompletion=opt.complete("methods"))
    ] = "cs",
    model: Annotated[Path | None, typer.Option(help="A trained model, instead of a method.")] = None,
    item: Annotated[int, typer.Option(min=0, help="Number of the item.")] = 0,
    replicas: Annotated[int, typer.Option(min=2, help="Number of reconstructions with added noise.")] = 64,
    held_out_share: Annotated[
        float, typer.Option(help="Share of the samples outside the calibration region to hide.")
    ] = 0.05,
    seed: Annotated[int, typer.Option(min=0, help="Seed of noise and hidden samples.")] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Maps of noise, g-factor and null space: .png or .npz")
    ] = None,
    axes: opt.Axes = None,
    whiten: opt.Whiten = "loud",
    overwrite: opt.Overwrite = False,
    as_json: opt.AsJson = False,
) -> None:
    """Measure an image without a reference: misfit, noise, hidden samples, null space."""
    from mrirecon.evaluation.trust import examine_file

    named: dict[str, Any] = {"method": method, "model": model, "output": output, "axes": axes, "whiten": whiten}
    draws: dict[str, Any] = {"replicas": replicas, "seed": seed}
    named |= {"overwrite": overwrite, "held_out_share": held_out_share}
    with progress("trust", "replica") as callback:
        result, notes = examine_file(scan, item, **named, **draws, progress=callback)
    numbers = {name: getattr(result, name) for name in _MEANING}
    if as_json:
        return print_json(numbers | {"method": method, "item": item, **draws})
    typer.echo(table(("", ""), [[_MEANING[name], value] for name, value in numbers.items()]))
    for note in notes:
        print_line(f"note: {note}")
    if result.held_out is None:
        print_line("there are too few samples outside the calibration region to hide some")
    if output is not None:
        typer.echo(output)


def detect(
    volume: Annotated[str, typer.Argument(help="NIfTI, .npz, .npy or .h5 of magnitudes, or phantom:SEED.")],
    method: Annotated[
        list[str] | None,
        typer.Option("--method", "-m", help="May be repeated.", autocompletion=opt.complete("methods")),
    ] = None,
    model: Models = None,
    name: Annotated[str | None, typer.Option("--volume", help="Name of the array, if there are several.")] = None,
    pairs: Annotated[int, typer.Option(min=2, help="Number of pairs: one for each lesion, with and without it.")] = 200,
    lesions: Annotated[int, typer.Option(min=1, help="Number of lesions in each slice.")] = 4,
    lesion_size: opt.LesionSize = "3-10",
    lesion_contrast: opt.LesionContrast = "0.15-0.6",
    family: Annotated[str, typer.Option(help="Of the masks.", autocompletion=opt.complete("families"))] = "gaussian1d",
    acceleration: Annotated[float, typer.Option(help="Of the masks.")] = 4.0,
    calibration: Annotated[int, typer.Option(help="Number of central lines or samples.")] = 20,
    coils: Annotated[int, typer.Option(min=1, help="Number of receiver coils.")] = 8,
    snr: Annotated[float, typer.Option(help="Mean signal divided by the noise of an average coil image.")] = 30.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of random numbers.")] = 0,
    as_json: opt.AsJson = False,
) -> None:
    """Insert lesions into a volume, reconstruct it with and without them, and measure their detection."""
    from mrirecon.evaluation.detect import Setting
    from mrirecon.evaluation.detect import detect as run
    from mrirecon.models.checkpoints import load_model

    size = opt.numbers(lesion_size, "-", "--lesion-size", float)
    contrast = opt.numbers(lesion_contrast, "-", "--lesion-contrast", float)
    setting = Setting(pairs, lesions, size, contrast, family, acceleration, calibration, coils, snr, seed)
    methods = method or ([] if model else ["zero-filled", "cs", "cirim"])
    models = [load_model(folder) for folder in model or []]
    with progress("detect", "pair") as callback:
        results = run(volume, methods, models=models, name=name, setting=setting, progress=callback)
    rows = [{"method": method, **vars(one)} for method, one in results.items()]
    if as_json:
        return print_json({"methods": rows, "setting": setting.__dict__})
    heads = ("method", "pairs", "d'", "contrast recovered", "missed", "false positives")
    typer.echo(table(heads, [list(row.values()) for row in rows]))
