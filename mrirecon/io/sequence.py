"""What a scan's header says of its sequence, in the words of DICOM and BIDS."""

from __future__ import annotations

import math
from collections.abc import Mapping

# DICOM's keyword (BIDS has the same): header values that mean it, and whether BIDS counts it in seconds.
_WORDS: dict[str, tuple[tuple[str, ...], bool]] = {
    "RepetitionTime": (("tr_ms", "tr"), True),
    "EchoTime": (("te_ms", "te"), True),
    "InversionTime": (("ti_ms", "ti"), True),
    "FlipAngle": (("flip_angle_deg", "flip_angle"), False),
    "MagneticFieldStrength": (("field_strength_t", "field_strength", "b0_t", "b0"), False),
}


def sequence(attributes: Mapping[str, object], loops: Mapping[str, int] | None = None) -> dict[str, float]:
    """Return times in ms, angle in degrees and field in T by DICOM's keywords, as far as a scan's attributes tell.

    A time that a loop varies is left out: the one that is stated is not that of every image.

    Args:
        attributes: of the scan.
        loops: lengths of its loop axes.

    """
    varied = {"echo": "EchoTime", "contrast": "EchoTime"}
    left_out = {varied[name] for name, n in (loops or {}).items() if n > 1 and name in varied}
    found = {}
    for word, (names, _) in _WORDS.items():
        value = next((v for v in (_number(attributes.get(name)) for name in names) if v is not None), None)
        if value is not None and word not in left_out:
            found[word] = value
    return found


def in_seconds(values: Mapping[str, float]) -> dict[str, float]:
    """Return the same with times in seconds, as BIDS wants them."""
    return {word: value / 1000 if _WORDS[word][1] else value for word, value in values.items()}


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) and number > 0 else None
