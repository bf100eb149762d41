"""What the verbs say: results to stdout, narration and progress to stderr, neither in the way of a program."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import typer


class Settings:
    """What `--quiet` and `--traceback` ask for, wherever on the command line they stand, and when the command began."""

    quiet = False
    traceback = False
    begun: float | None = None  # of `time.monotonic`


def say(text: str) -> None:
    """Narrate, to stderr."""
    if not Settings.quiet:
        typer.echo(text, err=True)


def emit(data: object) -> None:
    """Print plain data as JSON, to stdout; what is not a number is null."""
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False, default=str))


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
