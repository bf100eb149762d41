"""Every error that a user can cause, with what happened, where, why, and what to do about it.

The library raises these; the command line turns them into a message and an exit code. Anything else that escapes is
a fault of ours, and exits with 1.
"""

from __future__ import annotations

import errno

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM, errno.EMFILE}


class MriReconError(Exception):
    """Base of all errors that are the user's to mend.

    Args:
        what: one sentence that says what went wrong.
        where: the file, dataset, key or index concerned.
        why: the cause, with the numbers that show it.
        fix: what to do next.

    """

    code = "MRI-E-INTERNAL"
    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, why: str | None = None, fix: str | None = None) -> None:
        super().__init__(what)
        self.what, self.where, self.why, self.fix = what, where, why, fix

    def __str__(self) -> str:
        parts = [self.what]
        for label, text in (("where", self.where), ("why", self.why), ("fix", self.fix)):
            if text:
                parts.append(f"  {label}: {text}")
        return "\n".join(parts)

    def as_dict(self) -> dict[str, str | int | None]:
        """Return the error as plain data, for ``--json`` and for failure lists."""
        return {
            "code": self.code,
            "exit_code": self.exit_code,
            "what": self.what,
            "where": self.where,
            "why": self.why,
            "fix": self.fix,
        }


class UsageError(MriReconError):
    """An option, a configuration key or a combination of them that cannot be meant (exit 2)."""

    code, exit_code = "MRI-E-USAGE", 2


class InputError(MriReconError):
    """A file or an array that cannot be used as it is (exit 3)."""

    code, exit_code = "MRI-E-INPUT", 3


class BusyError(InputError):
    """A file that another program is writing or making at this moment (exit 3); a batch tries it again later."""

    code = "MRI-E-BUSY"


class SignalError(InputError):
    """k-space that holds nothing to reconstruct, or values that are not numbers (exit 3)."""

    code = "MRI-E-SIGNAL"


class NoSignalError(SignalError):
    """k-space that is zero everywhere (exit 3); in a scan of several items, the image of such an item is zero."""


class CalibrationError(InputError):
    """A calibration region that is missing or too small to estimate coil maps from (exit 3)."""

    code = "MRI-E-CALIBRATION"


class PartialFailure(MriReconError):
    """Some items of a batch failed, and the others are done (exit 4)."""

    code, exit_code = "MRI-E-PARTIAL", 4


class ResourceError(MriReconError):
    """Disk or memory ran out (exit 5)."""

    code, exit_code = "MRI-E-RESOURCE", 5


class UnsafeContentError(MriReconError):
    """A file that reaches outside itself: links, external or virtual storage (exit 6)."""

    code, exit_code = "MRI-E-UNSAFE", 6


class ModelMismatchError(MriReconError):
    """Weights that do not belong to the data or to the configuration (exit 7)."""

    code, exit_code = "MRI-E-MODEL", 7


def as_known(error: Exception) -> MriReconError | None:
    """Return an error of any kind as one of ours; None for a fault of our own."""
    if isinstance(error, MriReconError):
        return error
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "memory" in str(error).lower()):
        fix = "reconstruct fewer or smaller slices at a time, or use a machine with more memory"
        return ResourceError("memory ran out", why=str(error).splitlines()[0] if str(error) else None, fix=fix)
    if isinstance(error, OSError):
        name = str(error.filename) if error.filename else None
        if error.errno in _FULL:
            return ResourceError(
                "disk or memory ran out", where=name, why=error.strerror, fix="free some, and try again"
            )
        return InputError("a file cannot be used", where=name, why=error.strerror or str(error), fix="check the path")
    return None


def as_project_error(error: Exception) -> MriReconError:
    """Return an error of any kind as one of ours: what is not known is our fault, and says so."""
    return as_known(error) or MriReconError(
        "an unexpected error, which is a fault of mrirecon",
        why=f"{type(error).__name__}: {error}",
        fix="run it again with --traceback, and report what that prints",
    )


class Stopped(BaseException):
    """A signal asked to end: unwind, so that temporary files go, and exit with 128 and the signal's number."""

    def __init__(self, number: int, told: str = "nothing half written remains") -> None:
        super().__init__(told)
        self.number = number
