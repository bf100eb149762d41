"""Write metrics.json: results of fastMRI's own evaluation of two volumes; needs fastmri 0.3.0.

    python -m tests.goldens.make_metrics

The volumes come from a seed (`volumes`), in float32 as in fastMRI's files, so that only figures need to be kept.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np

HERE = Path(__file__).parent


def volumes(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a reference and a prediction (z, y, x), float32: smooth blobs, and the same with noise and blur."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:52j, -1:1:40j]
    reference = np.zeros((3, 52, 40))
    for z in range(3):
        for _ in range(12):
            a, b, s = (*rng.uniform(-0.6, 0.6, 2), rng.uniform(0.05, 0.4))
            reference[z] += rng.uniform(0.2, 1) * np.exp(-((x - a) ** 2 + (y - b) ** 2) / s**2)
    reference *= 3e-4 if seed == 0 else 2.0
    prediction = np.abs(reference * 0.97 + rng.normal(0, 0.03 * reference.max(), reference.shape))
    return reference.astype(np.float32), prediction.astype(np.float32)


def files() -> tuple[np.ndarray, np.ndarray]:
    """Return a target (3, 40, 40) and a prediction (3, 52, 44), some of which is negative, as files may hold them."""
    rng = np.random.default_rng(7)
    large = np.pad(volumes(1)[0], ((0, 0), (0, 0), (2, 2)))
    prediction = large - 0.05 * large.max() + rng.normal(0, 0.02 * large.max(), large.shape)
    return large[:, 6:46, 2:42].copy(), prediction.astype(np.float32)


def main() -> None:
    """Write the file."""
    import h5py
    from fastmri import evaluate  # type: ignore[import-not-found]

    found = {}
    for seed in (0, 1):
        reference, prediction = (v[:, 6:46] for v in volumes(seed))  # its centre square, as evaluate() crops
        values = {
            name: np.asarray(getattr(evaluate, name)(reference, prediction)).item()
            for name in ("ssim", "psnr", "nmse", "mse")
        }
        found[str(seed)] = values
    target, prediction = files()
    with tempfile.TemporaryDirectory() as folder:
        for name, key, array in (("t", "reconstruction_rss", target), ("p", "reconstruction", prediction)):
            (Path(folder) / name).mkdir()
            with h5py.File(Path(folder) / name / "scan.h5", "w") as file:
                file[key] = array
        asked = SimpleNamespace(
            target_path=Path(folder) / "t", predictions_path=Path(folder) / "p", acquisition=None, acceleration=None
        )
        means = evaluate.evaluate(asked, "reconstruction_rss").means()
        found["files"] = {name.lower(): np.asarray(value).item() for name, value in means.items()}
    (HERE / "metrics.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
