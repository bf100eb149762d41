"""Every method as a short composition on the one engine; the keyword-only signature is its configuration."""

from __future__ import annotations

import mrirecon.methods.classical
import mrirecon.methods.learned  # noqa: F401 - importing registers
