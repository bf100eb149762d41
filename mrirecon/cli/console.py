"""Print the output of commands: results to stdout, messages and progress to stderr."""

from __future__ import annotations

import codecs
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NoReturn

import typer

from mrirecon.errors import MriReconError
from mrirecon.io.safe.text import utf8


class ConsoleSettings:
    """Hold the settings of `--quiet` and `--traceback`, and the start time of the command."""

    quiet = False
    traceback = False
    begun: float | None = None  # value of `time.monotonic`


def prepare_streams() -> None:
    """Open standard streams that the shell has closed, and let them write any file name in any locale.

    Otherwise the next opened file would get the number of a closed stream, and libraries would print into this file. In
    an ASCII locale, text is written as UTF-8. An undecoded byte of a name is written unchanged, and a character that
    the locale does not have is written as an escape sequence.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is at most this one
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115
    codecs.register_error("mrirecon", _escape_surrogates)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            ascii_only = codecs.lookup(stream.encoding).name == "ascii"
            stream.reconfigure(encoding="utf-8" if ascii_only else None, errors="mrirecon")


def _escape_surrogates(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):  # to read text that was written in this way
        return codecs.lookup_error("surrogateescape")(error)
    part = error.object[error.start : error.end]
    escaped = (
        bytes([ord(c) - 0xDC00]) if "\udc80" <= c <= "\udcff" else c.encode("ascii", "backslashreplace") for c in part
    )
    return b"".join(escaped), error.end


def print_line(text: str) -> None:
    """Print a message to stderr, unless ``--quiet`` is set."""
    if not ConsoleSettings.quiet:
        print_error(text)


def print_error(text: str) -> None:
    """Print to stderr; a closed stream or a full disk does not end the command."""
    with suppress(OSError):
        typer.echo(text, err=True)


def print_json(data: object) -> None:
    """Print plain data as JSON to stdout."""
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False, default=str)
    if codecs.lookup(sys.stdout.encoding or "utf-8").name != "utf-8":
        text = json.dumps(data, indent=2, allow_nan=False, default=str)
    typer.echo(utf8(text).decode())


def fail(error: MriReconError, as_json: bool) -> NoReturn:
    """End a command after its result was printed: raise the error, or print it to stderr if stdout holds JSON.

    Raises:
        MriReconError: the error.
        typer.Exit: exit with the code of the error.

    """
    if not as_json:
        raise error
    print_line(str(error))
    raise typer.Exit(error.exit_code)


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Format a table with aligned columns: text to the left, numbers to the right."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(head), *(len(row[i]) for row in cells), 0) for i, head in enumerate(heads)]
    numbers = [all(not isinstance(row[i], str) for row in rows) for i in range(len(heads))]

    def line(row: Sequence[str]) -> str:
        parts = [c.rjust(w) if n else c.ljust(w) for c, w, n in zip(row, widths, numbers, strict=True)]
        return "  ".join(parts).rstrip()

    return "\n".join([line(heads), line(["-" * w for w in widths]), *map(line, cells)])


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@contextmanager
def progress(title: str, unit: str = "step", quiet_seconds: float = 10.0) -> Iterator[Callable[[int, int, str], None]]:
    """Yield a callback (done, total, what) that shows progress and the remaining time.

    On a terminal it draws a bar, elsewhere it prints lines (`ProgressLines`); with ``--quiet``, it does nothing.
    """
    if ConsoleSettings.quiet or not sys.stderr.isatty():
        yield ProgressLines(unit, quiet_seconds)
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total, what: bar.update(task, completed=done, total=total, description=f"{title}: {what}")


class ProgressLines:
    """Print progress without a terminal: a line after ``quiet_seconds``, then one per minute, with the time left."""

    def __init__(self, unit: str = "step", quiet_seconds: float = 10.0) -> None:
        self.unit, self.quiet_seconds = unit, quiet_seconds
        self.begun: tuple[float, int] | None = None
        self.next = 0.0

    def __call__(self, step: int, total: int, what: str) -> None:
        """Print the progress."""
        now = time.monotonic()
        if self.begun is None:
            self.begun, self.next = (now, step), now + self.quiet_seconds
        if now < self.next or step == self.begun[1]:
            return
        self.next = now + 60
        left = (now - self.begun[0]) / (step - self.begun[1]) * max(0, total - step)
        print_line(f"{self.unit} {step} of {total}, {what}, {format_duration(left)} left")


def format_duration(seconds: float) -> str:
    """Format a duration as "1 h 05 min" or "3 min 07 s"."""
    hours, minutes = divmod(round(seconds) // 60, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {round(seconds) % 60:02d} s"
