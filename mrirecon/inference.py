"""Reconstruct a scan, item by item, by any method: what `mrirecon reconstruct` does."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from mrirecon.calibrate import EspiritOptions, ItemMaps, Source, item_maps, item_noise
from mrirecon.checkpoints import Trained, load_model, shipped
from mrirecon.choice import Group, choose, outside_of, summary, tasks
from mrirecon.coils.noise import measure_noise
from mrirecon.engine import Precision, Reconstructor
from mrirecon.errors import InputError, UsageError
from mrirecon.failures import Failures
from mrirecon.hardware import PrecisionChoice, pick_device, pick_precision
from mrirecon.hybrid import Slices
from mrirecon.io import Scan
from mrirecon.operators import root_sum_of_squares
from mrirecon.physics.transforms import Gain, Identity, Prior, Transform
from mrirecon.prepared import finish, note_loud
from mrirecon.problem import Problem
from mrirecon.registry import Use, build, find, methods, resolve
from mrirecon.regularization import weight_by_noise
from mrirecon.streaming import example, images

Progress = Callable[[int, int, str], None]


@dataclass
class Reconstruction:
    """Images of a scan, and how they came about.

    Attributes:
        images: (item, *space) complex64, in the scale of the data; magnitudes where the method shows no phase.
        method: the method used; where items differ, that of most of those with gaps, see `methods`.
        why: why it was chosen.
        maps: where the coil maps come from.
        lam: regularization weight of each item, relative to its scale, whose method has one.
        reasons: why each item stopped.
        seconds: wall time of each item, reading and calibration included; these three are of slices where volumes
            were solved slice by slice.
        notes: what else the user should know.
        methods: the method of each item, where it is not the same for all.
        failed: what is wrong with items that were left out, where that was allowed; their images are zero.
        precision: what networks computed in; float32 where there are none.
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
    methods: list[str] = field(default_factory=list)
    failed: list[InputError] = field(default_factory=list)
    precision: Precision = "float32"
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
    precision: PrecisionChoice = "float32",
    seed: int = 0,
    batch: int = 1,
    progress: Progress | None = None,
    keep: Callable[[int, np.ndarray], None] | None = None,
    scratch: Sequence[Path] | None = None,
    chosen: Sequence[Group] | None = None,
    go_on: bool = False,
) -> Reconstruction:
    """Reconstruct every item of a scan.

    A volume that is fully sampled along its readout is solved slice by slice (`mrirecon.hybrid`), unless ``ndim=3``.
    The image of an item without signal is zero, and noted.

    Args:
        scan: from `mrirecon.io.read`, or `mrirecon.prepared.prepare`.
        method: ``auto``, or a registered method.
        maps: where coil maps come from.
        espirit: how they are estimated.
        lam: regularization weight relative to the scale of the data; ``auto`` and ``None`` take what suits the mask and
            the measured noise (`mrirecon.regularization.weight_by_noise`).
        options: further options of the method.
        model: a trained model, in place of a method and its options; without one, a learned method takes the model
            that comes with mrirecon.
        strict: refuse data outside the model's card, instead of noting it.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, …
        precision: what a model's networks compute in; ``auto`` takes bfloat16 where it is faster, see
            `mrirecon.hardware`. Other methods have none and compute in float32.
        seed: of the methods that draw random numbers.
        batch: how many items a model takes at a time; halved where memory does not suffice.
        progress: called with (items done, items, what is being done), or slices of volumes where those are solved.
        keep: called with (item, images (step, *space)) to see every iterate, in the scale of the data.
        scratch: folders for temporary files, in order of preference, one of which then holds large images as well.
        chosen: what `mrirecon.choice.choose` returned for this scan, where that is known already.
        go_on: leave out items that cannot be reconstructed (see `Reconstruction.failed`) in place of raising.

    Raises:
        UsageError: a method, option or device that does not exist; a learned method without a model.
        ModelMismatchError: with ``strict``, data that the model was not trained for.
        InputError: data that cannot be reconstructed; the item is named.
        ResourceError: no room for a temporary file.

    """
    where = pick_device(device)
    if method != "auto":
        resolve(method, options)  # before a long pass over the file
    first, item = example(scan, options, scratch)
    note_loud(first, item)
    beyond: list[str] = []
    if chosen is None and model is None and method == "auto":
        chosen = choose(scan, maps, options, (first, item))
    elif chosen is None:
        name, why = (method, "as asked") if model is None else (model.method, f"model {model.folder}")
        chosen = [Group(tuple(range(len(scan))), name, why)]
        if model is None and method in shipped() and not options:
            model = load_model(shipped()[method])
        if model is not None:
            beyond = outside_of(model.card, scan, options, (first, item), strict=strict)
    out = Reconstruction(np.empty(0), *summary(chosen), "", [], [], [])
    jobs: dict[str, _Job] = {}
    for task in tasks(chosen, options or {}, lam, model):
        settings = _settings(first, task.method, task.options, task.lam, seed)
        ready = None if task.model is None else task.model.model.to(where)
        if ready is not None:
            ready.precision, why = pick_precision(precision, where)
            out.precision = ready.precision
            out.notes += [why] if precision != "float32" else []
        jobs[task.method] = _Job(first, task.method, maps, espirit, settings, where, ready, keep, out)
    if precision == "bfloat16" and all(job.ready is None for job in jobs.values()):
        out.notes.append(f"{out.method} has no network to compute in bfloat16: all of it is computed in float32")
    of = defaultdict(lambda: out.method, {i: group.method for group in chosen for i in group.items})
    failures = Failures(scan, go_on)

    def solve(part: Scan, items: Sequence[int]) -> list[np.ndarray]:
        job = replace(jobs[of[part.volume if isinstance(part, Slices) else items[0]]], scan=part)
        return job.run(items) if job.ready is not None else [image for item in items for image in job.run([item])]

    made, out.seconds = images(
        scan,
        first,
        solve,
        size=max(1, batch),
        scratch=scratch,
        progress=progress and (lambda done, total: progress(done, total, out.method)),
        kind=of.__getitem__,
        lost=lambda item, error, count: jobs[of[item]].skip([item] * count, failures.add(item, error, count)),
    )
    out.notes += failures.conclude(len(out.seconds))
    out.failed = failures.bad
    out.methods = [of[i] for i in range(len(scan))] if len(jobs) > 1 else []
    out.images = finish(scan, made, scratch)
    out.notes += [first.told] if isinstance(first, Slices) else []
    out.notes = [*scan.notes, *out.notes, *beyond]
    return out


