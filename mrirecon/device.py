"""Where to compute."""

from __future__ import annotations

import torch

from mrirecon.errors import UsageError


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
