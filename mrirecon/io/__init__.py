"""Files in and out. All checks on what comes from outside live here; nothing here needs torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mrirecon.io.geometry import Geometry
    from mrirecon.io.info import describe, describe_images
    from mrirecon.io.readers.images import read_array, read_image
    from mrirecon.io.readers.reader import read
    from mrirecon.io.safe.atomic import atomic_path, refuse_overwrite, safe_name, sha256
    from mrirecon.io.safe.hdf5 import open_hdf5
    from mrirecon.io.scan import Scan
    from mrirecon.io.writers.write import sidecar_path, write_image, write_json, write_kspace, write_maps

__all__ = [
    "Geometry",
    "Scan",
    "atomic_path",
    "describe",
    "describe_images",
    "open_hdf5",
    "read",
    "read_array",
    "read_image",
    "refuse_overwrite",
    "safe_name",
    "sha256",
    "sidecar_path",
    "write_image",
    "write_json",
    "write_kspace",
    "write_maps",
]
# Modules are imported when one of their names is first asked for: some parts of this folder must stay light.
_HOMES = {
    "Geometry": "geometry",
    "Scan": "scan",
    "atomic_path": "safe.atomic",
    "describe": "info",
    "describe_images": "info",
    "open_hdf5": "safe.hdf5",
    "read": "readers.reader",
    "read_array": "readers.images",
    "read_image": "readers.images",
    "refuse_overwrite": "safe.atomic",
    "safe_name": "safe.atomic",
    "sha256": "safe.atomic",
    "sidecar_path": "writers.write",
    "write_image": "writers.write",
    "write_json": "writers.write",
    "write_kspace": "writers.write",
    "write_maps": "writers.write",
}

if not TYPE_CHECKING:  # a type checker would take every name for known

    def __getattr__(name: str) -> object:
        """Import a name of `__all__` from its module."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
