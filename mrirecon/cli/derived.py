"""Help texts that list what is registered: looked up when help is printed, so that the command line starts fast."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from typer.core import TyperCommand


class Derived(TyperCommand):
    """A command in whose help texts ``{families}``, ``{metrics}`` and the like stand for what there is."""

    def format_help(self, context: Any, formatter: Any) -> None:  # classes that typer keeps to itself
        """Print the help."""
        for parameter in self.params:
            text = getattr(parameter, "help", None)
            if text:
                parameter.help = re.sub(r"\{(\w+)\}", lambda found: _LISTS[found[1]](), text)  # type: ignore[attr-defined]
        super().format_help(context, formatter)


def _families() -> str:
    from mrirecon.masks.registry import describe_families

    return describe_families()


def _compats() -> str:
    from mrirecon.masks.registry import compats

    return _either(compats()[1:])


def _mask_files() -> str:
    from mrirecon.masks.files import SUFFIXES

    return _either(SUFFIXES)


def _arrays() -> str:
    from mrirecon.io.writers.write import ARRAY_FORMATS, EXTENSION

    return _either([EXTENSION[format] for format in ARRAY_FORMATS])


def _formats() -> str:
    from mrirecon.io.writers.write import FORMATS

    return ", ".join(FORMATS)


def _metrics() -> str:
    from mrirecon.metrics import METRICS

    return ",".join(METRICS)


def _score() -> str:
    from mrirecon.metrics import score_metrics

    return ",".join(score_metrics())


def _presets() -> str:
    from mrirecon.metrics.presets import PRESETS

    return ", ".join(PRESETS)


def _calibrations() -> str:
    from mrirecon.coils.registry import CALIBRATIONS

    return ", ".join(("auto", *CALIBRATIONS))


def _either(names: tuple[str, ...] | list[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]])


_LISTS: dict[str, Callable[[], str]] = {
    "families": _families,
    "compats": _compats,
    "mask_files": _mask_files,
    "arrays": _arrays,
    "formats": _formats,
    "metrics": _metrics,
    "score": _score,
    "presets": _presets,
    "calibrations": _calibrations,
}
