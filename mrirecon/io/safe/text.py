"""Convert file names of any bytes to UTF-8, write JSON, and parse JSON from untrusted files.

Python represents each byte of a file name that the locale cannot decode by a lone surrogate (PEP 383). Under
``LC_ALL=C`` this affects every name that is not ASCII. Text in files must not depend on the locale, and is UTF-8.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mrirecon.errors import UsageError

DEPTH = 64  # largest number of levels in JSON; mrirecon writes fewer than ten


def counted(notes: Iterable[str]) -> list[str]:
    """Return notes without repetitions: of notes that differ only in numbers, the first, with their number."""
    alike: dict[str, list[str]] = {}
    for note in notes:
        alike.setdefault(re.sub(r"\d+(\.\d+)?(e-?\d+)?", "0", note), []).append(note)
    several = {first: len({*rest} - {first}) for first, *rest in alike.values()}
    return [f"{first} (and {more} more such notes)" if more else first for first, more in several.items()]


def portable(text: str) -> str:
    """Decode undecoded bytes of text as UTF-8; bytes that are not UTF-8 stay lone surrogates."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # surrogates that do not represent a byte
        return text


def local(text: str) -> str:
    """Encode a file name for the locale of this process: the inverse of `portable`."""
    try:
        return os.fsdecode(text.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        return text


def utf8(text: str) -> bytes:
    r"""Encode text as UTF-8; write a byte that is not UTF-8 as ``\udcXX``, from which JSON restores it."""
    return portable(text).encode("utf-8", "backslashreplace")


def json_text(content: object) -> str:
    """Convert plain data to indented JSON; convert numpy numbers and arrays, paths and tuples, too.

    Raises:
        UsageError: NaN or infinity, which JSON cannot hold, or data that are not plain.

    """
    try:
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False, default=_plain) + "\n"
    except (TypeError, ValueError) as error:
        raise UsageError("these data cannot be written as JSON", why=str(error)) from None


def _plain(value: object) -> object:
    import numpy as np  # imported here, so that the command line starts faster

    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not plain data")


def parse_json(text: str | bytes) -> Any:
    """Parse JSON.

    Raises:
        ValueError: not JSON, or nested more than `DEPTH` levels deep.

    """
    too_deep = f"it is nested more than {DEPTH} levels deep"
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError(too_deep) from None
    level = [content]
    for _ in range(DEPTH):  # check the depth now: later code recurses into the content
        inner = (v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list))
        level = [v for values in inner for v in values if isinstance(v, dict | list)]
    if level:
        raise ValueError(too_deep)
    return content
