"""Define the command `study`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mrirecon.cli import options as opt
from mrirecon.cli.console import fail, print_json, print_line, progress
from mrirecon.errors import PartialFailure


def study(
    config: Annotated[Path, typer.Argument(help="Configuration of a study, .yaml; see configs/studies.", **opt.Yaml)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder; by default studies/NAME of the configuration.")
    ] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="Override: budget.steps=9. May be repeated.")] = None,
    device: opt.Device = "auto",
    only_train: Annotated[
        str | None, typer.Option("--only-train", help="Only train this method, for several jobs.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the cells and the models to train.")] = False,
    as_json: opt.AsJson = False,
) -> None:
    """Compare methods on the same data and masks: train, reconstruct, score. Run it again to continue."""
    from mrirecon.evaluation import study as studies

    plan = studies.load_study(config, sets or [])
    folder = output or Path("studies") / config.name.split(".")[0]
    if dry_run:
        preview = studies.dry_run(plan, folder)
        return print_json(preview) if as_json else typer.echo(_plan_text(preview))
    if only_train is not None:
        return typer.echo(studies.train_method(plan, folder, only_train, device=device, on_message=print_line))
    with progress(f"study {config.name}", "cell", quiet_seconds=0) as callback:
        result = studies.run_study(
            plan, folder, device=device, progress=callback, on_message=print_line, command=sys.argv
        )
    if as_json:
        print_json(result)
    else:
        typer.echo((folder / "table.md").read_text(encoding="utf-8"))
        typer.echo(str(folder / "report.md"))
    if result["failed"]:
        error = PartialFailure(
            f"{len(result['failed'])} of {len(plan.cells())} cells failed",
            where=str(folder / "report.md"),
            why="; ".join(sorted({f["error"]["what"] for f in result["failed"]})),
            fix="repair the causes and run it again: finished cells are kept",
        )
        fail(error, as_json)


def _plan_text(preview: dict[str, Any]) -> str:
    cells = preview["cells"]
    lines = [f"{c['cell']}{'  (done)' if c['done'] else ''}" for c in cells]
    lines += ["", *(f"note: {n}" for n in preview["notes"])]
    lines += [f"{m['name']}: {m['what']}" for m in preview["methods"]]
    left = sum(not c["done"] for c in cells)
    trained = ", ".join(preview["to be trained"]) or "nothing"
    return "\n".join([*lines, f"{left} of {len(cells)} cells remain; to be trained: {trained}", preview["folder"]])