def _settings(
    scan: Scan, method: str, options: Mapping[str, object], lam: float | Literal["auto"] | None, seed: int
) -> dict[str, object]:
    """Return the method's options with what follows from the scan filled in."""
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
    device: torch.device
    ready: Reconstructor | None
    keep: Callable[[int, np.ndarray], None] | None
    out: Reconstruction

    @property
    def _weighed(self) -> bool:
        return "lam" in find(self.method).schema.model_fields

    def _follows_noise(self, use: Use) -> bool:
        return use == "informed" or (use == "weighted" and "lam" not in self.settings)

    def skip(self, items: Sequence[int], reason: str) -> None:
        """Note why images are zero; they have no iterates."""
        self.out.reasons += [reason] * len(items)
        self.out.lam += [0.0] * len(items) if self._weighed else []
        self.out.sets += [0] * len(items)
        for item in items:
            if self.keep is not None:
                self.keep(item, np.zeros((0, *self.scan.space_shape), np.complex64))

    def _nothing(self, items: Sequence[int], reason: str) -> list[np.ndarray]:
        self.skip(items, reason)
        return [np.zeros(self.scan.space_shape, np.complex64) for _ in items]

    def run(self, items: Sequence[int]) -> list[np.ndarray]:
        """Return images of items, all with signal or all without; a batch that does not fit into memory is halved."""
        if self.scan.blank(items[0]):
            return self._nothing(items, "no signal")
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
        needed = find(self.method).maps and not own
        asked = self.espirit or EspiritOptions()
        if find(self.method).map_sets == 1 and asked.sets == "auto":
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
            noise = item_noise(self.scan, item, kspace, mask).covariance if self._follows_noise(use) else None
            posed.append((pose(kspace, mask, maps, use, device=self.device, noise=noise), Gain(maps.gain)))
            del maps  # the problem has its own, weighted
        sets = [p.problem.maps.shape[1] for p, _ in posed]
        if len(set(sets)) > 1:  # they cannot be stacked
            runs = itertools.groupby(zip(sets, items, strict=True), lambda pair: pair[0])
            return [image for _, run in runs for image in self._batch([item for _, item in run])]
        self.out.sets += sets
        problem, prior = _stack([p for p, _ in posed])
        if "lam" not in settings and self._weighed:  # a batch of one, for it is no network
            lam = float(weight_by_noise(self.method, problem)[0]) if use == "weighted" else _default_weight(self.method)
            settings = {**settings, "lam": lam}
        model = build(self.method, settings).to(self.device) if self.ready is None else self.ready
        with torch.inference_mode():
            result = model.run(problem, prior=prior, consume=self.keep is None)
            steps = list(model.images(problem, prior=prior)) if self.keep is not None else []
        images = []
        for number, (item, (one, gain)) in enumerate(zip(items, posed, strict=True)):
            transform, own = gain @ one.transform, slice(number, number + 1)
            images.append(_join(transform.undo(result.image[own])[0]))
            if not np.isfinite(images[-1]).all():
                fix, where = "look with `mrirecon info FILE`", self.scan.where(item)
                raise InputError("the reconstruction holds values that are not numbers", where=where, fix=fix)
            if self.keep is not None:
                self.keep(item, np.stack([_join(transform.undo(x[own])[0]) for x in steps]))
        self.out.reasons += result.reasons
        if "lam" in settings:
            self.out.lam.append(cast("float", settings["lam"]))
        return images


