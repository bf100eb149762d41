"""Verbs that work on files: reconstruct, calibrate, convert."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mrirecon.cli import options_preprocess as pre
from mrirecon.cli.console import Settings, complain, emit, progress, say
from mrirecon.cli.inspect import AsJson, Axes, Device, Items, Overwrite, free
from mrirecon.errors import MriReconError, PartialFailure, UsageError

if TYPE_CHECKING:
    from mrirecon.reconstruction.batch import Outcome

SOURCES = ("auto", "file", "espirit", "walsh", "sigpy", "unit")
KINDS = ("auto", "kspace", "images")
PRECISIONS = ("float32", "bfloat16", "auto")
FORMATS = ("h5", "npz", "cfl", "nii", "dicom", "png")
Dataset = Annotated[str | None, typer.Option(help="Name of the k-space array, where the file leaves it open.")]
Format = Annotated[str | None, typer.Option(help="h5, npz, cfl, nii, dicom, png; by default the name tells.")]
Sets = Annotated[str, typer.Option("--map-sets", help="auto, 1, or 2: two where the object exceeds the field of view.")]


def reconstruct(
    files: Annotated[list[Path], typer.Argument(help="k-space files, folders of them, or quoted patterns.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File, or folder for NAME_METHOD.h5; here if left out.")
    ] = Path(),
    method: Annotated[str, typer.Option("--method", "-m", help="auto, or one that `mrirecon methods` lists.")] = "auto",
    maps: Annotated[
        str, typer.Option(help="auto, espirit, walsh, sigpy, file, unit, or a file with coil maps.")
    ] = "auto",
    map_sets: Sets = "auto",
    combine: pre.Combine = None,
    whiten: pre.Whiten = "loud",
    readout: pre.Readout = None,
    oversampling: pre.Oversampling = 1.0,
    compress: pre.Compress = None,
    compress_by: pre.CompressBy = "svd",
    partial_fourier: pre.PartialFourier = "zero",
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
    dataset: Dataset = None,
    items: Items = None,
    nan: Annotated[str, typer.Option(help="Samples that are no numbers: refuse, or zero (as if not measured).")] = (
        "refuse"
    ),
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse what is noted otherwise: a mask or chunks amiss.")
    ] = False,
    verify: Annotated[Path | None, typer.Option(help="SHA256SUMS that the files must agree with.")] = None,
    isolate: Annotated[
        bool | None,
        typer.Option("--isolate/--no-isolate", help="First read HDF5 in a process that may crash; if several files."),
    ] = None,
    device: Device = "auto",
    precision: Annotated[
        str, typer.Option(help="Of a model's networks: float32, bfloat16, or auto (bfloat16 where it is faster).")
    ] = "float32",
    format: Format = None,
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
    chosen: dict[str, Any] = {"method": method, "mask": mask, "axes": axes, "dataset": dataset, "device": device}
    chosen |= {"items": items}
    chosen |= {"format": _one_of(format, FORMATS, "--format"), "reference": reference, "seed": seed}
    chosen |= {"lam": number(lam), "options": pairs(options or [])}
    chosen |= {"model": model, "save_iterates": save_iterates, "batch": batch, "strict_model": strict_model}
    chosen |= {"nan": _one_of(nan, ("refuse", "zero"), "--nan"), "strict": strict, "manifest": verify}
    chosen |= {"bids": bids, "contrast": contrast, "precision": _one_of(precision, PRECISIONS, "--precision")}
    chosen["preprocess"] = pre.options(combine, whiten, readout, oversampling, compress, compress_by, partial_fourier)
    chosen |= {"maps": maps} if maps in SOURCES else {"maps_file": Path(maps)}
    if bids is not None and output != Path():
        raise UsageError("--bids names the outputs itself", why=f"--output is {output}", fix="leave one of them out")
    from mrirecon.calibrate import EspiritOptions
    from mrirecon.reconstruction import batch as batches
    from mrirecon.reconstruction.plan import Request

    output = bids or output
    request = Request(espirit=EspiritOptions(sets=_sets(map_sets)), **chosen)
    plan = batches.Work.of(files, output, shard, request)
    request = replace(request, isolate=plan.several if isolate is None else isolate)
    if plan.several:
        request.check()
    if plan.part.count > 1:
        say(f"part {plan.part.number} of {plan.part.count}, by {plan.part.origin}: {len(plan.sources)} files")
    outcomes = batches.run(
        plan.sources,
        output,
        request,
        overwrite=overwrite,
        dry_run=dry_run,
        failures=plan.failures,
        command=sys.argv,
        progress=progress,
    )
    _report(outcomes, plan.failures, as_json)


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


def calibrate(
    file: Annotated[Path, typer.Argument(help="k-space file with a fully sampled centre.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Coil maps: .h5, .npz or .cfl")],
    map_sets: Sets = "auto",
    kernel: Annotated[int, typer.Option(min=2, help="Side of the k-space kernel.")] = 6,
    size: Annotated[int, typer.Option(min=2, help="Largest calibration region used.")] = 24,
    threshold: Annotated[float, typer.Option(help="Singular values below this share are noise.")] = 0.02,
    crop: Annotated[float, typer.Option(help="Eigenvalue below which a voxel is empty; 0 keeps all.")] = 0.8,
    axes: Axes = None,
    dataset: Dataset = None,
    items: Items = None,
    overwrite: Overwrite = False,
) -> None:
    """Estimate coil maps by ESPIRiT, for --maps."""
    free(output, overwrite)
    from mrirecon.calibrate import EspiritOptions
    from mrirecon.calibrate import calibrate as run
    from mrirecon.io import read, write_maps

    scan = read(file, axes=axes, dataset=dataset, items=items)
    options = EspiritOptions(sets=_sets(map_sets), size=size, kernel=kernel, threshold=threshold, crop=crop)
    found = run(scan, options=options)
    say(f"ESPIRiT maps of {len(found)} items, {found.shape[1]} set(s), {found.shape[2]} coils")
    for path in write_maps(output, found, inputs=[file]):
        typer.echo(path)


def convert(
    file: Annotated[Path, typer.Argument(help="k-space or images.")],
    output: Annotated[Path, typer.Argument(help="New file; for DICOM, a folder.")],
    format: Format = None,
    kind: Annotated[str, typer.Option("--as", help="What the file holds: auto, kspace, images.")] = "auto",
    axes: Axes = None,
    dataset: Annotated[str | None, typer.Option(help="Name of the array, where there are several.")] = None,
    items: Items = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a file in another format, k-space also as ISMRMRD (.mrd); what that cannot hold is told."""
    from mrirecon.io.convert import convert as run

    chosen: Any = {"format": _one_of(format, (*FORMATS, "mrd"), "--format"), "kind": _one_of(kind, KINDS, "--as")}
    done = run(file, output, axes=axes, dataset=dataset, items=items, overwrite=overwrite, command=sys.argv, **chosen)
    say(f"{file}: {done.kind} of shape {done.shape}")
    for note in done.notes:
        say(f"  note: {note}")
    for path in done.outputs:
        typer.echo(path)


def number(text: str | None) -> Any:
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


def pairs(options: list[str]) -> dict[str, object]:
    """Read key=value options; values are YAML scalars, and 1e-3 is a number.

    Raises:
        UsageError: no key, no value, or a value that cannot be read.

    """
    import yaml

    found: dict[str, object] = {}
    for text in options:
        key, equals, value = text.partition("=")
        if not (key and equals and value):
            raise UsageError(f"--set cannot be {text!r}", fix="write --set key=value, such as --set iterations=50")
        try:
            found[key] = float(value) if "e" in value.lower() and value[0] in "+-.0123456789" else yaml.safe_load(value)
        except (ValueError, yaml.YAMLError):
            raise UsageError(f"--set {key} cannot be {value!r}", fix="give a number, true, false or a word") from None
    return found


def _sets(text: str) -> Any:
    """Read --map-sets."""
    _one_of(text, ("auto", "1", "2"), "--map-sets")
    return text if text == "auto" else int(text)


def _one_of(value: str | None, choices: tuple[str, ...], option: str) -> str | None:
    if value is not None and value not in choices:
        raise UsageError(f"{option} cannot be {value!r}", fix=f"choices: {', '.join(choices)}")
    return value


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
