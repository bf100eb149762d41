"""Run the command line: thin commands over library functions, without heavy imports before a command runs.

For every command, errors have one form, exit codes are documented, and signals leave no partial output.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from typer.main import get_command

from mrirecon import __version__, errors
from mrirecon.cli import (
    evaluate,
    inspect,
    masks,
    models,
    reconstruct,
    report,
    study,
    submit,
    training,
    trajectory,
    trust,
)
from mrirecon.cli.console import ConsoleSettings, prepare_streams, print_error, print_json
from mrirecon.cli.options import Derived
from mrirecon.errors import MriReconError, ResourceError, Stopped, UsageError, as_project_error
from mrirecon.models.hardware import wait_passively
from mrirecon.registries import plugins
from mrirecon.registries.renames import new_flag

EPILOG = (
    "With any command: --traceback shows the origin of an error, --quiet hides messages and progress. Results go to "
    "stdout, narration to stderr. Exit codes: 0 done, 1 our fault, 2 wrong option, 3 unusable input, 4 some items "
    "failed, 5 disk or memory, 6 unsafe file, 7 weights that do not fit, 130 and 143 interrupted."
)
COMMANDS: tuple[Callable[..., Any] | typer.Typer, ...] = (
    *(inspect.demo, inspect.info, reconstruct.reconstruct, reconstruct.calibrate, reconstruct.convert),
    *(evaluate.evaluate, evaluate.compare, report.report, trust.trust, trust.detect, study.study),
    *(training.train, training.app, training.simulate, masks.app, trajectory.app, models.app, submit.app),
    *(inspect.methods, inspect.selftest, inspect.doctor, inspect.benchmark),
)
_ANYWHERE = {"--traceback": "traceback", "--quiet": "quiet", "-q": "quiet"}

app = typer.Typer(
    name="mrirecon",
    help="Reconstruct accelerated MRI: y = M F S x + n. For research, not for diagnosis.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in COMMANDS:
    if isinstance(command, typer.Typer):
        app.add_typer(command)
    else:
        app.command(cls=Derived)(command)


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
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """Run the application and return its exit code; no exception escapes."""
    prepare_streams()
    arguments = _take_settings(arguments)
    as_json = "--json" in arguments
    before = {number: signal.signal(number, _stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        _require_working_folder(arguments)
        code = get_command(app)(arguments, prog_name="mrirecon", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except (BrokenPipeError, SystemExit):
        # The reader of stdout closed the pipe, for which typer exits. This prevents a second error when Python
        # closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Stopped as stopped:
        print_error(f"stopped: {stopped}")
        return 128 + stopped.number
    except Exception as error:
        return _report(error, as_json)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _take_settings(arguments: list[str]) -> list[str]:
    """Apply the options that are valid for any command, and return the other arguments."""
    ConsoleSettings.quiet = ConsoleSettings.traceback = False
    end = arguments.index("--") if "--" in arguments else len(arguments)
    for argument in arguments[:end]:
        if argument in _ANYWHERE:
            setattr(ConsoleSettings, _ANYWHERE[argument], True)
    return [a for a in arguments[:end] if a not in _ANYWHERE] + arguments[end:]


def _require_working_folder(arguments: list[str]) -> None:
    """Refuse to run in a deleted folder, in which relative paths fail and libraries of torch end the process.

    Raises:
        ResourceError: the folder was deleted.

    """
    if {"--help", "--version"} & set(arguments):
        return
    try:
        Path.cwd()
    except FileNotFoundError:
        raise ResourceError("the working folder was deleted", fix="change to a folder that exists: cd FOLDER") from None


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)


def as_known(error: Exception) -> MriReconError | None:
    """Convert an exception to a project error; return None for an internal error."""
    if isinstance(error, MriReconError):
        return error
    explain = getattr(error, "format_message", None)
    if explain is not None:  # an error of the parser, whose classes move between versions of typer
        context = getattr(error, "ctx", None)
        command = getattr(context, "command_path", None) or "mrirecon"
        flag = new_flag(command.rpartition(" ")[2], str(getattr(error, "option_name", "")))
        fix = f"see `{command} --help`" if flag is None else f"it is now called {flag}"
        return UsageError(explain().replace("Value error, ", "").rstrip("."), fix=fix)
    return errors.as_known(error)


def _report(error: Exception, as_json: bool) -> int:
    known = as_known(error)
    if ConsoleSettings.traceback:
        print_error("".join(traceback.format_exception(error)).rstrip())
    if type(error).__name__ == "NoArgsIsHelpError":  # the message is the help text
        print_error(str(error))
        return UsageError.exit_code
    known = known or as_project_error(error)
    if as_json:
        print_json({"error": known.as_dict()})
    else:
        print_error(f"error {known.code}: {known}")
    return known.exit_code
