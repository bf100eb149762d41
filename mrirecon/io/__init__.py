"""Files in and out. All checks on what comes from outside live here; nothing here needs torch."""

from __future__ import annotations

from mrirecon.io.atomic import atomic_path, refuse_overwrite, safe_name, sha256
from mrirecon.io.geometry import Geometry
from mrirecon.io.hdf5 import open_hdf5
from mrirecon.io.images import read_array, read_image
from mrirecon.io.info import describe, describe_images
from mrirecon.io.reader import read
from mrirecon.io.scan import Scan
from mrirecon.io.write import sidecar_path, write_image, write_json, write_kspace, write_maps

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
