"""Reconstruct a scan, item by item, by any method: what `mrirecon reconstruct` does."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mrirecon.calibrate import EspiritOptions, ItemMaps, Source, item_maps
from mrirecon.checkpoints import Trained
from mrirecon.coils.calibration import find_calibration
from mrirecon.coils.noise import noise_deviation
from mrirecon.engine import Reconstructor, percentile_scale
from mrirecon.errors import InputError, MriReconError, UsageError
from mrirecon.io import Scan
from mrirecon.operators import root_sum_of_squares
from mrirecon.problem import Problem
from mrirecon.registry import build, find, methods

Progress = Callable[[int, int, str], None]
SECOND_OPINION = "sigpy-cs"


@dataclass
class Reconstruction:
    """Images of a scan, and how they came about.

    Attributes:
        images: (item, *space) complex64, in the scale of the data; magnitudes where the method shows no phase.
        method: the method used.
        why: why it was chosen.
        maps: where the coil maps come from.
        lam: regularization weight of each item, relative to its scale; empty where the method has none.
        reasons: why each item stopped.
        seconds: wall time of each item, reading and calibration included.
        notes: what else the user should know.

    """

    images: np.ndarray
    method: str
    why: str
    maps: str
    lam: list[float]
    reasons: list[str]
    seconds: list[float]
    notes: list[str] = field(default_factory=list)


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
        return "cs", f"{rate:.1f}-fold undersampled with {size}"
    return "rss", (
        f"{rate:.1f}-fold undersampled, and its calibration region of {'×'.join(map(str, box))} is too small for coil "
        f"maps ({kernel} samples along each axis): aliasing remains. Give maps with --maps FILE to remove it"
    )


def reconstruct(
    scan: Scan,
    *,
    method: str = "auto",
    maps: Source = "auto",
    espirit: EspiritOptions | None = None,
    lam: float | Literal["auto"] | None = None,
    options: Mapping[str, object] | None = None,
    model: Trained | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: Progress | None = None,
    keep: Callable[[int, np.ndarray], None] | None = None,
) -> Reconstruction:
    """Reconstruct every item of a scan.

    Args:
        scan: from `mrirecon.io.read`.
        method: ``auto``, a registered method, or ``sigpy-cs``.
        maps: where coil maps come from.
        espirit: how they are estimated.
        lam: regularization weight relative to the scale of the data; ``auto`` finds it by the discrepancy principle
            (Morozov, 1966): the largest misfit that the measured noise explains. ``None`` takes the method's default.
        options: further options of the method.
        model: a trained model, in place of a method and its options.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, …
        seed: of the methods that draw random numbers.
        progress: called with (items done, items, what is being done).
        keep: called with (item, images (step, *space)) to see every iterate, in the scale of the data.

    Raises:
        UsageError: a method, option or device that does not exist; a learned method without a model.
        InputError: data that cannot be reconstructed; the item is named.

    """
    where = pick_device(device)
    why = "as asked"
    if method == "auto":
        method, why = choose_method(scan, 0, maps)
    if model is not None:
        method, why = model.method, f"model {model.folder}"
    elif method != SECOND_OPINION and find(method).learned:
        raise UsageError(f"method {method!r} is learned: it needs weights", fix="give a trained model with --model DIR")
    settings = _settings(scan, method, options or {}, lam, seed)
    ready = None if model is None else model.model.to(where)
    out = Reconstruction(np.empty(0), method, why, "", [], [], [])
    images = []
    for item in range(len(scan)):
        if progress:
            progress(item, len(scan), method)
        start = time.perf_counter()
        try:
            images.append(_item(scan, item, method, maps, espirit, settings, lam == "auto", where, out, ready, keep))
        except MriReconError as error:
            error.where = error.where if error.where and str(scan.path) in error.where else scan.where(item)
            raise
        out.seconds.append(time.perf_counter() - start)
    if progress:
        progress(len(scan), len(scan), method)
    out.images = np.stack(images)
    out.notes = [*scan.notes, *out.notes]
    return out


def _settings(
    scan: Scan, method: str, options: Mapping[str, object], lam: float | Literal["auto"] | None, seed: int
) -> dict[str, object]:
    """Return the method's options with what follows from the scan filled in."""
    if method == SECOND_OPINION:
        return {"lam": 0.005 if lam in (None, "auto") else lam, "iterations": 100, **options}
    schema = find(method).schema.model_fields
    settings = dict(options)
    if "ndim" in schema:
        settings.setdefault("ndim", len(scan.space))
    if "seed" in schema:
        settings.setdefault("seed", seed)
    if lam is not None:
        if "lam" not in schema:
            having = sorted(name for name, m in methods().items() if "lam" in m.schema.model_fields)
            raise UsageError(
                f"method {method!r} has no regularization weight", fix=f"leave --lambda out, or use {', '.join(having)}"
            )
        if lam != "auto":
            settings["lam"] = lam
    return settings


