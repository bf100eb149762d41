"""Write fastmri_masks.json: masks that fastMRI's and mridc's own code draws for a seed.

Run it in an environment of its own, never in this project's:

    python -m venv venv && venv/bin/pip install torch==2.13.0 numpy
    venv/bin/pip install --no-deps fastmri==0.3.0 mridc==0.2.0
    venv/bin/python tests/goldens/make_fastmri_masks.py

Only the one file of each package that draws masks is loaded: the packages' own imports need much more.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np

WIDTHS = [320, 368, 396, 216, 45, 131]
PAIRS = [([4], [0.08]), ([8], [0.04]), ([2], [0.1]), ([4, 8], [0.08, 0.04]), ([5], [0.0])]
SEEDS = [0, 1, 4294967295, list(map(ord, "file1000031.h5"))]
PLANES = [(320, 320), (230, 180), (45, 131)]


def load(package: str, file: str) -> ModuleType:
    """Load one file of an installed package, without running the package."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{package} is not installed")
    path = Path(next(iter(spec.submodule_search_locations))) / file
    found = importlib.util.spec_from_file_location(f"{package}_subsample", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def packed(lines: np.ndarray) -> str:
    """Return the bits as hexadecimal text."""
    return np.packbits(lines.astype(bool)).tobytes().hex()


def fastmri_cases() -> list[list[object]]:
    """Return kind, width, accelerations, center fractions, seed; and lines in the centre, lines."""
    code = load("fastmri", "data/subsample.py")
    kinds = {
        "random": code.RandomMaskFunc,
        "equispaced": code.EquiSpacedMaskFunc,
        "equispaced_fraction": code.EquispacedMaskFractionFunc,
    }
    cases: list[list[object]] = []
    for kind, function in kinds.items():
        for n in WIDTHS:
            for accelerations, fractions in PAIRS:
                for seed in SEEDS:
                    start = tuple(seed) if isinstance(seed, list) else seed
                    mask, low = function(fractions, accelerations)((1, n, 2), seed=start)
                    lines = packed(mask.numpy().reshape(-1))
                    cases.append([kind, n, accelerations, fractions, seed, low, lines])
    return cases


def mridc_cases() -> list[list[object]]:
    """Return family, shape, acceleration, seed; and samples, SHA-256 of the bits, before mridc shifts and slices."""
    code = load("mridc", "collections/reconstruction/data/subsample.py")
    cases: list[list[object]] = []
    for family, function in (("gaussian1d", code.Gaussian1DMaskFunc), ("gaussian2d", code.Gaussian2DMaskFunc)):
        for shape in PLANES:
            for acceleration in (4, 7.5, 10):
                for seed in (0, 7):
                    drawer = function([0.7], [acceleration])
                    drawer.shape, drawer.acceleration, drawer.scale = shape, acceleration, 0.02
                    drawer.full_width_half_maximum = [0.7, 0.7]
                    np.random.seed(seed)  # noqa: NPY002 - mridc draws from the global generator
                    mask = drawer.gaussian_kspace()
                    mask[tuple(drawer.gaussian_coordinates())] = 1
                    drawn = mask[:, 0] if family == "gaussian1d" else mask
                    digest = hashlib.sha256(bytes.fromhex(packed(drawn))).hexdigest()
                    cases.append([family, shape, acceleration, seed, int(drawn.sum()), digest])
    return cases


def main() -> None:
    """Write the cases beside this script, one a line."""
    groups = {"fastmri": fastmri_cases(), "mridc": mridc_cases()}
    rows = {name: [json.dumps(case, separators=(",", ":")) for case in cases] for name, cases in groups.items()}
    text = ",\n".join(f'"{name}": [\n' + ",\n".join(lines) + "\n]" for name, lines in rows.items())
    path = Path(__file__).with_name("fastmri_masks.json")
    path.write_text("{\n" + text + "\n}\n")
    print(path, {name: len(cases) for name, cases in groups.items()})


if __name__ == "__main__":
    main()
