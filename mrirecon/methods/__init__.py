"""Every method as a short composition on the one engine; the keyword-only signature is its configuration.

Every file here is imported, so that adding a method is adding a file.
"""

from __future__ import annotations

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
