"""What the verbs say: results to stdout, narration and progress to stderr, neither in the way of a program."""

from __future__ import annotations

import codecs
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import typer

from mrirecon.io.safe.text import utf8


class Settings:
    """What `--quiet` and `--traceback` ask for, wherever on the command line they stand, and when the command began."""

    quiet = False
    traceback = False
    begun: float | None = None  # of `time.monotonic`


def prepare_streams() -> None:
    """Have stdin, stdout and stderr be open, and able to say any name of a file, whatever the shell and locale are.

    A stream that the shell closed would leave its number to the next file that is opened, and what libraries print
    would go into that file. In an ASCII locale, text is written as UTF-8; a byte of a name that could not be decoded is
    written as it was, and a character that the locale lacks is spelled out.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one or one before it
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115
    codecs.register_error("mrirecon", _spelled)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            ascii_only = codecs.lookup(stream.encoding).name == "ascii"
            stream.reconfigure(encoding="utf-8" if ascii_only else None, errors="mrirecon")


def _spelled(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):  # what was written is read again
        return codecs.lookup_error("surrogateescape")(error)
    part = error.object[error.start : error.end]
    told = (bytes([ord(c) - 0xDC00]) if _is_byte(c) else c.encode("ascii", "backslashreplace") for c in part)
    return b"".join(told), error.end


def _is_byte(character: str) -> bool:
    return "\udc80" <= character <= "\udcff"


def say(text: str) -> None:
    """Narrate, to stderr."""
    if not Settings.quiet:
        complain(text)


def complain(text: str) -> None:
    """Write to stderr; where nobody reads it any more, or its disk is full, that does not end the work."""
    with suppress(OSError):
        typer.echo(text, err=True)


def emit(data: object) -> None:
    """Print plain data as JSON, to stdout; what is not a number is null."""
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False, default=str)
    if codecs.lookup(sys.stdout.encoding or "utf-8").name != "utf-8":
        text = json.dumps(data, indent=2, allow_nan=False, default=str)
    typer.echo(utf8(text).decode())


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return aligned columns: text to the left, numbers to the right."""
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
def progress(title: str) -> Iterator[Callable[[int, int, str], None] | None]:
    """Give a callback (done, total, what) that draws a bar; None where stderr is not a terminal or all is quiet."""
    if Settings.quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total, what: bar.update(task, completed=done, total=total, description=f"{title}: {what}")
