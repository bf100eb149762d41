"""Select hardware: cores and waiting threads, devices, and the precision of networks.

torch is imported only inside functions, because `wait_passively` must run before this import.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mrirecon.errors import UsageError

if TYPE_CHECKING:
    import torch

    from mrirecon.engine import Precision

PrecisionChoice = Literal["float32", "bfloat16", "auto"]
# By default, idle threads of OpenMP spin for a while. On a busy machine, a thread that loses its core makes the others
# spin until it continues.
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}


def wait_passively() -> bool:
    """Let idle threads of this process and its children sleep instead of spin; keep settings of the user.

    OpenMP reads its settings when it is loaded, so call this before torch and NumPy are imported.

    Returns:
        Whether the call came in time.

    """
    if "torch" in sys.modules:
        return False
    if not any(name in os.environ for name in PASSIVE):
        os.environ.update(PASSIVE)
    return True


def usable_cores(root: Path = Path("/sys/fs/cgroup")) -> float:
    """Return the number of cores that this process may use: its affinity, or less if a control group limits it."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = float(len(affinity(0)) if affinity else os.cpu_count() or 1)
    for files in ((root / "cpu.max",), (root / "cpu/cpu.cfs_quota_us", root / "cpu/cpu.cfs_period_us")):
        try:
            quota, period = (float(word) for file in files for word in file.read_text().split())
        except (OSError, ValueError):
            continue
        if quota > 0:
            cores = min(cores, quota / period)
    return cores


def pick_device(name: str) -> torch.device:
    """Return a device by name; ``auto`` takes a GPU if there is one.

    Raises:
        UsageError: no such device on this machine.

    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"device {name!r} cannot be used on this machine", why=reason, fix="use --device cpu"
        ) from None
    return device


def bfloat16_unit(device: torch.device) -> str | None:
    """Return the hardware that makes bfloat16 faster than float32 on a device, or None.

    On CPUs this is AMX: without it, bfloat16 takes twice as long as float32.
    """
    import torch

    if device.type == "cuda":
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.cuda.get_device_name(device) if supported else None
    built: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # torch's
    return "AMX" if device.type == "cpu" and built and torch.cpu.get_capabilities().get("amx_bf16") else None


def pick_precision(choice: PrecisionChoice, device: torch.device, *, exact: bool = False) -> tuple[Precision, str]:
    """Choose the precision of networks; return it with a note on the reason.

    Args:
        choice: ``auto`` takes bfloat16 if it is faster (see `bfloat16_unit`).
        device: device of the networks.
        exact: whether the method needs float32, because training recomputes its steps backwards.

    """
    unit = bfloat16_unit(device)
    if choice == "float32":
        return "float32", "networks compute in float32, as requested"
    if choice == "bfloat16":
        slow = "" if unit else ", which is slower than float32 on this machine, without AMX or a suitable GPU"
        return "bfloat16", f"networks compute in bfloat16, as requested{slow}"
    if unit and not exact:
        return "bfloat16", f"networks compute in bfloat16, because {unit} makes it faster (precision auto)"
    why = "memory=invert needs it" if exact else "this machine has no AMX and no GPU that makes bfloat16 faster"
    return "float32", f"networks compute in float32, because {why} (precision auto)"
