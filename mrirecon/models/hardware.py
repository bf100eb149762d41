"""Where to compute, and in which precision networks do."""

from __future__ import annotations

from typing import Literal

import torch

from mrirecon.engine import Precision
from mrirecon.errors import UsageError

PrecisionChoice = Literal["float32", "bfloat16", "auto"]
PRECISIONS: tuple[PrecisionChoice, ...] = ("float32", "bfloat16", "auto")


def pick_device(name: str) -> torch.device:
    """Return a device by name; ``auto`` takes a GPU where there is one.

    Raises:
        UsageError: there is no such device here.

    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"device {name!r} cannot be used here", why=reason, fix="use --device cpu") from None
    return device


def bfloat16_unit(device: torch.device) -> str | None:
    """Return what makes bfloat16 pay on a device, in words; None where float32 is as fast or faster.

    On CPUs that is AMX: without it, bfloat16 takes twice as long as float32.
    """
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.cuda.get_device_name(device) if able else None
    built: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # torch's
    return "AMX" if device.type == "cpu" and built and torch.cpu.get_capabilities().get("amx_bf16") else None


def pick_precision(choice: PrecisionChoice, device: torch.device, *, exact: bool = False) -> tuple[Precision, str]:
    """Return what networks are to compute in, and that in a sentence for the user.

    Args:
        choice: ``auto`` takes bfloat16 where the device makes it pay (see `bfloat16_unit`).
        device: where they run.
        exact: whether the method needs float32, for its steps are undone in training.

    """
    unit = bfloat16_unit(device)
    if choice == "float32":
        return "float32", "networks compute in float32, as asked"
    if choice == "bfloat16":
        slow = "" if unit else ", which is slower than float32 here: there is no AMX and no GPU that has it"
        return "bfloat16", f"networks compute in bfloat16, as asked{slow}"
    if unit and not exact:
        return "bfloat16", f"networks compute in bfloat16, for {unit} makes it faster (precision auto)"
    why = "memory=invert needs it" if exact else "there is no AMX and no GPU that makes bfloat16 faster"
    return "float32", f"networks compute in float32, for {why} (precision auto)"
