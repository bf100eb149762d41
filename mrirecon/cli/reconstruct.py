"""Verbs that work on files: reconstruct, calibrate, convert."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mrirecon.cli import options as opt
from mrirecon.cli.console import Settings, complain, emit, progress, say
from mrirecon.cli.inspect import AsJson, Axes, Device, Items, Overwrite, free
from mrirecon.errors import MriReconError, PartialFailure, UsageError

if TYPE_CHECKING:
    from mrirecon.reconstruction.batch import Outcome


def reconstruct(
    files: Annotated[list[Path], typer.Argument(help="k-space files, folders of them, or quoted patterns.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File, or folder for NAME_METHOD.h5; here if left out.")
    ] = Path(),
    method: Annotated[str, typer.Option("--method", "-m", help="auto, or one that `mrirecon methods` lists.")] = "auto",
    maps: Annotated[str, typer.Option(help="{calibrations}, or a file with coil maps.")] = "auto",
    map_sets: opt.Sets = "auto",
    combine: opt.Combine = None,
    whiten: opt.Whiten = "loud",
    readout: opt.Readout = None,
    oversampling: opt.Oversampling = 1.0,
    compress: opt.Compress = None,
    compress_by: opt.CompressBy = "svd",
    partial_fourier: opt.PartialFourier = "zero",
    mask: Annotated[Path | None, typer.Option(help="Mask file; undersamples fully sampled data.")] = None,
    model: Annotated[Path | None, typer.Option(help="Folder of a trained model, in place of a method.")] = None,
    strict_model: Annotated[
        bool, typer.Option("--strict-model", help="Refuse data that the model was not trained for.")
    ] = False,
    lam: Annotated[
        str | None, typer.Option("--lambda", help="Regularization: a number; auto, the default: by the noise.")
    ] = None,
    options: Annotated[list[str] | None, typer.Option("--set", help="Option of the method: key=value.")] = None,
    axes: Axes = None,
    dataset: opt.Dataset = None,
    items: Items = None,
    nan: Annotated[
        Literal["refuse", "zero"], typer.Option(help="Samples that are no numbers; zero: as if not measured.")
    ] = "refuse",
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse what is noted otherwise: a mask or chunks amiss.")
    ] = False,
    manifest: Annotated[
        Path | None, typer.Option("--verify", help="SHA256SUMS that the files must agree with.")
    ] = None,
    isolate: Annotated[
        bool | None,
        typer.Option("--isolate/--no-isolate", help="First read HDF5 in a process that may crash; if several files."),
    ] = None,
    device: Device = "auto",
    precision: Annotated[
        Literal["float32", "bfloat16", "auto"],
        typer.Option(help="Of a model's networks; auto: bfloat16 where it is faster."),
    ] = "float32",
    format: opt.Format = None,
    reference: Annotated[Path | None, typer.Option(help="Images, or the full scan, to score against.")] = None,
    bids: Annotated[
        Path | None, typer.Option(help="Folder of a BIDS derivative dataset to write into, in place of -o.")
    ] = None,
    contrast: Annotated[
        str | None, typer.Option(help="With --bids: T1w, T2w, ..., where the scan does not tell.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of methods that draw random numbers.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Slices that a model takes at a time.")] = 1,
    save_iterates: Annotated[bool, typer.Option("--save-iterates", help="Also write the image of every step.")] = False,
    shard: Annotated[
        str | None, typer.Option(help="Part i/N of the files; by default what a Slurm array or torchrun says.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")] = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Reconstruct k-space files; without a method it chooses one for what it finds, and says why."""
    from mrirecon.coils.registry import CALIBRATIONS

    given: dict[str, Any] = locals() | {"lam": opt.weight(lam), "options": opt.pairs(options)}
    given |= {"maps": maps} if maps in ("auto", *CALIBRATIONS) else {"maps": "file", "maps_file": Path(maps)}
    steps = opt.preprocess(combine, whiten, readout, oversampling, compress, compress_by, partial_fourier)
    if bids is not None and output != Path():
        raise UsageError("--bids names the outputs itself", why=f"--output is {output}", fix="leave one of them out")
    from mrirecon.reconstruction.batch import reconstruct_files
    from mrirecon.reconstruction.calibrate import EspiritOptions
    from mrirecon.reconstruction.plan import Request

    given |= {"preprocess": steps, "espirit": EspiritOptions(sets=opt.map_sets(map_sets))}
    request, run = Request.from_options(given), {"overwrite": overwrite, "dry_run": dry_run}
    work, outcomes = reconstruct_files(
        files, bids or output, request, shard=shard, isolate=isolate, command=sys.argv, progress=progress, **run
    )
    if work.part.count > 1:
        say(f"part {work.part.number} of {work.part.count}, by {work.part.origin}: {len(work.sources)} files")
    _report(outcomes, work.failures, as_json)


