"""Read, check and write files, without torch.

The names of `__all__` are imported when they are first used, so that the command line starts fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mrirecon import import_on_use

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
_HOMES = {
    "Geometry": "geometry.Geometry",
    "Scan": "scan.Scan",
    **{name: f"info.{name}" for name in ("describe", "describe_images")},
    "read": "readers.reader.read",
    **{name: f"readers.images.{name}" for name in ("read_array", "read_image")},
    **{name: f"safe.atomic.{name}" for name in ("atomic_path", "refuse_overwrite", "safe_name", "sha256")},
    "open_hdf5": "safe.hdf5.open_hdf5",
    **{f"write_{what}": f"writers.write.write_{what}" for what in ("image", "json", "kspace", "maps")},
    "sidecar_path": "writers.write.sidecar_path",
}

if not TYPE_CHECKING:  # otherwise a type checker would accept every name
    __getattr__ = import_on_use(__name__, _HOMES)
