"""The verb that does a study."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mrirecon.cli.console import emit, progress, say
from mrirecon.cli.inspect import AsJson, Device
from mrirecon.cli.training import Lines
from mrirecon.errors import PartialFailure


def study(
    config: Annotated[Path, typer.Argument(help="Configuration of a study, .yaml; see configs/studies.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder; studies/NAME of the configuration if left out.")
    ] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="Override: budget.steps=9. May be repeated.")] = None,
    device: Device = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the cells and what would be trained.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare methods on the same data and masks: train what is missing, reconstruct, score; run it again to go on."""
    from mrirecon.evaluation import study as studies

    plan = studies.load_study(config, sets or [])
    folder = output or Path("studies") / config.name.split(".")[0]
    if dry_run:
        told = studies.dry_run(plan, folder)
        return emit(told) if as_json else typer.echo(_planned(told))
    with progress(f"study {config.name}") as callback:
        lines = callback or Lines("cell")
        done = studies.run_study(plan, folder, device=device, progress=lines, tell=say, command=sys.argv)
    if as_json:
        emit(done)
        raise typer.Exit(4 if done["failed"] else 0)
    typer.echo((folder / "table.md").read_text(encoding="utf-8"))
    typer.echo(str(folder / "report.md"))
    if done["failed"]:
        raise PartialFailure(
            f"{len(done['failed'])} of {len(plan.cells())} cells failed",
            where=str(folder / "report.md"),
            why="; ".join(sorted({f["error"]["what"] for f in done["failed"]})),
            fix="mend the causes and run it again: what is done is kept",
        )


def _planned(told: dict[str, Any]) -> str:
    cells = told["cells"]
    lines = [f"{c['cell']}{'  (done)' if c['done'] else ''}" for c in cells]
    lines += ["", *(f"note: {n}" for n in told["notes"])]
    lines += [f"{m['name']}: {m['what']}" for m in told["methods"]]
    left = sum(not c["done"] for c in cells)
    trained = ", ".join(told["to be trained"]) or "nothing"
    return "\n".join([*lines, f"{left} of {len(cells)} cells to do; to be trained: {trained}", told["folder"]])