def _default_weight(method: str) -> float:
    return cast("float", find(method).schema.model_fields["lam"].default)


class Posed(NamedTuple):
    """A problem, and how its images become those of the scan.

    Attributes:
        problem: of u.
        transform: x = T u.
        prior: for `mrirecon.engine.Reconstructor.run` of an informed method; None for others.

    """

    problem: Problem
    transform: Transform
    prior: Prior | None


def _stack(posed: list[Posed]) -> tuple[Problem, Prior | None]:
    """Return problems of one size as one batch, with the prior of all."""
    if len(posed) == 1:
        return posed[0].problem, posed[0].prior
    problems = [p.problem for p in posed]
    y, mask, maps = (torch.cat(part) for part in zip(*((p.y, p.mask, p.maps) for p in problems), strict=True))
    noise = [p.noise for p in problems if p.noise is not None]
    weights = [p.prior.weight for p in posed if p.prior is not None]
    prior = Prior(torch.cat(weights)) if len(weights) == len(posed) else None
    return Problem(y, mask, maps, noise=torch.cat(noise) if len(noise) == len(problems) else None), prior


def pose(
    kspace: np.ndarray,
    mask: np.ndarray,
    maps: ItemMaps,
    use: Use,
    *,
    device: torch.device | str = "cpu",
    noise: np.ndarray | None = None,
) -> Posed:
    """Return the problem of one item as a batch of one, and how its image becomes that of the item.

    Maps show where there is an object, and methods use that in three ways (see `ItemMaps.prior`). A plain combination
    is ``cropped`` to the object. A regularized method is ``weighted``: it solves for u with the maps S·w, and its image
    is x = w·u. A network is ``informed``: it has S everywhere, so that it looks for an image that explains the data,
    and w separately; cropped maps would ask it to explain a scalp at the edge of the crop and yet to darken it.

    Args:
        kspace: (C, *space) complex, centred.
        mask: (*space), true where sampled.
        maps: of the item.
        use: what the method makes of them.
        device: where the problem is to lie.
        noise: (C, C) covariance of the samples; None: it is measured from the k-space where it is needed.

    """
    prior = Prior(maps.prior().to(device))
    sensitivities = maps.cropped() if use == "cropped" else maps.maps
    sampled = torch.from_numpy(mask.astype(np.float32))[None, None]
    if noise is None and use == "informed":  # once: whatever such a method starts from or falls back to needs it
        noise = measure_noise(kspace, mask).covariance
    covariance = None if noise is None else torch.from_numpy(noise).to(sensitivities.dtype)[None]
    problem = Problem(torch.from_numpy(kspace)[None], sampled, sensitivities, noise=covariance).to(device)
    if use == "weighted":
        return Posed(prior.apply(problem), prior, None)
    return Posed(problem, Identity(), prior if use == "informed" else None)


def sense_reference(scan: Scan) -> np.ndarray:
    """Return what scores compare with: (item, *space) magnitude of the SENSE combination by ESPIRiT maps.

    Raises:
        InputError: the scan is undersampled.

    """
    out = []
    for item in range(len(scan)):
        if scan.empty(item):
            out.append(np.zeros(scan.space_shape, np.float32))
            continue
        kspace, mask = scan.kspace(item), scan.mask(item)
        # Scanners leave the outermost lines empty (fastMRI's padding): that is not undersampling.
        if mask.mean() < 0.9:
            raise InputError(
                "an undersampled scan cannot be the reference",
                where=scan.where(item),
                why=f"{mask.mean():.0%} of its k-space is sampled",
                fix="give the fully sampled scan, or an image file",
            )
        problem = pose(kspace, mask, item_maps(scan, item, kspace, mask), "cropped").problem
        out.append(np.abs(_join(problem.adjoint[0])))
    return np.stack(out)


def _join(image: Tensor) -> np.ndarray:
    """Join the sets of maps (M, *space): the root sum of squares, with the phase of the first."""
    if image.shape[0] == 1:
        return np.asarray(image[0].cpu().numpy(), dtype=np.complex64)
    magnitude = root_sum_of_squares(image, 0)
    phase = torch.exp(1j * image[0].angle())
    return np.asarray((magnitude * phase).cpu().numpy(), dtype=np.complex64)
