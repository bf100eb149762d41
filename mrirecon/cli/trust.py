"""Define the commands `trust` and `detect`, which measure the reliability of images."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from mrirecon.cli import options as opt
from mrirecon.cli.console import print_json, print_line, progress, table
from mrirecon.errors import UsageError

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
    method: Annotated[str, typer.Option("--method", "-m", help="The method to examine.")] = "cs",
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
    import numpy as np

    from mrirecon.evaluation.trust import examine
    from mrirecon.io.readers.reader import read
    from mrirecon.models.checkpoints import load_model, shipped_models
    from mrirecon.reconstruction.preprocess import Preprocess, prepare

    if output is not None:
        opt.require_free(output, overwrite)
        if output.suffix not in (".png", ".npz"):
            raise UsageError("maps must be .png or .npz", where=str(output))
    if not 0 < held_out_share < 1:
        raise UsageError(f"--held-out-share cannot be {held_out_share:g}", fix="give a number between 0 and 1")
    weights = model or shipped_models().get(method)
    trained = None if weights is None else load_model(weights)
    opened = prepare(read(scan, axes=axes), Preprocess(whiten=cast(Any, whiten)))
    if item >= len(opened):
        raise UsageError(f"there is no item {item}", where=str(scan), why=f"it has {len(opened)}, from 0 on")
    result = examine(
        opened,
        item,
        method=trained.method if trained else method,
        model=trained.model if trained else None,
        replicas=replicas,
        held_out_share=held_out_share,
        seed=seed,
    )
    values = {f.name: getattr(result, f.name) for f in fields(result)}
    numbers = {k: v for k, v in values.items() if not isinstance(v, np.ndarray)}
    maps = {k: v for k, v in values.items() if isinstance(v, np.ndarray)}
    if output is not None:
        _write(output, maps, f"{scan.name}, item {item}, {trained.method if trained else method}")
    if as_json:
        return print_json(numbers | {"method": method, "item": item, "replicas": replicas, "seed": seed})
    typer.echo(table(("", ""), [[_MEANING[k], v] for k, v in numbers.items()]))
    for note in opened.notes:
        print_line(f"note: {note}")
    if result.held_out is None:
        print_line("there are too few samples outside the calibration region to hide some")
    if output is not None:
        typer.echo(output)


def _write(path: Path, maps: dict[str, Any], heading: str) -> None:
    import numpy as np

    from mrirecon.io.safe.atomic import atomic_path
    from mrirecon.io.writers.pictures import Panel, save_panels

    if path.suffix == ".npz":
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **maps)
        return
    # The scale of the g-factor starts at 0, to show values below 1, where regularization reduces noise.
    titles = {"null_space": "not measured", "noise": "noise in the image", "g": "g-factor"}
    panels = [Panel(titles[k], v, colours="heat", note=f"white: {np.quantile(v, 0.998):.3g}") for k, v in maps.items()]
    save_panels(path, panels, columns=len(panels), heading=heading)


def detect(
    volume: Annotated[str, typer.Argument(help="NIfTI, .npz, .npy or .h5 of magnitudes, or phantom:SEED.")],
    method: Annotated[list[str] | None, typer.Option("--method", "-m", help="May be repeated.")] = None,
    model: Models = None,
    name: Annotated[str | None, typer.Option("--volume", help="Name of the array, if there are several.")] = None,
    pairs: Annotated[int, typer.Option(min=2, help="Number of pairs: one for each lesion, with and without it.")] = 200,
    lesions: Annotated[int, typer.Option(min=1, help="Number of lesions in each slice.")] = 4,
    lesion_size: opt.LesionSize = "3-10",
    lesion_contrast: opt.LesionContrast = "0.15-0.6",
    family: Annotated[str, typer.Option(help="Of the masks.")] = "gaussian1d",
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

    setting = Setting(
        pairs,
        lesions,
        opt.numbers(lesion_size, "-", "--lesion-size", float),
        opt.numbers(lesion_contrast, "-", "--lesion-contrast", float),
        family,
        acceleration,
        calibration,
        coils,
        snr,
        seed,
    )
    methods = method or ([] if model else ["zero-filled", "cs", "cirim"])
    models = [load_model(folder) for folder in model or []]
    with progress("detect") as callback:
        results = run(volume, methods, models=models, name=name, setting=setting, progress=callback)
    rows = [{"method": method, **vars(one)} for method, one in results.items()]
    if as_json:
        return print_json({"methods": rows, "setting": setting.__dict__})
    heads = ("method", "pairs", "d'", "contrast recovered", "missed", "false positives")
    typer.echo(table(heads, [list(row.values()) for row in rows]))
