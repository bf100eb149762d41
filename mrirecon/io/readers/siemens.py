"""Decide whether raw data must be conjugated, because Siemens uses the other sign in the exponent.

Siemens states the directions of readout, phase and partition encoding for a *forward* transform from k-space to image:
with these directions, samples are s(k) = ∫ m(r) exp(+2πi k·r) dr. This toolkit uses the inverse transform from k-space
to image, so the image would be flipped along every encoded axis: a slice would be rotated by 180° in its plane, and a
volume would be a mirror image. The conjugate samples are s*(k) = ∫ m*(r) exp(-2πi k·r) dr, which is this toolkit's
definition of k-space: the image has the right orientation, and the sign of its phase is that of a signal that precesses
by exp(-iγB t), both for gradients and off-resonance. Conjugation moves no sample, so centres, partial Fourier and odd
sizes do not change. Flipping k-space instead would need a partner for the first sample of an even axis, which was not
measured. Noise, its covariance, calibration and phase-correction lines are conjugated too. (See also mrpro's issue 828
and pull request 833.)

Pulseq sequences run on the same scanners, but with gradients for which the inverse transform is right. They are
recognised by the name of the sequence.
"""

from __future__ import annotations

import re

from mrirecon.io.readers.readouts import LATE, REVERSED, STORED, Way

SEQUENCE_NAME = "measurementInformation/sequenceName"  # in the ISMRMRD header
SIEMENS_WAYS: tuple[Way, ...] = (LATE, STORED, REVERSED)
_PULSEQ = "pulseq"


def is_siemens(vendor: object) -> bool:
    """Return whether a header names Siemens as the vendor."""
    return "siemens" in str(vendor or "").lower()


def forward_transform(vendor: object, sequence: str | None) -> tuple[bool, str | None]:
    r"""Return whether samples must be conjugated, and a note with the reason (None for other vendors).

    Args:
        vendor: vendor as stated in the header.
        sequence: name of the sequence's file, such as ``%CustomerSeq%\gre``; None if the header does not name it.

    """
    if not is_siemens(vendor):
        return False, None
    name = _last_part(sequence)
    if not name:
        return True, (
            "k-space conjugated (assumed): Siemens states directions for a forward transform; the header does not name "
            "the sequence, and if that is Pulseq, the image is rotated by 180 degrees: name it in the header (of "
            f"ISMRMRD in {SEQUENCE_NAME})"
        )
    if _PULSEQ in (sequence or "").lower():
        return (
            False,
            f"k-space not conjugated: the sequence {name!r} is Pulseq, for which the directions are already right",
        )
    why = f"Siemens states directions for a forward transform, and the sequence {name!r} is not Pulseq"
    return True, f"k-space conjugated: {why}"


def _last_part(sequence: str | None) -> str:
    """Return the name of a sequence without folder and special characters."""
    name = re.split(r"[\\/]", (sequence or "").strip().strip('"'))[-1]
    return re.sub(r"[^\w.+-]", "", name)[:40]
