"""Define the commands `reconstruct`, `calibrate` and `convert`."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mrirecon.cli import options as opt
from mrirecon.cli.console import ConsoleSettings, print_error, print_json, print_line, progress
from mrirecon.errors import MriReconError, PartialFailure, UsageError
from mrirecon.reconstruction.adaptation.settings import Adaptation

if TYPE_CHECKING:
    from mrirecon.reconstruction.batch import Outcome


def reconstruct(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="k-space files, folders of them, or quoted patterns.", show_default=False),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File, or folder for NAME_METHOD.h5; by default the current folder.")
    ] = Path(),
    listed: Annotated[
        Path | None, typer.Option("--list", help="Text file with one k-space file a line, instead of FILES.")
    ] = None,
    subfolders: Annotated[
        int, typer.Option(help="Divide the output by the hash of the name: 1, 16, 256 or 4096 subfolders.")
    ] = 1,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            "-m",
            help="auto, or a method of `mrirecon methods`.",
            autocompletion=opt.complete("methods", "auto"),
        ),
    ] = "auto",
    maps: opt.Maps = "auto",
    map_sets: opt.MapSets = "auto",
    combine: opt.Combine = None,
    whiten: opt.Whiten = "loud",
    readout: opt.Readout = None,
    oversampling: opt.Oversampling = 1.0,
    compress: opt.Compress = None,
    compress_by: opt.CompressBy = "svd",
    partial_fourier: opt.PartialFourier = "zero",
    mask: Annotated[Path | None, typer.Option(help="Mask file; undersamples fully sampled data.")] = None,
    model: Annotated[Path | None, typer.Option(help="Folder of a trained model, instead of a method.")] = None,
    strict_model: Annotated[
        bool, typer.Option("--strict-model", help="Refuse data for which the model was not trained.")
    ] = False,
    adapt: Annotated[
        bool, typer.Option("--adapt", help="Adapt the model to each scan first, as `mrirecon models adapt`.")
    ] = False,
    minutes: Annotated[float | None, typer.Option(help="With --adapt: limit of its wall time for a scan.")] = None,
    lam: opt.Lambda = None,
    options: opt.Settings = None,
    axes: opt.Axes = None,
    dataset: opt.Dataset = None,
    items: opt.Items = None,
    trajectory: opt.Trajectory = None,
    trajectory_units: opt.TrajectoryUnits = "1/fov",
    matrix: opt.Matrix = None,
    weighting: opt.Weighting = "density",
    delays: opt.Delays = "none",
    nan: Annotated[str, opt.choice("io.scan:Nan", help="NaN samples; zero: treat as not measured.")] = "refuse",
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse defects of masks and chunks instead of a note.")
    ] = False,
    manifest: Annotated[Path | None, typer.Option("--verify", help="SHA256SUMS that the files must match.")] = None,
    isolate: Annotated[
        bool | None,
        typer.Option(
            "--isolate/--no-isolate", help="First read HDF5 in a separate process; default for several files."
        ),
    ] = None,
    device: opt.Device = "auto",
    precision: Annotated[
        str,
        opt.choice("models.hardware:PrecisionChoice", help="Precision of networks; auto: bfloat16 if it is faster."),
    ] = "float32",
    format: opt.Format = None,
    reference: Annotated[
        Path | None, typer.Option(help="Reference for scores: images, or the full scan; or a folder.")
    ] = None,
    bids: Annotated[Path | None, typer.Option(help="Folder of a BIDS derivative dataset, instead of -o.")] = None,
    contrast: Annotated[
        str | None, typer.Option(help="With --bids: T1w, T2w, ..., if the scan does not state it.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of random numbers.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Number of slices that a model processes at a time.")] = 1,
    save_iterates: Annotated[
        bool, typer.Option("--save-iterates", help="Also write the image after every step.")
    ] = False,
    shard: Annotated[
        str | None, typer.Option(help="Part i/N of the files; by default from a Slurm array or torchrun.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Number of files at a time, each in a process.")] = 1,
    preview: Annotated[bool, typer.Option("--preview", help="Also draw slices in NAME_preview.png.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done; write nothing.")] = False,
    overwrite: opt.Overwrite = False,
    as_json: opt.AsJson = False,
) -> None:
    """Reconstruct k-space files; by default, choose a method for the data and print the reason."""
    if minutes is not None and not adapt:
        raise UsageError("--minutes limits the adaptation", fix="also give --adapt, or omit --minutes")
    references = reference if reference is not None and reference.is_dir() else None
    reference = reference if references is None else None
    request = opt.request({**locals(), "adaptation": Adaptation(minutes=minutes, seed=seed) if adapt else None})
    from mrirecon.reconstruction.batch import reconstruct_files

    if bids is not None and output != Path():
        raise UsageError("--bids defines the output names", why=f"--output is {output}", fix="omit one of them")
    settings: dict[str, Any] = {"overwrite": overwrite, "dry_run": dry_run, "preview": preview, "jobs": jobs}
    settings |= {"command": sys.argv, "progress": progress}
    settings |= {"listed": listed, "subfolders": opt.subfolders(subfolders), "references": references}
    work, outcomes = reconstruct_files(files or [], bids or output, request, shard=shard, **settings)
    if work.part.count > 1:
        print_line(f"part {work.part.number} of {work.part.count}, by {work.part.origin}: {len(work.sources)} files")
    _report(outcomes, work.failures, as_json)


def calibrate(
    file: Annotated[Path, typer.Argument(help="k-space file with a fully sampled centre.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Coil maps: {arrays}")],
    map_sets: opt.MapSets = "auto",
    kernel: Annotated[int, typer.Option(min=2, help="Side of the k-space kernel.")] = 6,
    size: Annotated[int, typer.Option(min=2, help="Largest calibration region used.")] = 24,
    threshold: Annotated[float, typer.Option(help="Singular values below this share of the largest are noise.")] = 0.02,
    crop: Annotated[float, typer.Option(help="Eigenvalue below which a voxel is empty; 0 keeps all.")] = 0.8,
    axes: opt.Axes = None,
    dataset: opt.Dataset = None,
    items: opt.Items = None,
    trajectory: opt.Trajectory = None,
    trajectory_units: opt.TrajectoryUnits = "1/fov",
    matrix: opt.Matrix = None,
    delays: opt.Delays = "none",
    overwrite: opt.Overwrite = False,
) -> None:
    """Estimate coil maps by ESPIRiT, for --maps."""
    opt.require_free(output, overwrite)
    on_trajectory = opt.trajectory(locals())
    from mrirecon.io.readers.reader import read
    from mrirecon.io.writers.write import write_maps
    from mrirecon.reconstruction.calibrate import EspiritOptions
    from mrirecon.reconstruction.calibrate import calibrate as run

    options = EspiritOptions(sets=opt.map_sets(map_sets), size=size, kernel=kernel, threshold=threshold, crop=crop)
    scan = read(file, axes=axes, dataset=dataset, items=items, trajectory=on_trajectory)
    with progress(f"calibrate {file.name}", "item") as callback:
        maps = run(scan, options=options, progress=callback)
    print_line(f"ESPIRiT maps of {len(maps)} items, {maps.shape[1]} set(s), {maps.shape[2]} coils")
    for path in write_maps(output, maps, inputs=[file]):
        typer.echo(path)


def convert(
    file: Annotated[Path, typer.Argument(help="k-space or images.")],
    output: Annotated[Path, typer.Argument(help="New file; for DICOM, a folder.")],
    format: Annotated[
        str | None, opt.choice("io.writers.convert:Format", help="By default that of the file name.")
    ] = None,
    kind: Annotated[str, opt.choice("io.writers.convert:Kind", "--as", help="Content of the file.")] = "auto",
    axes: opt.Axes = None,
    dataset: Annotated[str | None, typer.Option(help="Name of the array, if there are several.")] = None,
    items: opt.Items = None,
    overwrite: opt.Overwrite = False,
) -> None:
    """Convert a file to another format, k-space also to ISMRMRD (.mrd); notes list data that are lost."""
    from mrirecon.io.writers.convert import convert as run

    chosen: dict[str, Any] = {"format": format, "kind": kind, "axes": axes, "dataset": dataset, "items": items}
    result = run(file, output, overwrite=overwrite, command=sys.argv, **chosen)
    print_line(f"{file}: {result.kind} of shape {result.shape}")
    for note in result.notes:
        print_line(f"  note: {note}")
    for path in result.outputs:
        typer.echo(path)


def _report(outcomes: Iterator[Outcome], failures: Path | None, as_json: bool) -> None:
    """Print each outcome, and end with the exit code for all.

    Raises:
        PartialFailure: some of several files, or some items, failed.
        MriReconError: the only file failed.

    """
    results: list[dict[str, Any]] = []
    failed: list[MriReconError] = []
    lost: list[dict[str, Any]] = []
    for outcome in outcomes:
        if outcome.error is not None:
            if failures is None:
                raise outcome.error
            failed.append(outcome.error)
            print_line(f"error {outcome.error.code}: {outcome.error}")
            if ConsoleSettings.traceback:
                print_error("".join(traceback.format_exception(outcome.error)).rstrip())
            continue
        record: dict[str, Any] = outcome.record or {}
        results.append(record if as_json else {})
        _narrate(outcome.source, record)
        lost += record.get("failed_items", [])
        for failure in record.get("failed_items", []):
            print_line(
                f"error {failure['code']}: {failure['what']}\n  where: {failure['where']}\n  fix: {failure['fix']}"
            )
        for name in () if as_json else record["outputs"]:
            typer.echo(name)
    if as_json and (results or not failed):
        print_json({"results": results, "failed": [error.as_dict() for error in failed]})
    if not failed and not lost:
        return
    if as_json and results:
        raise typer.Exit(PartialFailure.exit_code)
    if failed:
        what = f"{len(failed)} of {len(failed) + len(results)} files failed"
        causes = [f"{e.where}: {e.what}" for e in failed]
        fix, where = "repair them and run the same command again: finished files are kept", str(failures)
    else:
        what = f"not reconstructed, zero in the output: {len(lost)} item{'s' if len(lost) > 1 else ''}"
        causes = [f"{e['where']}: {e['what']}" for e in lost]
        fix, where = "repair them, or leave them out with --items; the other items are finished", None
    why = "; ".join([*causes[:3], *(["..."] if len(causes) > 3 else [])])
    raise PartialFailure(what, where=where, why=why, fix=fix)


def _narrate(path: Path, record: dict[str, Any]) -> None:
    method, dry = record["method"], record.get("dry_run")
    if record.get("finished"):
        return print_line(f"{path}: done already by {method}")
    how = record["why"] if " by " in record["why"] else f"by {method}: {record['why']}"  # methods differ among items
    print_line(f"{path}: {'would reconstruct' if dry else 'reconstructed'} {how}")
    if not dry:
        ends = sorted({f"{end(record['lambda']):.3g}" for end in (min, max)}, key=float) if record["lambda"] else []
        weight = f"; lambda {' to '.join(ends)}" if ends else ""
        source, seconds = record["maps"]["source"], record["total_seconds"]
        print_line(f"  maps: {source}{weight}; {record['items']} items in {seconds:.1f} s")
    for note in record["notes"]:
        print_line(f"  note: {note}")
    if "scores" in record:
        mean = record["scores"]["mean"]
        print_line("  " + ", ".join(f"{name.upper()} {value:.4g}" for name, value in mean.items() if value is not None))
