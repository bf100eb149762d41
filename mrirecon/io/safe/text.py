"""Text in files: names of any bytes written as UTF-8, and JSON that is read without trusting who wrote it.

Python holds a file name that its locale cannot decode with a lone surrogate for each such byte (PEP 383). Under
``LC_ALL=C`` that is every name that is not ASCII. Text in files must not depend on the locale, and is UTF-8.
"""

from __future__ import annotations

import json
import os
from typing import Any

DEPTH = 64  # levels that JSON may have; what mrirecon writes has fewer than ten


def portable(text: str) -> str:
    """Return text whose undecoded bytes are decoded as UTF-8 where they are that; the others stay lone surrogates."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # surrogates that stand for no byte
        return text


def local(text: str) -> str:
    """Return the text of a file's name as this process has to spell it: the inverse of `portable`."""
    try:
        return os.fsdecode(text.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        return text


def utf8(text: str) -> bytes:
    r"""Return text as UTF-8; a byte of a name that is no UTF-8 is written ``\udcXX``, which JSON reads as it was."""
    return portable(text).encode("utf-8", "backslashreplace")


def parse_json(text: str | bytes) -> Any:
    """Return the values of JSON.

    Raises:
        ValueError: it is no JSON, or nested more than `DEPTH` levels deep.

    """
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    level, depth = [found], 0
    while level:  # level by level: Python's own recursion is what must not be exhausted, here and later
        depth += 1
        if depth > DEPTH:
            raise ValueError(f"it is nested more than {DEPTH} levels deep")
        inner = (v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list))
        level = [v for values in inner for v in values if isinstance(v, dict | list)]
    return found
