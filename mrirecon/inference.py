"""Reconstruct a scan, item by item, by any method: what `mrirecon reconstruct` does."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mrirecon.calibrate import EspiritOptions, ItemMaps, Source, item_maps
from mrirecon.checkpoints import Trained, load_model, shipped
from mrirecon.coils.noise import noise_deviation
from mrirecon.coverage import choose_method, outside
from mrirecon.engine import Reconstructor
from mrirecon.errors import InputError, ModelMismatchError, MriReconError, UsageError
from mrirecon.io import Scan
from mrirecon.operators import root_sum_of_squares
from mrirecon.prepared import finish
from mrirecon.problem import Problem
from mrirecon.registry import Use, build, find, methods
from mrirecon.regularization import default_weight, discrepancy_weight
from mrirecon.scale import percentile_scale

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


def reconstruct(
    scan: Scan,
    *,
    method: str = "auto",
    maps: Source = "auto",
    espirit: EspiritOptions | None = None,
    lam: float | Literal["auto"] | None = None,
    options: Mapping[str, object] | None = None,
    model: Trained | None = None,
    strict: bool = False,
    device: str = "auto",
    seed: int = 0,
    batch: int = 1,
    progress: Progress | None = None,
    keep: Callable[[int, np.ndarray], None] | None = None,
) -> Reconstruction:
    """Reconstruct every item of a scan.

    Args:
        scan: from `mrirecon.io.read`, or `mrirecon.prepared.prepare`.
        method: ``auto``, a registered method, or ``sigpy-cs``.
        maps: where coil maps come from.
        espirit: how they are estimated.
        lam: regularization weight relative to the scale of the data; ``auto`` finds it by the discrepancy principle
            (Morozov, 1966): the largest misfit that the measured noise explains. ``None`` takes the method's default.
        options: further options of the method.
        model: a trained model, in place of a method and its options; without one, a learned method takes the model
            that comes with mrirecon.
        strict: refuse data outside the model's card, instead of noting it.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, …
        seed: of the methods that draw random numbers.
        batch: how many items a model takes at a time; halved where memory does not suffice.
        progress: called with (items done, items, what is being done).
        keep: called with (item, images (step, *space)) to see every iterate, in the scale of the data.

    Raises:
        UsageError: a method, option or device that does not exist; a learned method without a model.
        ModelMismatchError: with ``strict``, data that the model was not trained for.
        InputError: data that cannot be reconstructed; the item is named.

    """
    where = pick_device(device)
    why = "as asked"
    if method == "auto":
        method, why = choose_method(scan, 0, maps)
    if model is None and method in shipped():
        if options:
            raise UsageError(f"{method} comes trained, with its own options", fix="leave --set out, or train your own")
        model = load_model(shipped()[method])
    elif model is not None:
        why = f"model {model.folder}"
    if model is not None:
        method = model.method
        if lam is not None:
            raise UsageError("a trained model has no regularization weight to set", fix="leave --lambda out")
    elif method != SECOND_OPINION and find(method).learned:
        raise UsageError(f"method {method!r} is learned: it needs weights", fix="give a trained model with --model DIR")
    beyond = [] if model is None else outside(model.card, scan)
    if beyond and strict:
        raise ModelMismatchError(
            "the model was not trained for such data",
            where=scan.where(0),
            why="; ".join(beyond),
            fix="use --method cs, a model that was, or leave --strict-model out",
        )
    settings = _settings(scan, method, options or {}, lam, seed)
    ready = None if model is None else model.model.to(where)
    out = Reconstruction(np.empty(0), method, why, "", [], [], [])
    job = _Job(scan, method, maps, espirit, settings, lam == "auto", where, ready, keep, out)
    images: list[np.ndarray] = []
    size = max(1, batch) if ready is not None else 1
    for first in range(0, len(scan), size):
        items = range(first, min(first + size, len(scan)))
        if progress:
            progress(first, len(scan), method)
        start = time.perf_counter()
        try:
            images += job.run(items)
        except MriReconError as error:
            error.where = error.where if error.where and str(scan.path) in error.where else scan.where(first)
            raise
        out.seconds += [(time.perf_counter() - start) / len(items)] * len(items)
    if progress:
        progress(len(scan), len(scan), method)
    out.images = finish(scan, np.stack(images))
    if beyond:
        out.notes.append(f"outside what the model was trained for: {'; '.join(beyond)}")
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


@dataclass(frozen=True)
class _Job:
    """One scan, one method: what every item of it shares."""

    scan: Scan
    method: str
    source: Source
    espirit: EspiritOptions | None
    settings: dict[str, object]
    auto: bool
    device: torch.device
    ready: Reconstructor | None
    keep: Callable[[int, np.ndarray], None] | None
    out: Reconstruction

    def run(self, items: Sequence[int]) -> list[np.ndarray]:
        """Return the images of some items; a batch that does not fit into memory is halved."""
        if self.method == SECOND_OPINION:
            return [self._second_opinion(item) for item in items]
        try:
            return self._batch(items)
        except (RuntimeError, MemoryError) as error:
            if len(items) == 1 or "memory" not in str(error).lower():
                raise
        half = len(items) // 2
        note = f"a batch of {len(items)} did not fit into memory: it was halved"
        if note not in self.out.notes:
            self.out.notes.append(note)
        return self.run(items[:half]) + self.run(items[half:])

    def _maps(self, item: int, kspace: np.ndarray, mask: np.ndarray) -> ItemMaps:
        own = self.ready is not None and self.ready.prepare is not None  # a sensitivity network
        needed = self.method == SECOND_OPINION or (find(self.method).maps and not own)
        maps = item_maps(self.scan, item, kspace, mask, source=self.source if needed else "unit", options=self.espirit)
        self.out.maps = maps.source if needed else "a network's" if own else "none needed"
        return maps

    def _batch(self, items: Sequence[int]) -> list[np.ndarray]:
        settings, posed = self.settings, []
        for item in items:
            kspace, mask = self.scan.kspace(item), self.scan.mask(item)
            maps = self._maps(item, kspace, mask)
            posed.append((*pose(kspace, mask, maps, find(self.method).use, device=self.device), maps.gain))
            del maps  # the problem has its own, weighted
        problem = posed[0][0] if len(posed) == 1 else _stack([p for p, _, _ in posed])
        if "lam" not in settings and "lam" in find(self.method).schema.model_fields:
            settings = {**settings, "lam": default_weight(self.method, mask)}
        if self.auto:
            found, how = discrepancy_weight(self.method, settings, problem, noise_deviation(kspace, mask))
            settings = {**settings, "lam": found}
            self.out.notes.append(f"{self.scan.where(items[0])}: {how}")
        model = build(self.method, settings).to(self.device) if self.ready is None else self.ready
        with torch.inference_mode():
            result = model.run(problem, consume=self.keep is None)
            steps = list(model.images(problem)) if self.keep is not None else []
        images = []
        for number, (item, (_, prior, gain)) in enumerate(zip(items, posed, strict=True)):
            images.append(_join(result.image[number] * prior[0]) / gain)
            if not np.isfinite(images[-1]).all():
                fix = "look with `mrirecon info FILE`"
                where = self.scan.where(item)
                raise InputError("the reconstruction holds values that are not numbers", where=where, fix=fix)
            if self.keep is not None:
                self.keep(item, np.stack([_join(x[number] * prior[0]) / gain for x in steps]))
        self.out.reasons += result.reasons
        if "lam" in settings:
            self.out.lam.append(_number(settings["lam"]))
        return images

    def _second_opinion(self, item: int) -> np.ndarray:
        from mrirecon.second_opinion import sigpy_cs

        kspace, mask = self.scan.kspace(item), self.scan.mask(item)
        maps = self._maps(item, kspace, mask)
        if maps.maps.shape[1] > 1:
            raise UsageError("sigpy-cs takes one set of maps", fix="leave --map-sets out, or use --method cs")
        # The same scale as our methods', so that λ means the same.
        problem, _ = pose(kspace, mask, maps, "cropped")
        scale = float(percentile_scale(problem.adjoint)[0])
        lam, count = _number(self.settings["lam"]), int(_number(self.settings["iterations"]))
        self.out.lam.append(lam)
        self.out.reasons.append(f"ran its {count} steps")
        return sigpy_cs(kspace / scale, maps.cropped()[0, 0].numpy(), lam, count) * (scale / maps.gain)


def _stack(problems: list[Problem]) -> Problem:
    y, mask, maps = (torch.cat(part) for part in zip(*((p.y, p.mask, p.maps) for p in problems), strict=True))
    priors = [p.prior for p in problems if p.prior is not None]
    return Problem(y, mask, maps, torch.cat(priors) if len(priors) == len(problems) else None)


def pose(
    kspace: np.ndarray, mask: np.ndarray, maps: ItemMaps, use: Use, *, device: torch.device | str = "cpu"
) -> tuple[Problem, Tensor]:
    """Return the problem of one item as a batch of one, and the weight (1, M, *space) its image is to be given.

    Maps tell where there is an object, and who solves the problem decides what to make of it (see `ItemMaps.prior`). A
    plain combination is ``cropped`` to it. A regularized method is ``weighted``: it solves for u with the maps S·w and
    shows x = w·u. A network is ``informed``: it has S everywhere, so that what it is to find is what explains the
    data, and w beside it; cropped maps would ask it to explain a scalp at the edge of the crop and yet to dim it.
    """
    prior = maps.prior()
    one = torch.ones_like(prior)
    sensitivities = maps.maps
    if use != "informed":
        sensitivities = maps.maps * prior.unsqueeze(2) if use == "weighted" else maps.cropped()
    sampled = torch.from_numpy(mask.astype(np.float32))[None, None]
    problem = Problem(torch.from_numpy(kspace)[None], sampled, sensitivities, prior if use == "informed" else None)
    return problem.to(device), (prior if use == "weighted" else one).to(device)


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
        problem, _ = pose(kspace, mask, item_maps(scan, item, kspace, mask), "cropped")
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