def calibrate(
    file: Annotated[Path, typer.Argument(help="k-space file with a fully sampled centre.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Coil maps: {arrays}")],
    map_sets: opt.Sets = "auto",
    kernel: Annotated[int, typer.Option(min=2, help="Side of the k-space kernel.")] = 6,
    size: Annotated[int, typer.Option(min=2, help="Largest calibration region used.")] = 24,
    threshold: Annotated[float, typer.Option(help="Singular values below this share are noise.")] = 0.02,
    crop: Annotated[float, typer.Option(help="Eigenvalue below which a voxel is empty; 0 keeps all.")] = 0.8,
    axes: Axes = None,
    dataset: opt.Dataset = None,
    items: Items = None,
    overwrite: Overwrite = False,
) -> None:
    """Estimate coil maps by ESPIRiT, for --maps."""
    free(output, overwrite)
    from mrirecon.io import read, write_maps
    from mrirecon.reconstruction.calibrate import EspiritOptions
    from mrirecon.reconstruction.calibrate import calibrate as run

    options = EspiritOptions(sets=opt.map_sets(map_sets), size=size, kernel=kernel, threshold=threshold, crop=crop)
    maps = run(read(file, axes=axes, dataset=dataset, items=items), options=options)
    say(f"ESPIRiT maps of {len(maps)} items, {maps.shape[1]} set(s), {maps.shape[2]} coils")
    for path in write_maps(output, maps, inputs=[file]):
        typer.echo(path)


def convert(
    file: Annotated[Path, typer.Argument(help="k-space or images.")],
    output: Annotated[Path, typer.Argument(help="New file; for DICOM, a folder.")],
    format: Annotated[
        Literal["h5", "npz", "cfl", "nii", "dicom", "png", "mrd"] | None,
        typer.Option(help="By default the name tells."),
    ] = None,
    kind: Annotated[Literal["auto", "kspace", "images"], typer.Option("--as", help="What the file holds.")] = "auto",
    axes: Axes = None,
    dataset: Annotated[str | None, typer.Option(help="Name of the array, where there are several.")] = None,
    items: Items = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a file in another format, k-space also as ISMRMRD (.mrd); what that cannot hold is told."""
    from mrirecon.io.writers.convert import convert as run

    chosen: dict[str, Any] = {"format": format, "kind": kind, "axes": axes, "dataset": dataset, "items": items}
    done = run(file, output, overwrite=overwrite, command=sys.argv, **chosen)
    say(f"{file}: {done.kind} of shape {done.shape}")
    for note in done.notes:
        say(f"  note: {note}")
    for path in done.outputs:
        typer.echo(path)


def _report(outcomes: Iterator[Outcome], listed: Path | None, as_json: bool) -> None:
    """Tell what became of the files, as it happens.

    Raises:
        PartialFailure: some of several failed.
        MriReconError: the only one failed.

    """
    results: list[dict[str, Any]] = []
    failed: list[MriReconError] = []
    partly: list[dict[str, Any]] = []
    done = 0
    for outcome in outcomes:
        if outcome.error is not None:
            if listed is None:
                raise outcome.error
            failed.append(outcome.error)
            say(f"error {outcome.error.code}: {outcome.error}")
            if Settings.traceback:
                complain("".join(traceback.format_exception(outcome.error)).rstrip())
        elif outcome.record is not None:
            done += 1
            _narrate(outcome.source, outcome.record)
            lost: Any = outcome.record.get("failed_items", [])
            partly += lost
            for one in lost:
                say(f"error {one['code']}: {one['what']}\n  where: {one['where']}\n  fix: {one['fix']}")
            if as_json:
                results.append(outcome.record)
            for name in [] if as_json else outcome.record["outputs"]:  # type: ignore[attr-defined]  # a list of names
                typer.echo(name)
    if as_json and (results or not failed):
        emit({"results": results, "failed": [error.as_dict() for error in failed]})
    if (failed or partly) and as_json and results:
        raise typer.Exit(PartialFailure.exit_code)
    if partly and not failed:
        raise PartialFailure(
            f"not reconstructed, and zero in the output: {len(partly)} item{'s' if len(partly) > 1 else ''}",
            why="; ".join(f"{e['where']}: {e['what']}" for e in partly[:3]) + ("; ..." if len(partly) > 3 else ""),
            fix="mend them, or leave them out with --items; the other items are done",
        )
    if failed:
        raise PartialFailure(
            f"{len(failed)} of {len(failed) + done} files failed",
            where=str(listed),
            why="; ".join(f"{e.where}: {e.what}" for e in failed[:3]) + ("; ..." if len(failed) > 3 else ""),
            fix="mend them and run the same command again: what is done is left as it is",
        )


def _narrate(path: Path, done: dict[str, Any]) -> None:
    if done.get("finished"):
        return say(f"{path}: done already by {done['method']}")
    how = done["why"] if " by " in done["why"] else f"by {done['method']}: {done['why']}"  # items differ, or do not
    say(f"{path}: {'would reconstruct' if done.get('dry_run') else 'reconstructed'} {how}")
    if not done.get("dry_run"):
        ends = sorted({f"{end(done['lambda']):.3g}" for end in (min, max)}, key=float) if done["lambda"] else []
        weight = f"; lambda {' to '.join(ends)}" if ends else ""
        say(f"  maps: {done['maps']['source']}{weight}; {done['items']} items in {done['total_seconds']:.1f} s")
    for note in done["notes"]:
        say(f"  note: {note}")
    if "scores" in done:
        mean = done["scores"]["mean"]
        say("  " + ", ".join(f"{name.upper()} {value:.4g}" for name, value in mean.items() if value is not None))
