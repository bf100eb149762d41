"""Threads that sleep while they wait, so that a busy machine stays usable."""

from __future__ import annotations

import os
import sys

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