def _item(
    scan: Scan,
    item: int,
    method: str,
    source: Source,
    espirit: EspiritOptions | None,
    settings: dict[str, object],
    auto: bool,
    device: torch.device,
    out: Reconstruction,
    ready: Reconstructor | None,
    keep: Callable[[int, np.ndarray], None] | None,
) -> np.ndarray:
    kspace = scan.kspace(item)
    mask = scan.mask(item)
    needed = method == SECOND_OPINION or find(method).maps
    maps = item_maps(scan, item, kspace, mask, source=source if needed else "unit", options=espirit)
    out.maps = maps.source if needed else "none needed"
    if method == SECOND_OPINION:
        from mrirecon.second_opinion import sigpy_cs

        if maps.maps.shape[1] > 1:
            raise UsageError("sigpy-cs takes one set of maps", fix="leave --map-sets out, or use --method cs")
        # The same scale as our methods', so that λ means the same.
        problem, _ = pose(kspace, mask, maps, weighted=False)
        scale = float(percentile_scale(problem.adjoint)[0])
        image = sigpy_cs(kspace / scale, maps.cropped()[0, 0].numpy(), _number(settings["lam"]), _count(settings))
        out.lam.append(_number(settings["lam"]))
        out.reasons.append(f"ran its {_count(settings)} steps")
        return image * (scale / maps.gain)
    problem, prior = pose(kspace, mask, maps, weighted=find(method).weighted, device=device)
    gain = maps.gain
    del maps  # the problem has its own, weighted
    if "lam" not in settings and "lam" in find(method).schema.model_fields:
        settings = {**settings, "lam": default_weight(method, mask)}
    if auto:
        found, how = discrepancy_weight(method, settings, problem, noise_deviation(kspace, mask))
        settings = {**settings, "lam": found}
        out.notes.append(f"{scan.where(item)}: {how}")
    model = build(method, settings).to(device) if ready is None else ready
    with torch.inference_mode():
        result = model.run(problem)
        if keep is not None:
            keep(item, np.stack([_join(x[0] * prior[0]) / gain for x in model.images(problem)]))
    out.reasons += result.reasons
    if "lam" in settings:
        out.lam.append(_number(settings["lam"]))
    image = _join(result.image[0] * prior[0]) / gain
    if not np.isfinite(image).all():
        raise InputError("the reconstruction holds values that are not numbers", fix="look with `mrirecon info FILE`")
    return image


def pose(
    kspace: np.ndarray, mask: np.ndarray, maps: ItemMaps, *, weighted: bool, device: torch.device | str = "cpu"
) -> tuple[Problem, Tensor]:
    """Return the problem of one item as a batch of one, and the weight (1, M, *space) its image is to be given.

    A regularized method solves for u with the maps S·w and shows x = w·u; see `ItemMaps.prior`.
    """
    prior = maps.prior() if weighted else torch.ones_like(maps.maps[:, :, 0].real)
    sensitivities = maps.maps * prior.unsqueeze(2) if weighted else maps.cropped()
    sampled = torch.from_numpy(mask.astype(np.float32))[None, None]
    return Problem(torch.from_numpy(kspace)[None], sampled, sensitivities).to(device), prior.to(device)


def default_weight(method: str, mask: np.ndarray | Tensor) -> float:
    """Return λ for a mask (*space): the method's default is meant for 4-fold undersampled lines.

    The data term of fewer samples weighs less, and the best λ, found on measured scans between 2- and 12-fold, falls
    with it, though more slowly, as there is more aliasing to remove: as R^(−1/3) for lines. Where samples lie scattered
    over a plane, aliasing is as incoherent as noise, and a larger weight removes it: 1.6 times that at 4-fold, falling
    as R^(−1/2).
    """
    sampled = np.asarray(mask).astype(bool)
    rate = sampled.size / max(1, int(sampled.sum()))
    at_4 = _number(find(method).schema.model_fields["lam"].default)
    varying = sum(bool((sampled != sampled.take([0], axis)).any()) for axis in range(sampled.ndim))
    return at_4 * float((4 / rate) ** (1 / 3) if varying < 2 else 1.6 * (4 / rate) ** 0.5)


