"""Define the commands `models list`, `models import`, `models adapt`, `models verify` and `models show`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mrirecon.cli import options as opt
from mrirecon.cli.console import fail, print_json, print_line, progress, table
from mrirecon.errors import MriReconError, PartialFailure
from mrirecon.reconstruction.adaptation.settings import Adaptation

app = typer.Typer(name="models", help="Learned methods and trained models.", no_args_is_help=True)


@app.command("list")
def list_models(
    folders: Annotated[list[Path] | None, typer.Argument(help="Further trained or imported models.")] = None,
    as_json: opt.AsJson = False,
) -> None:
    """List the learned methods with their sizes, and the shipped models with data, licence and coverage."""
    from mrirecon.methods.registry import methods
    from mrirecon.models.checkpoints import describe_model, shipped_models
    from mrirecon.models.costs import parameters
    from mrirecon.models.overview import describe_use

    models = {str(f): describe_use(describe_model(f)) for f in (*shipped_models().values(), *(folders or []))}
    own = {name: describe_model(folder).get("parameters") for name, folder in shipped_models().items()}
    rows = [(m.name, parameters(m.name), own.get(m.name), m.summary) for m in methods().values() if m.learned]
    if as_json:
        records = [{"name": n, "parameters": p, "trained": t, "summary": s} for n, p, t, s in rows]
        return print_json({"methods": records, "models": models})
    heads = ("method", "parameters", "comes trained, with", "what it is")
    typer.echo(table(heads, [(n, p, t or "-", s) for n, p, t, s in rows]))
    for folder, use in models.items():
        typer.echo("\n".join(["", folder, *(f"  {key}: {value}" for key, value in use.items())]))


@app.command("import")
def import_weights(
    file: Annotated[Path, typer.Argument(help="Checkpoint of fastMRI, ATOMMIC, mridc or DIRECT.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the model to write.")],
    layout: Annotated[
        str | None,
        typer.Option(
            "--as",
            help="fastmri-varnet, fastmri-unet, atommic-cirim, atommic-rim, atommic-varnet, atommic-unet, "
            "atommic-cascadenet, mridc-cirim, direct-varnet, direct-cirim or direct-rim; by default recognised.",
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="Settings of the training (YAML), where the file has none.")
    ] = None,
    options: opt.Settings = None,
    source: Annotated[str | None, typer.Option("--source", help="Origin of the file, for the card.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model in the folder.")] = False,
    as_json: opt.AsJson = False,
) -> None:
    """Import weights of another toolkit as a model, without executing anything from the file.

    Reads state dictionaries, Lightning checkpoints, .atommic and .nemo archives, DIRECT's checkpoints, and safetensors.
    mridc's own archives (.mridc) and checkpoints of its release 0.0.1 are read with the format unverified.
    """
    from mrirecon.models.checkpoints import describe_model
    from mrirecon.models.importing import import_model

    settings = opt.pairs(options)
    folder = import_model(file, out, layout=layout, config=config, options=settings, source=source, overwrite=overwrite)
    about = describe_model(folder)
    if as_json:
        return print_json({"folder": str(folder), **about})
    typer.echo(f"{folder}: {about['method']}, {about['parameters']} parameters")
    for key, value in about["card"].items():
        typer.echo(f"  {key}: {value}")


@app.command()
def verify(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Trained models; by default those shipped with mrirecon.")
    ] = None,
    as_json: opt.AsJson = False,
) -> None:
    """Verify that weights, options and card of trained models are unchanged, consistent and loadable."""
    from mrirecon.models.checkpoints import UNSEALED, shipped_models, verify_model

    heads = ("model", "method", "sha256", "in order", "covered")
    rows: list[tuple[object, ...]] = []
    failed: list[MriReconError] = []
    for folder in folders or list(shipped_models().values()):
        try:
            model = verify_model(folder)
        except MriReconError as error:
            error.where = error.where or str(folder)
            failed.append(error)
            rows.append((str(folder), None, None, False, None))
            continue
        covered = "only weights" if model.seal is None else "weights, options, card"
        rows.append((str(folder), model.method, model.sha256, True, covered))
        if model.seal is None:
            print_line(f"note: {folder}: {UNSEALED}")
    if as_json:
        records = [dict(zip(heads, row, strict=True)) for row in rows]
        print_json({"models": records, "failed": [error.as_dict() for error in failed]})
    else:
        typer.echo(table(("model", "method", "SHA-256", "in order", "looked at"), rows))
    if failed:
        partial: MriReconError = failed[0]
        if len(rows) > 1:
            why = "; ".join(f"{e.where}: {e.what}" for e in failed)
            fix = "copy or train these models again; all others are valid"
            partial = PartialFailure(f"{len(failed)} of {len(rows)} models failed", why=why, fix=fix)
        fail(partial, as_json)


@app.command()
def show(
    model: Annotated[
        str,
        typer.Argument(
            help="A learned method, or the folder of a trained model.", autocompletion=opt.complete("methods")
        ),
    ],
    options: opt.Settings = None,
    size: Annotated[int, typer.Option(min=16, help="Matrix size of the slice.")] = 320,
    coils: Annotated[int, typer.Option(min=1)] = 8,
    as_json: opt.AsJson = False,
) -> None:
    """Describe a model: options, and costs of a slice."""
    from mrirecon.methods.registry import find_method, resolve
    from mrirecon.models.checkpoints import describe_model
    from mrirecon.models.costs import costs

    about = describe_model(model) if Path(model).is_dir() else {"method": model, "options": opt.pairs(options)}
    method = find_method(str(about["method"]))
    resolved = resolve(method.name, about["options"])  # type: ignore[arg-type]  # it is a mapping
    spent = costs(method.name, resolved, size=size, coils=coils)
    about |= {"options": resolved, "summary": method.summary, "parameters": spent.parameters}
    about |= {f"GFLOP for {coils} coils {size}x{size}": spent.operations, "MiB": spent.memory}
    if as_json:
        return print_json(about)
    for key, value in about.items():
        if isinstance(value, dict):
            typer.echo("\n".join([f"{key}:", *(f"  {k} = {v}" for k, v in value.items())]))
        else:
            typer.echo(f"{key}: {value:.4g}" if isinstance(value, float) else f"{key}: {value}")


@app.command(cls=opt.Derived)
def adapt(
    files: Annotated[list[Path], typer.Argument(help="Undersampled k-space files.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the adapted model.")],
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            "-m",
            help="A shipped model; by default the one that auto prefers.",
            autocompletion=opt.complete("methods"),
        ),
    ] = None,
    model: Annotated[Path | None, typer.Option(help="Folder of a trained model, instead of a method.")] = None,
    steps: Annotated[int, typer.Option(help="Largest number of steps.")] = Adaptation.steps,
    minutes: Annotated[float | None, typer.Option(help="Limit of the wall time.")] = None,
    slices: Annotated[int, typer.Option(help="Number of slices of each scan to train on.")] = Adaptation.slices,
    rate: Annotated[float, typer.Option(help="Learning rate.")] = Adaptation.rate,
    maps: opt.Maps = "auto",
    map_sets: opt.MapSets = "auto",
    mask: Annotated[Path | None, typer.Option(help="Mask file; undersamples fully sampled data.")] = None,
    combine: opt.Combine = None,
    whiten: opt.Whiten = "loud",
    readout: opt.Readout = None,
    oversampling: opt.Oversampling = 1.0,
    compress: opt.Compress = None,
    compress_by: opt.CompressBy = "svd",
    axes: opt.Axes = None,
    dataset: opt.Dataset = None,
    items: opt.Items = None,
    device: opt.Device = "auto",
    precision: Annotated[
        str,
        opt.choice("models.hardware:PrecisionChoice", help="Precision of networks; auto: bfloat16 if it is faster."),
    ] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the splits of the samples.")] = 0,
    overwrite: opt.Overwrite = False,
    as_json: opt.AsJson = False,
) -> None:
    """Adapt a model to undersampled scans alone, without references: zero-shot self-supervised learning."""
    request = opt.request({**locals(), "lam": None, "options": None, "partial_fourier": "zero"})
    from mrirecon.reconstruction.adaptation.files import adapt_files
    from mrirecon.reconstruction.adaptation.scans import sentence

    settings = Adaptation(steps=steps, minutes=minutes, slices=slices, rate=rate, seed=seed)
    with progress("adapt", quiet_seconds=0) as callback:
        result: dict[str, Any] = adapt_files(files, output, request, settings, overwrite=overwrite, progress=callback)
    if as_json:
        return print_json(result)
    for note in result["notes"]:
        print_line(f"note: {note}")
    for file in result["adapted to"]:
        print_line(f"trained on {', '.join(file['slices'])}")
    print_line(sentence(result["adapted from"]["model"], result["adaptation"]))
    print_line(f"use it: mrirecon reconstruct FILE --model {output}")
    typer.echo(output)
