"""Reconstruct a scan, item by item, by any method: what `mrirecon reconstruct` does."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mrirecon.calibrate import EspiritOptions, ItemMaps, Source, item_maps
from mrirecon.checkpoints import Trained, load_model, shipped
from mrirecon.coils.noise import noise_deviation
from mrirecon.coverage import choose_method, outside
from mrirecon.device import pick_device
from mrirecon.engine import Reconstructor
from mrirecon.errors import InputError, ModelMismatchError, UsageError
from mrirecon.hybrid import Slices
from mrirecon.io import Scan
from mrirecon.operators import root_sum_of_squares
from mrirecon.prepared import finish
from mrirecon.problem import Problem
from mrirecon.registry import Use, build, find, methods, resolve
from mrirecon.regularization import default_weight, discrepancy_weight
from mrirecon.scale import percentile_scale
from mrirecon.streaming import example, images

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
        seconds: wall time of each item, reading and calibration included; these three are of slices where volumes
            were solved slice by slice.
        notes: what else the user should know.
        sets: how many sets of coil maps each item had.

    """

    images: np.ndarray
    method: str
    why: str
    maps: str
    lam: list[float]
    reasons: list[str]
    seconds: list[float]
    notes: list[str] = field(default_factory=list)
    sets: list[int] = field(default_factory=list)


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
    scratch: Sequence[Path] | None = None,
) -> Reconstruction:
    """Reconstruct every item of a scan.

    A volume that is fully sampled along its readout is solved slice by slice (`mrirecon.hybrid`), unless ``ndim=3``.

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
        progress: called with (items done, items, what is being done), or slices of volumes where those are solved.
        keep: called with (item, images (step, *space)) to see every iterate, in the scale of the data.
        scratch: folders for temporary files, in order of preference, one of which then holds large images as well.

    Raises:
        UsageError: a method, option or device that does not exist; a learned method without a model.
        ModelMismatchError: with ``strict``, data that the model was not trained for.
        InputError: data that cannot be reconstructed; the item is named.
        ResourceError: no room for a temporary file.

    """
    where, why = pick_device(device), "as asked"
    if method not in ("auto", SECOND_OPINION):
        resolve(method, options)  # before a long pass over the file
    first, item = example(scan, options, scratch)
    if method == "auto":
        method, why = choose_method(first, item, maps)
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
    beyond = [] if model is None else outside(model.card, first, item)
    if beyond and strict:
        raise ModelMismatchError(
            "the model was not trained for such data",
            where=first.where(item),
            why="; ".join(beyond),
            fix="use --method cs, a model that was, or leave --strict-model out",
        )
    settings = _settings(first, method, options or {}, lam, seed)
    ready = None if model is None else model.model.to(where)
    out = Reconstruction(np.empty(0), method, why, "", [], [], [])
    job = _Job(scan, method, maps, espirit, settings, lam == "auto", where, ready, keep, out)
    made, out.seconds = images(
        scan,
        first,
        lambda part, items: replace(job, scan=part).run(items),
        size=max(1, batch) if ready is not None else 1,
        scratch=scratch,
        progress=progress and (lambda done, total: progress(done, total, method)),
    )
    out.images = finish(scan, made, scratch)
    out.notes += [first.told] if isinstance(first, Slices) else []
    out.notes += [f"outside what the model was trained for: {'; '.join(beyond)}"] if beyond else []
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

    @property
    def _weighed(self) -> bool:
        return self.method == SECOND_OPINION or "lam" in find(self.method).schema.model_fields

    def _nothing(self, items: Sequence[int], reason: str) -> list[np.ndarray]:
        self.out.reasons += [reason] * len(items)
        self.out.lam += [0.0] * len(items) if self._weighed else []
        self.out.sets += [0] * len(items)
        return [np.zeros(self.scan.space_shape, np.complex64) for _ in items]

    def run(self, items: Sequence[int]) -> list[np.ndarray]:
        """Return images of items, all with signal or all without; a batch that does not fit into memory is halved."""
        if self.scan.blank(items[0]):
            return self._nothing(items, "no signal")
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
        asked = self.espirit or EspiritOptions()
        if self.method == SECOND_OPINION and asked.sets == "auto":
            asked = replace(asked, sets=1)
        maps = item_maps(self.scan, item, kspace, mask, source=self.source if needed else "unit", options=asked)
        self.out.maps = maps.source if needed else "a network's" if own else "none needed"
        return maps

    def _batch(self, items: Sequence[int]) -> list[np.ndarray]:
        settings, posed, use = self.settings, [], find(self.method).use
        for item in items:
            kspace, mask = self.scan.kspace(item), self.scan.mask(item)
            maps = self._maps(item, kspace, mask)
            if use == "cropped" and maps.sees_nothing:  # a batch of one, for it is no network
                return self._nothing(items, "no object, as its coil maps tell")
            posed.append((*pose(kspace, mask, maps, use, device=self.device), maps.gain))
            del maps  # the problem has its own, weighted
        sets = [p.maps.shape[1] for p, _, _ in posed]
        if len(set(sets)) > 1:  # they cannot be stacked
            runs = itertools.groupby(zip(sets, items, strict=True), lambda pair: pair[0])
            return [image for _, run in runs for image in self._batch([item for _, item in run])]
        self.out.sets += sets
        problem = posed[0][0] if len(posed) == 1 else _stack([p for p, _, _ in posed])
        if "lam" not in settings and self._weighed:
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
                fix, where = "look with `mrirecon info FILE`", self.scan.where(item)
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
        self.out.sets.append(1)
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
    """Return what scores compare with: (item, *space) magnitude of the SENSE combination by ESPIRiT maps.

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
