"""Define the errors that a user can cause: what happened, where, why, and what to do.

The library raises these errors, and the command line converts them to a message and an exit code. Any other exception
is a bug in mrirecon, with exit code 1.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM, errno.EMFILE}


class MriReconError(Exception):
    """Report an error that the user can fix; the base of all others.

    Args:
        what: what went wrong, in one sentence.
        where: the file, dataset, key or index.
        why: the cause, with the numbers that show it.
        fix: what to do.

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
        """Return the error as plain data, for ``--json`` and lists of failures."""
        fields = ("code", "exit_code", "what", "where", "why", "fix")
        return {name: getattr(self, name) for name in fields}


class UsageError(MriReconError):
    """Report a wrong option or configuration key, or a wrong combination of them (exit 2)."""

    code, exit_code = "MRI-E-USAGE", 2


class InputError(MriReconError):
    """Report an unusable file or array (exit 3)."""

    code, exit_code = "MRI-E-INPUT", 3


class BusyError(InputError):
    """Report a file that another program is writing (exit 3); a batch retries it later."""

    code = "MRI-E-BUSY"


class SignalError(InputError):
    """Report k-space without signal, or with NaN or infinity (exit 3)."""

    code = "MRI-E-SIGNAL"


class NoSignalError(SignalError):
    """Report k-space that is zero everywhere (exit 3); in a scan of several items, this item's image is zero."""


class CalibrationError(InputError):
    """Report a calibration region that is missing, or too small for coil maps (exit 3)."""

    code = "MRI-E-CALIBRATION"


class PartialFailure(MriReconError):
    """Report that some items of a batch failed and the others succeeded (exit 4)."""

    code, exit_code = "MRI-E-PARTIAL", 4


class ResourceError(MriReconError):
    """Report that disk or memory is full (exit 5)."""

    code, exit_code = "MRI-E-RESOURCE", 5


class UnsafeContentError(MriReconError):
    """Report a file that refers to other files: links, external or virtual storage (exit 6)."""

    code, exit_code = "MRI-E-UNSAFE", 6


class ModelMismatchError(MriReconError):
    """Report weights that do not match the data or the configuration (exit 7)."""

    code, exit_code = "MRI-E-MODEL", 7


def as_known(error: Exception) -> MriReconError | None:
    """Return the error that a user can fix, or None for a bug."""
    if isinstance(error, MriReconError):
        return error
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "memory" in str(error).lower()):
        fix = "reconstruct fewer or smaller slices at a time, or use a machine with more memory"
        return ResourceError("out of memory", why=str(error).splitlines()[0] if str(error) else None, fix=fix)
    if isinstance(error, OSError):
        name = str(error.filename) if error.filename else None
        if error.errno in _FULL:
            return ResourceError(
                "the disk or the memory is full",
                where=name,
                why=error.strerror,
                fix="free disk space or memory, and try again",
            )
        return InputError(
            "a file cannot be accessed", where=name, why=error.strerror or str(error), fix="check the path"
        )
    return None


def as_project_error(error: Exception) -> MriReconError:
    """Convert any error to an error of this module; an unknown error is reported as a bug."""
    return as_known(error) or MriReconError(
        "unexpected error, a bug in mrirecon",
        why=f"{type(error).__name__}: {error}",
        fix="run the command again with --traceback, and report the output",
    )


# Options of the command line whose argument in Python has another name, or is a field of another argument.
_ARGUMENTS = {
    "lambda": "lam",
    "set": "options",
    "reference": "reference",
    "compress": "preprocess=Preprocess(coils",
    "remove-oversampling": "preprocess=Preprocess(oversampling",
    "combine": "preprocess=Preprocess(average",
    **{name: f"preprocess=Preprocess({name.replace('-', '_')}" for name in ("whiten", "partial-fourier", "readout")},
}
_PHRASES = {
    "check the data with `mrirecon info FILE`": "check the values of k-space",
    "`mrirecon calibrate PRESCAN -o maps.h5`": "mrirecon.espirit(prescan)",
    "or take a smaller kernel there": "or take a smaller kernel in mrirecon.espirit",
    "if this is wrong, pass --axes": "if this is wrong, give axes",
    "the file holds no coil maps": "no coil maps are given",
    "argument:": "argument ",
    "FILE": "ARRAY",
}
_WORD = r"auto|average|background|cpu|cs|echoes|espirit|file|homodyne|mrirecon|none|pocs|rim|rss|walsh|zero-filled|zero"
_OPTION = re.compile(rf"--([a-z][a-z-]*)(?: ((?:{_WORD}|[A-Z]{{3,}}|\d+(?:\.\d+)?|\w+(?:,\w+)+|\w+=\w+)\b))?")


def in_terms_of_arguments(text: str) -> str:
    """Replace options of the command line in a message by arguments in Python.

    "use --maps espirit, or --lambda" becomes "use maps='espirit', or lam".
    """

    def argument(match: re.Match[str]) -> str:
        option, value = match.groups()
        name = _ARGUMENTS.get(option, option.replace("-", "_"))
        opened = ")" if "(" in name else ""
        if value is None:
            return name + opened
        if option == "set":
            key, _, number = value.partition("=")
            return f"options={{{key!r}: {number}}}"
        return f"{name}={value if value.isupper() or value[0].isdigit() else repr(value)}{opened}"

    for phrase, replacement in _PHRASES.items():
        text = text.replace(phrase, replacement)
    return _OPTION.sub(argument, text)


@contextmanager
def errors_name_arguments() -> Iterator[None]:
    """Make errors name arguments in Python instead of options of the command line; also a decorator of functions."""
    try:
        yield
    except MriReconError as error:
        for name in ("what", "where", "why", "fix"):
            text = getattr(error, name)
            setattr(error, name, None if text is None else in_terms_of_arguments(text))
        raise


class Stopped(BaseException):
    """Report a signal that stopped the program: exit code 128 plus the number of the signal."""

    def __init__(self, number: int, message: str = "no incomplete files remain") -> None:
        super().__init__(message)
        self.number = number
