"""Packages that only some formats need, imported when such a file is met, with a clear word when one is missing."""

from __future__ import annotations

import importlib.util

from mrirecon.errors import UsageError


def need(package: str, wanted: str) -> None:
    """Refuse to go on without a package of the extra `formats`.

    Args:
        package: its import name.
        wanted: what needs it, in words.

    Raises:
        UsageError: it is not installed; the line that installs it is given.

    """
    if importlib.util.find_spec(package) is None:
        raise UsageError(
            f"{wanted} need the package {package}, which is not installed", fix="pip install 'mrirecon[formats]'"
        )
