"""`mrirecon models`: the learned methods, and trained models in folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mrirecon.cli.console import emit, say, table
from mrirecon.cli.inspect import AsJson
from mrirecon.cli.options import pairs

app = typer.Typer(name="models", help="Learned methods and trained models.", no_args_is_help=True)


@app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """List the learned methods with their sizes, and which come trained."""
    from mrirecon.methods.registry import methods
    from mrirecon.models.checkpoints import describe_model, shipped
    from mrirecon.models.costs import parameters

    own = {name: describe_model(folder).get("parameters") for name, folder in shipped().items()}
    found = [(m.name, parameters(m.name), own.get(m.name), m.summary) for m in methods().values() if m.learned]
    if as_json:
        return emit([{"name": n, "parameters": p, "trained": t, "summary": s} for n, p, t, s in found])
    heads = ("method", "parameters", "comes trained, with", "what it is")
    typer.echo(table(heads, [(n, p, t or "-", s) for n, p, t, s in found]))


@app.command()
def verify(
    folders: Annotated[list[Path] | None, typer.Argument(help="Trained models; those that come along if none.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check trained models: that weights, options and card are those that were saved, and that they fit and load."""
    from mrirecon.cli.inspect import summarize
    from mrirecon.errors import MriReconError
    from mrirecon.models.checkpoints import UNSEALED, shipped, verify_model

    rows: list[dict[str, object]] = []
    failed: list[MriReconError] = []
    for folder in folders or list(shipped().values()):
        try:
            found = verify_model(folder)
            covered = "weights alone" if found.seal is None else "weights, options, card"
            rows.append(
                {
                    "model": str(folder),
                    "method": found.method,
                    "sha256": found.sha256,
                    "in order": True,
                    "covered": covered,
                }
            )
            if found.seal is None:
                say(f"note: {folder}: {UNSEALED}")
        except MriReconError as error:
            error.where = error.where or str(folder)
            failed.append(error)
            rows.append({"model": str(folder), "method": None, "sha256": None, "in order": False, "covered": None})
    if as_json:
        emit({"models": rows, "failed": [error.as_dict() for error in failed]})
        if failed:
            raise typer.Exit(4 if len(rows) > 1 else failed[0].exit_code)
        return
    typer.echo(table(("model", "method", "SHA-256", "in order", "looked at"), [list(row.values()) for row in rows]))
    summarize(failed, len(rows) - len(failed))


@app.command()
def show(
    model: Annotated[str, typer.Argument(help="A learned method, or the folder of a trained model.")],
    options: Annotated[list[str] | None, typer.Option("--set", help="Option of the method: key=value.")] = None,
    size: Annotated[int, typer.Option(min=16, help="Matrix size of the slice.")] = 320,
    coils: Annotated[int, typer.Option(min=1)] = 8,
    as_json: AsJson = False,
) -> None:
    """Say what a model is, its options, and what a slice costs."""
    from mrirecon.methods.registry import find, resolve
    from mrirecon.models.checkpoints import describe_model
    from mrirecon.models.costs import costs

    about = describe_model(model) if Path(model).is_dir() else {"method": model, "options": pairs(options or [])}
    method = find(str(about["method"]))
    resolved = resolve(method.name, about["options"])  # type: ignore[arg-type]  # it is a mapping
    spent = costs(method.name, resolved, size=size, coils=coils)
    about |= {"options": resolved, "summary": method.summary, "parameters": spent.parameters}
    about |= {f"GFLOP for {coils} coils {size}x{size}": spent.operations, "MiB": spent.memory}
    if as_json:
        return emit(about)
    for key, value in about.items():
        if isinstance(value, dict):
            typer.echo("\n".join([f"{key}:", *(f"  {k} = {v}" for k, v in value.items())]))
        else:
            typer.echo(f"{key}: {value:.4g}" if isinstance(value, float) else f"{key}: {value}")
