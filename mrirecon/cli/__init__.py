"""The command line: thin verbs over library functions. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from mrirecon import __version__
from mrirecon.cli import doctor, evaluate, inspect, masks, models, reconstruct, report, study, training, trust
from mrirecon.cli.console import ConsoleSettings
from mrirecon.cli.derived import Derived
from mrirecon.cli.envelope import run
from mrirecon.models.hardware import wait_passively
from mrirecon.registries import plugins

EPILOG = (
    "Anywhere: --traceback shows where an error arose, --quiet leaves narration and progress out. Results go to "
    "stdout, narration to stderr. Exit codes: 0 done, 1 our fault, 2 wrong option, 3 unusable input, 4 some items "
    "failed, 5 disk or memory, 6 unsafe file, 7 weights that do not fit, 130 and 143 interrupted."
)

app = typer.Typer(
    name="mrirecon",
    help="Reconstruct accelerated MRI: y = M F S x + n. For research, not for diagnosis.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(inspect.demo)
app.command()(inspect.info)
app.command("reconstruct", cls=Derived)(reconstruct.reconstruct)
app.command(cls=Derived)(reconstruct.calibrate)
app.command(cls=Derived)(reconstruct.convert)
app.command("evaluate", cls=Derived)(evaluate.evaluate)
app.command(cls=Derived)(evaluate.compare)
app.command("report")(report.report)
app.command("trust")(trust.trust)
app.command()(trust.detect)
app.command("study")(study.study)
app.command()(training.train)
app.add_typer(training.app)
app.command(cls=Derived)(training.simulate)
app.add_typer(masks.app)
app.add_typer(models.app)
app.command()(inspect.methods)
app.command()(inspect.selftest)
app.command("doctor")(doctor.doctor)
app.command()(inspect.benchmark)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def common(
    plugin: Annotated[
        list[Path] | None,
        typer.Option("--plugin", help="FILE.py that registers methods, masks, ...; repeatable."),
    ] = None,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which.")] = False,
) -> None:
    """Reconstruct accelerated MRI: y = M F S x + n. For research, not for diagnosis."""
    plugins.load_files(plugin or [])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    ConsoleSettings.begun = time.monotonic()
    wait_passively()
    sys.exit(run(app, list(sys.argv[1:] if arguments is None else arguments)))
