"""Write file names of any bytes as UTF-8, and parse JSON from untrusted files.

Python holds a file name that its locale cannot decode with a lone surrogate for each such byte (PEP 383). Under
``LC_ALL=C`` that is every name that is not ASCII. Text in files must not depend on the locale, and is UTF-8.
"""

from __future__ import annotations

import json
import os
from typing import Any

DEPTH = 64  # levels that JSON may have; mrirecon writes fewer than ten


def portable(text: str) -> str:
    """Return text with undecoded bytes decoded as UTF-8; bytes that are not UTF-8 stay lone surrogates."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # surrogates that stand for no byte
        return text


def local(text: str) -> str:
    """Return a file's name as the locale of this process spells it: the inverse of `portable`."""
    try:
        return os.fsdecode(text.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        return text


def utf8(text: str) -> bytes:
    r"""Return text as UTF-8. A byte that is not UTF-8 is written as ``\udcXX``, from which JSON restores it."""
    return portable(text).encode("utf-8", "backslashreplace")


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
    for _ in range(DEPTH):  # level by level: code that walks the content later recurses
        inner = (v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list))
        level = [v for values in inner for v in values if isinstance(v, dict | list)]
    if level:
        raise ValueError(too_deep)
    return content
