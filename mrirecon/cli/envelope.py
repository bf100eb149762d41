"""Around every verb: errors in one form, documented exit codes, signals that leave nothing half done."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType

import typer
from typer.main import get_command

from mrirecon import errors
from mrirecon.cli.console import Settings, complain, emit, prepare_streams
from mrirecon.errors import MriReconError, ResourceError, Stopped, UsageError, as_ours

_ANYWHERE = {"--traceback": "traceback", "--quiet": "quiet", "-q": "quiet"}


def run(app: typer.Typer, arguments: list[str]) -> int:
    """Run the application and return its exit code; nothing escapes."""
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
        # Whoever read stdout has seen enough: typer itself exits then, and only then. Python would complain once more
        # when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Stopped as stopped:
        complain(f"stopped: {stopped}")
        return 128 + stopped.number
    except Exception as error:
        return _report(error, as_json)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _take_settings(arguments: list[str]) -> list[str]:
    """Take the options that may stand anywhere out of the arguments."""
    Settings.quiet = Settings.traceback = False
    end = arguments.index("--") if "--" in arguments else len(arguments)
    for argument in arguments[:end]:
        if argument in _ANYWHERE:
            setattr(Settings, _ANYWHERE[argument], True)
    return [a for a in arguments[:end] if a not in _ANYWHERE] + arguments[end:]


def _require_working_folder(arguments: list[str]) -> None:
    """Refuse to work from a folder that was deleted: names would lead nowhere, and libraries of torch end the process.

    Raises:
        ResourceError: it was.

    """
    if {"--help", "--version"} & set(arguments):
        return
    try:
        Path.cwd()
    except FileNotFoundError:
        raise ResourceError("the working folder is gone", fix="change to a folder that exists: cd FOLDER") from None


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)


def as_known(error: Exception) -> MriReconError | None:
    """Return the error as one of ours; None for a fault of our own."""
    if isinstance(error, MriReconError):
        return error
    explain = getattr(error, "format_message", None)
    if explain is not None:  # the parser's, whose classes typer keeps in different places from version to version
        context = getattr(error, "ctx", None)
        command = getattr(context, "command_path", None) or "mrirecon"
        return UsageError(explain().replace("Value error, ", "").rstrip("."), fix=f"see `{command} --help`")
    return errors.as_known(error)


def _report(error: Exception, as_json: bool) -> int:
    known = as_known(error)
    if Settings.traceback:
        complain("".join(traceback.format_exception(error)).rstrip())
    if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help
        complain(str(error))
        return UsageError.exit_code
    known = known or as_ours(error)
    if as_json:
        emit({"error": known.as_dict()})
    else:
        complain(f"error {known.code}: {known}")
    return known.exit_code