def discrepancy_weight(
    method: str,
    settings: Mapping[str, object],
    problem: Problem,
    deviation: np.ndarray,
    *,
    bounds: tuple[float, float] | None = None,
    rounds: int = 6,
) -> tuple[float, str]:
    """Return λ such that ‖A x_λ − y‖² is what the noise explains, and how it was found.

    Args:
        method: a method with an option ``lam``.
        settings: its other options.
        problem: a batch of one.
        deviation: (C,) standard deviation of the complex noise of each coil.
        bounds: smallest and largest λ considered; ``None`` for half and twice the default. The misfit hardly depends
            on λ (a few percent within these bounds), so a noise level that is a little wrong would say anything.
        rounds: reconstructions spent on it, by bisection of log λ, along which the misfit grows.

    """
    default = default_weight(method, problem.mask[0, 0].cpu())
    expected = float((deviation.astype(np.float64) ** 2).sum()) * float(problem.mask[0].sum())

    def misfit(lam: float) -> float:
        with torch.inference_mode():
            x = build(method, {**settings, "lam": lam}).to(problem.y.device)(problem)
            return 2 * float(problem.data_term(x)[0])

    least, most = bounds or (default / 2, default * 2)
    if (floor := misfit(least)) >= expected:
        kept = min(max(default, least), most)
        share = f"the misfit is {floor / expected:.2f} of the measured noise at λ = {least:.3g} already"
        return kept, f"λ = {kept:.3g}, the default: {share}, so the coil maps' errors limit it, which λ cannot mend"
    if misfit(most) <= expected:
        return most, f"λ = {most:.3g}, the most allowed: the measured noise explains the misfit even there"
    low, high = math.log(least), math.log(most)
    for _ in range(rounds):
        middle = (low + high) / 2
        low, high = (middle, high) if misfit(math.exp(middle)) < expected else (low, middle)
    found = math.exp(low)
    return found, f"λ = {found:.3g} by the discrepancy principle: misfit {misfit(found) / expected:.2f} of the noise"


def sense_reference(scan: Scan) -> np.ndarray:
    """Return the reference that scores compare with: (item, *space) magnitude of the SENSE combination.

    ESPIRiT maps of the full data combine the coil images; nothing is regularized.

    Raises:
        InputError: the scan is undersampled.

    """
    out = []
    for item in range(len(scan)):
        kspace, mask = scan.kspace(item), scan.mask(item)
        # Scanners leave the outermost lines empty (fastMRI's padding): that is not undersampling.
        if mask.mean() < 0.9:
            raise InputError(
                "an undersampled scan cannot be the reference",
                where=scan.where(item),
                why=f"{mask.mean():.0%} of its k-space is sampled",
                fix="give the fully sampled scan, or an image file",
            )
        problem, _ = pose(kspace, mask, item_maps(scan, item, kspace, mask), weighted=False)
        out.append(np.abs(_join(problem.adjoint[0])))
    return np.stack(out)


def pick_device(name: str) -> torch.device:
    """Return a device by name; ``auto`` takes a GPU where there is one.

    Raises:
        UsageError: there is no such device here.

    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"device {name!r} cannot be used here", why=reason, fix="use --device cpu") from None
    return device


def _join(image: Tensor) -> np.ndarray:
    """Join the sets of maps (M, *space): the root sum of squares, with the phase of the first."""
    if image.shape[0] == 1:
        return np.asarray(image[0].cpu().numpy(), dtype=np.complex64)
    magnitude = root_sum_of_squares(image, 0)
    phase = torch.exp(1j * image[0].angle())
    return np.asarray((magnitude * phase).cpu().numpy(), dtype=np.complex64)


def _number(value: object) -> float:
    assert isinstance(value, int | float)
    return float(value)


def _count(settings: Mapping[str, object]) -> int:
    return int(_number(settings["iterations"]))
