"""How many cores there are to use, and threads that sleep while they wait, so that a busy machine stays usable."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# By default the threads of OpenMP spin for a while when they have nothing to do. Where others want the cores, each
# that is taken away from one makes the rest spin until it comes back.
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}


def wait_passively() -> bool:
    """Have the threads of this process, and of those it starts, sleep rather than spin; what the user set stays.

    OpenMP reads its settings when it is loaded: this has to come before torch and NumPy.

    Returns:
        Whether it came in time.

    """
    if "torch" in sys.modules:
        return False
    if not any(name in os.environ for name in PASSIVE):
        os.environ.update(PASSIVE)
    return True


def usable_cores(root: Path = Path("/sys/fs/cgroup")) -> float:
    """Return how many cores this process may use: those it may run on, less where a control group allows less."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = float(len(affinity(0)) if affinity else os.cpu_count() or 1)
    for quota, period in ((root / "cpu.max", None), (root / "cpu/cpu.cfs_quota_us", root / "cpu/cpu.cfs_period_us")):
        try:
            words = quota.read_text().split() + ([] if period is None else period.read_text().split())
            if float(words[0]) > 0:
                cores = min(cores, float(words[0]) / float(words[1]))
        except (OSError, ValueError, IndexError):
            continue
    return cores
