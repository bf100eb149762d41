"""Prepare docstrings for Sphinx: they are plain text, with names in backticks and sections ``Args:`` and so on."""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

from mrirecon.registries import Registry

_LITERAL = re.compile(r"(``.+?``|`[^`]+`)")
# In reStructuredText these begin markup: *space, |x|, x_, [1]_.
_MARKUP = re.compile(r"([*|\\])|(?<=\w)(_)(?!\w)")


def escape(lines: list[str]) -> list[str]:
    """Return lines of plain text as reStructuredText, which shows them as they are."""
    text = "\n".join(lines)
    parts = _LITERAL.split(text) if "```" not in text else [text]
    parts[::2] = [_MARKUP.sub(r"\\\g<0>", part) for part in parts[::2]]
    return "".join(parts).split("\n")


def process(app: Sphinx, what: str, name: str, subject: Any, options: Any, lines: list[str]) -> None:
    """Escape a docstring in place; tables and indented equations stay as they are."""
    lines[:] = escape(lines)


def skip(app: Sphinx, what: str, name: str, subject: Any, skipped: bool, options: Any) -> bool | None:
    """Skip the fields of named tuples, which have no docstrings of their own, and methods of registries in modules."""
    field = str(getattr(subject, "__doc__", "")).startswith("Alias for field number")
    return True if field or isinstance(getattr(subject, "__self__", None), Registry) else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Run before napoleon, which turns the sections into fields."""
    app.connect("autodoc-process-docstring", process, priority=400)
    app.connect("autodoc-skip-member", skip, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
