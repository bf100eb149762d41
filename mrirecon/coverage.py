"""Which method suits a scan, and whether a trained model was trained for data like these: its card against the scan."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from mrirecon.calibrate import EspiritOptions, Source
from mrirecon.checkpoints import describe_model, shipped
from mrirecon.coils.calibration import find_calibration
from mrirecon.coils.noise import noise_deviation
from mrirecon.io import Scan
from mrirecon.metrics import object_mask
from mrirecon.operators import Fourier, root_sum_of_squares

# Achieved rates and sizes scatter around what was asked for in training; measured SNR is an estimate.
SLACK = {"acceleration": 1.15, "calibration": 1.0, "size": 1.7, "coils": 1.3, "snr": 1.5}
PREFERRED = "cirim"  # the learned method that is chosen where its card covers the data
CONTRASTS = {"t1w": r"t1", "t2w": r"t2|tse|haste", "flair": r"flair|tirm", "pdw": r"pd", "t2*w": r"swi|t2s|flash"}


def choose_method(scan: Scan, item: int = 0, maps: Source = "auto") -> tuple[str, str]:
    """Return the method that suits what the scan holds, and why, in words."""
    mask = scan.mask(item)
    rate = mask.size / mask.sum()
    box = [s.stop - s.start for s in find_calibration(mask)]
    separate = scan.calibration is not None
    if rate < 1.01:
        return "zero-filled", "fully sampled: combining the coils is the least-squares solution"
    if scan.coils == 1:
        return "cs", f"one coil, {rate:.1f}-fold undersampled"
    if maps in ("auto", "file") and scan.roles.maps is not None:
        return "cs", f"{rate:.1f}-fold undersampled, coil maps in the file"
    kernel = EspiritOptions().kernel
    if min(box) >= kernel or separate:
        size = "a separate calibration scan" if separate else f"a {'×'.join(map(str, box))} calibration region"
        why = f"{rate:.1f}-fold undersampled with {size}"
        if PREFERRED not in shipped():
            return "cs", why
        beyond = outside(_card(shipped()[PREFERRED]), scan, item)
        return (
            ("cs", f"{why}; not {PREFERRED}: {beyond[0]}") if beyond else (PREFERRED, f"{why}, as it was trained for")
        )
    return "rss", (
        f"{rate:.1f}-fold undersampled, and its calibration region of {'×'.join(map(str, box))} is too small for coil "
        f"maps ({kernel} samples along each axis): aliasing remains. Give maps with --maps FILE to remove it"
    )


def scan_facts(scan: Scan, item: int = 0) -> dict[str, float]:
    """Return what a model's card is compared with: acceleration, calibration, smallest and largest side, coils, SNR.

    The SNR is that of the zero-filled image inside the object, over the noise of an average coil.
    """
    kspace, mask = scan.kspace(item), scan.mask(item)
    box = [s.stop - s.start for s in find_calibration(mask)]
    images = Fourier(tuple(range(-mask.ndim, 0))).adjoint(torch.from_numpy(kspace))
    magnitude = root_sum_of_squares(images, 0)
    inside = object_mask(magnitude.reshape(-1, *magnitude.shape[-2:])).reshape(magnitude.shape)
    noise = float(np.sqrt((noise_deviation(kspace, mask) ** 2).mean()))
    signal = float(magnitude[inside].mean()) if bool(inside.any()) else 0.0
    return {
        "acceleration": mask.size / int(mask.sum()),
        "calibration": float(min(box)),
        "smallest side": float(min(mask.shape)),
        "largest side": float(max(mask.shape)),
        "coils": float(scan.coils),
        "snr": signal / noise if noise else float("inf"),
    }


def outside(card: Mapping[str, object], scan: Scan, item: int = 0) -> list[str]:
    """Return in words what of a scan lies outside a model's card; empty where the card covers it, or says nothing."""
    covers = card.get("covers")
    if not isinstance(covers, Mapping):
        return ["its card does not say what it was trained for"]
    facts, found = scan_facts(scan, item), []

    def compare(key: str, fact: str, unit: str, low: bool = True, high: bool = True) -> None:
        span = covers.get(key)
        if not isinstance(span, list) or len(span) < 2 or not all(isinstance(v, int | float) for v in span):
            return
        value, first, last = facts[fact], min(span) / SLACK[key], max(span) * SLACK[key]
        if (low and value < first) or (high and value > last):
            found.append(f"{fact} {value:.3g}{unit}, trained for {min(span):g} to {max(span):g}{unit}")

    compare("acceleration", "acceleration", "-fold", low=False)
    compare("calibration", "calibration", " samples", high=False)
    compare("size", "smallest side", "", high=False)
    compare("size", "largest side", "", low=False)
    compare("coils", "coils", "")
    compare("snr", "snr", "", high=False)  # less noise than it was trained with is no harm
    if len(scan.space) != 2:
        found.append("three-dimensional k-space, trained for slices")
    known = covers.get("contrasts")
    told = contrast_of(str(scan.attributes.get("acquisition", "")))
    if isinstance(known, list) and told is not None and told not in known:
        found.append(f"contrast {told}, trained for {', '.join(map(str, known))}")
    return found


def contrast_of(text: str) -> str | None:
    """Return the contrast that a protocol's name speaks of, or None where it does not."""
    lowered = text.lower()
    return next((name for name in ("flair", "t2*w", "t1w", "t2w", "pdw") if re.search(CONTRASTS[name], lowered)), None)


def _card(folder: Path) -> Mapping[str, object]:
    card = describe_model(folder)["card"]
    assert isinstance(card, dict), "describe_model checks it"
    return card
