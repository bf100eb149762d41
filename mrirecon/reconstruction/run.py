"""Reconstruct a scan as a `Plan` says: for each item estimate coil maps, build the problem, solve it, and finish.

`reconstruct` is the whole way; `solve` is what happens to a few items.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from mrirecon.coils.noise import measure_noise
from mrirecon.engine import Precision
from mrirecon.errors import BusyError, InputError, MriReconError, NoSignalError
from mrirecon.io import Scan
from mrirecon.io.safe.scratch import Rows
from mrirecon.io.sampling import in_words
from mrirecon.methods.registry import Use, build, find
from mrirecon.methods.regularization import weight_by_noise
from mrirecon.physics.operators import root_sum_of_squares
from mrirecon.physics.problem import Problem
from mrirecon.physics.transforms import Gain, Identity, Prior, Transform
from mrirecon.reconstruction.calibrate import ItemMaps, item_maps, item_noise
from mrirecon.reconstruction.choose import choose
from mrirecon.reconstruction.plan import Plan, PlanGroup, Request
from mrirecon.reconstruction.preprocess.prepare import finish
from mrirecon.reconstruction.slices import read_slices

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


@dataclass(frozen=True)
class ItemResult:
    """The image of one item, or of one slice of a volume, and how it came about.

    Attributes:
        image: (*space) complex64.
        reason: why it stopped, or why the image is zero.
        lam: regularization weight; None where the method has none.
        sets: how many sets of coil maps it had.
        maps: where they come from; None where none were looked for.
        iterates: (step, *space), the image after every step, where asked.
        notes: what the user should know.

    """

    image: np.ndarray
    reason: str
    lam: float | None = None
    sets: int = 0
    maps: str | None = None
    iterates: np.ndarray | None = None
    notes: tuple[str, ...] = ()


def reconstruct(
    scan: Scan,
    request: Request | None = None,
    *,
    plan: Plan | None = None,
    progress: Progress | None = None,
    keep: Callable[[int, np.ndarray], None] | None = None,
    scratch: Sequence[Path] | None = None,
    go_on: bool = False,
    **options: Any,  # the fields of `Request`, which names those that it does not know
) -> Reconstruction:
    """Reconstruct every item of a scan.

    A volume that is fully sampled along its readout is solved slice by slice, unless ``ndim=3``. The image of an item
    without signal is zero, and noted.

    Args:
        scan: from `mrirecon.io.read`, or `mrirecon.reconstruction.preprocess.prepare`.
        request: how; by default made from ``options``, which are its fields: method, maps, options, model, and so on.
        plan: what `mrirecon.reconstruction.choose.choose` decided for this scan, where that is known already.
        progress: called with (items done, items, what is being done), or slices of volumes where those are solved.
        keep: called with (item, images (step, *space)) to see every iterate, in the scale of the data.
        scratch: folders for temporary files, in order of preference, one of which then holds large images as well.
        go_on: leave out items that cannot be reconstructed (see `Reconstruction.failed`) in place of raising.
        options: see `mrirecon.reconstruction.plan.Request`.

    Raises:
        UsageError: a method, option or device that does not exist; a learned method without a model.
        ModelMismatchError: with ``strict_model``, data that the model was not trained for.
        InputError: data that cannot be reconstructed; the item is named.
        ResourceError: no room for a temporary file.

    """
    request = request or Request(**options)
    plan = plan or choose(scan, request, scratch)
    networks = [group.model.model for group in plan.groups if group.model is not None]
    for network in networks:
        network.to(plan.device).precision = plan.precision

    first = plan.first_volume
    length, shape = (1, scan.space_shape) if first is None else (len(first), first.space_shape)
    total = len(scan) * length
    rows = Rows(total, shape, np.complex64, scratch, f"images of {scan.path.name}")
    # An item without signal is in no group, and counts with the first.
    group_of = dict.fromkeys(range(len(scan)), plan.groups[0])
    group_of |= {item: group for group in plan.groups for item in group.items}
    failures = Failures(scan, go_on)
    results: list[ItemResult] = []
    seconds: list[float] = []

    def done(found: Sequence[ItemResult], items: Sequence[int], start: float) -> None:
        for item, result in zip(items, found, strict=True):
            rows.write(len(results), result.image)
            if keep is not None:
                none = np.zeros((0, *shape), np.complex64)
                keep(item, none if result.iterates is None else result.iterates)
            results.append(replace(result, image=np.empty(0), iterates=None))
            seconds.append((time.perf_counter() - start) / len(items))

    for volume in [None] if plan.slicing is None else range(len(scan)):
        start, part = time.perf_counter(), scan
        if volume is not None and plan.slicing is not None:
            if progress:
                progress(len(results), total, plan.method)
            try:
                spooled = first is not None and first.volume == volume
                part = first if spooled and first else read_slices(scan, volume, plan.slicing, scratch)
            except InputError as error:
                lost = failures.lose(scan, volume, error, volume, group_of[volume], shape, length)
                done(lost, [volume] * length, start)
                continue
        for items, group in _batches(part, volume, group_of, max(1, request.batch)):
            if progress:
                progress(len(results), total, plan.method)
            start = time.perf_counter()
            done(_solve_what_can_be(part, volume, items, group, plan, failures, keep is not None), items, start)
    if progress:
        progress(total, total, plan.method)

    images = rows.view()
    if plan.slicing is not None:
        images = np.moveaxis(images.reshape(len(scan), length, *shape), 1, plan.slicing.axis + 1)
    failed_notes = failures.conclude(len(results))
    images, finish_notes = finish(scan, images, scratch)
    return Reconstruction(
        images=images,
        method=plan.method,
        why=plan.reason,
        maps=next((result.maps for result in reversed(results) if result.maps is not None), ""),
        lam=[result.lam for result in results if result.lam is not None],
        reasons=[result.reason for result in results],
        seconds=seconds,
        notes=[
            *scan.notes,
            *plan.notes,
            *_one_of_each_kind(note for result in results for note in result.notes),
            *finish_notes,
            *([plan.precision_note] if plan.precision_note else []),
            *failed_notes,
            *([plan.slicing.note] if plan.slicing is not None else []),
            *plan.outside,
        ],
        methods=[group_of[i].method for i in range(len(scan))] if len({g.method for g in plan.groups}) > 1 else [],
        failed=failures.bad,
        precision=plan.precision,
        sets=[result.sets for result in results],
    )


def _batches(
    part: Scan, volume: int | None, group_of: dict[int, PlanGroup], size: int
) -> Iterator[tuple[list[int], PlanGroup]]:
    """Yield items of a scan that are solved together, at most ``size``: all of one method, all with signal or none."""

    def group_at(item: int) -> PlanGroup:
        return group_of[item if volume is None else volume]

    for _, alike in itertools.groupby(range(len(part)), lambda item: (part.blank(item), group_at(item).method)):
        items = list(alike)
        group = group_at(items[0])
        for start in range(0, len(items), size):
            yield items[start : start + size], group


def _solve_what_can_be(
    part: Scan,
    volume: int | None,
    items: Sequence[int],
    group: PlanGroup,
    plan: Plan,
    failures: Failures,
    iterates: bool,
) -> list[ItemResult]:
    """Solve items; where they cannot be solved together, each alone; those that cannot be solved are zero."""
    try:
        return solve(part, items, group, plan, iterates=iterates)
    except InputError as error:
        if len(items) > 1 and not isinstance(error, BusyError):
            each = (_solve_what_can_be(part, volume, [i], group, plan, failures, iterates) for i in items)
            return [result for one in each for result in one]
        item = items[0]
        return failures.lose(part, item, error, item if volume is None else volume, group, part.space_shape)
    except MriReconError as error:
        error.where = _where(part, items[0], error)
        raise


def solve(
    scan: Scan, items: Sequence[int], group: PlanGroup, plan: Plan, *, iterates: bool = False
) -> list[ItemResult]:
    """Reconstruct a few items of a scan by the method of their group.

    Only networks take several items at a time; a batch that does not fit into memory is halved.

    Args:
        scan: the scan, or one volume of it as slices.
        items: of that scan, all with signal or all without.
        group: method and settings.
        plan: all else.
        iterates: return the image after every step as well.

    Raises:
        InputError: data that cannot be reconstructed.

    """
    if scan.blank(items[0]):
        return [_nothing(scan, group, "no signal") for _ in items]
    if group.model is None and len(items) > 1:
        return [result for item in items for result in solve(scan, [item], group, plan, iterates=iterates)]
    try:
        return _solve_together(scan, items, group, plan, iterates)
    except (RuntimeError, MemoryError) as error:
        if len(items) == 1 or "memory" not in str(error).lower():
            raise
    half = len(items) // 2
    parts = (solve(scan, part, group, plan, iterates=iterates) for part in (items[:half], items[half:]))
    note = f"a batch of {len(items)} did not fit into memory: it was halved"
    return [replace(result, notes=(note, *result.notes)) for part in parts for result in part]


def _solve_together(scan: Scan, items: Sequence[int], group: PlanGroup, plan: Plan, iterates: bool) -> list[ItemResult]:
    """Reconstruct items with signal as one batch: maps → problem → solve."""
    method, settings = find(group.method), dict(group.settings)
    network = None if group.model is None else group.model.model
    network_maps = network is not None and network.prepare is not None  # from a sensitivity network
    weight_follows_noise = group.weighted and "lam" not in settings
    espirit = plan.espirit
    if method.map_sets == 1 and espirit.sets == "auto":
        espirit = replace(espirit, sets=1)
    problems, gains, blanks = [], [], []
    for item in items:
        kspace, mask = scan.samples(item)
        source = plan.maps if method.maps and not network_maps else "unit"
        maps = item_maps(scan, item, kspace, mask, source=source, options=espirit)
        named = maps.source if method.maps and not network_maps else "a network's" if network_maps else "none needed"
        notes = () if maps.note is None else (maps.note,)
        if method.use == "cropped" and maps.sees_nothing:  # a batch of one, for it is no network
            return [replace(_nothing(scan, group, "no object, as its coil maps tell"), maps=named, notes=notes)]
        noise = None
        if method.use == "informed" or weight_follows_noise:
            noise = item_noise(scan, item, kspace, mask).covariance
        problems.append(build_problem(kspace, mask, maps, method.use, device=plan.device, noise=noise))
        gains.append(Gain(maps.gain))
        blanks.append(ItemResult(np.empty(0), "", sets=maps.maps.shape[1], maps=named, notes=notes))
        del maps  # the problem has its own, weighted
    if len({blank.sets for blank in blanks}) > 1:  # they cannot be stacked
        runs = itertools.groupby(zip(blanks, items, strict=True), lambda pair: pair[0].sets)
        each = (_solve_together(scan, [item for _, item in run], group, plan, iterates) for _, run in runs)
        return [result for one in each for result in one]
    problem, prior = _stack(problems)
    if weight_follows_noise:  # a batch of one, for it is no network
        settings["lam"] = float(weight_by_noise(group.method, problem)[0])
    reconstructor = network or build(group.method, settings).to(plan.device)
    with torch.inference_mode():
        solution = reconstructor.run(problem, prior=prior, consume=not iterates)
        steps = list(reconstructor.images(problem, prior=prior)) if iterates else []
    results = []
    for number, (item, one, gain, blank) in enumerate(zip(items, problems, gains, blanks, strict=True)):
        transform, own = gain @ one.transform, slice(number, number + 1)
        image = join_map_sets(transform.undo(solution.image[own])[0])
        if not np.isfinite(image).all():
            fix, where = "look with `mrirecon info FILE`", scan.where(item)
            raise InputError("the reconstruction holds values that are not numbers", where=where, fix=fix)
        shown = np.stack([join_map_sets(transform.undo(step[own])[0]) for step in steps]) if iterates else None
        lam = cast("float | None", settings.get("lam"))
        results.append(replace(blank, image=image, reason=solution.reasons[number], lam=lam, iterates=shown))
    return results


def _nothing(scan: Scan, group: PlanGroup, reason: str) -> ItemResult:
    """Return an image of zeros, with the reason."""
    lam = 0.0 if group.weighted else None
    return ItemResult(np.zeros(scan.space_shape, np.complex64), reason, lam)


class ItemProblem(NamedTuple):
    """A problem, and how its image becomes that of the scan.

    Attributes:
        problem: of u.
        transform: x = T u.
        prior: for `mrirecon.engine.Reconstructor.run` of an informed method; None for others.

    """

    problem: Problem
    transform: Transform
    prior: Prior | None


def build_problem(
    kspace: np.ndarray,
    mask: np.ndarray,
    maps: ItemMaps,
    use: Use,
    *,
    device: torch.device | str = "cpu",
    noise: np.ndarray | None = None,
) -> ItemProblem:
    """Return the problem of one item as a batch of one, and how its image becomes that of the item.

    Maps show where there is an object, and methods use that in three ways (see `ItemMaps.prior`). A plain combination
    is ``cropped`` to the object. A regularized method is ``weighted``: it solves for u with the maps S·w, and its image
    is x = w·u. A network is ``informed``: it has S everywhere, so that it looks for an image that explains the data,
    and w separately; cropped maps would ask it to explain a scalp at the edge of the crop and yet to darken it.

    Args:
        kspace: (C, *space) complex, centred.
        mask: (*space), true where sampled.
        maps: of the item.
        use: how the method uses them.
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
        return ItemProblem(prior.apply(problem), prior, None)
    return ItemProblem(problem, Identity(), prior if use == "informed" else None)


def _stack(items: list[ItemProblem]) -> tuple[Problem, Prior | None]:
    """Return problems of one size as one batch, with the prior of all."""
    if len(items) == 1:
        return items[0].problem, items[0].prior
    problems = [item.problem for item in items]
    y, mask, maps = (torch.cat(part) for part in zip(*((p.y, p.mask, p.maps) for p in problems), strict=True))
    noise = [p.noise for p in problems if p.noise is not None]
    weights = [item.prior.weight for item in items if item.prior is not None]
    prior = Prior(torch.cat(weights)) if len(weights) == len(items) else None
    return Problem(y, mask, maps, noise=torch.cat(noise) if len(noise) == len(problems) else None), prior


def join_map_sets(image: Tensor) -> np.ndarray:
    """Join the sets of maps (M, *space): the root sum of squares, with the phase of the first."""
    if image.shape[0] == 1:
        return np.asarray(image[0].cpu().numpy(), dtype=np.complex64)
    magnitude = root_sum_of_squares(image, 0)
    phase = torch.exp(1j * image[0].angle())
    return np.asarray((magnitude * phase).cpu().numpy(), dtype=np.complex64)


@dataclass
class Failures:
    """What became of the items of one scan that cannot be reconstructed.

    An item without signal has an image of zeros, and a note. One that is bad in another way stops the scan, unless the
    others are to be done without it. A scan of which nothing is left is refused in either case.

    Attributes:
        scan: whose items they are.
        go_on: whether the others are done where one is bad.
        empty: items without signal; volumes, where those are solved slice by slice.
        bad: what is wrong with others, in the order in which it was found.

    """

    scan: Scan
    go_on: bool = False
    empty: list[int] = field(default_factory=list)
    bad: list[InputError] = field(default_factory=list)
    _first: InputError | None = None
    _lost: int = 0

    def lose(
        self,
        part: Scan,
        place: int,
        error: InputError,
        item: int,
        group: PlanGroup,
        shape: tuple[int, ...],
        count: int = 1,
    ) -> list[ItemResult]:
        """Return images of zeros for an item that cannot be reconstructed.

        Args:
            part: the scan, or its volume as slices.
            place: which of its items cannot be.
            error: what is wrong with it.
            item: the item of the scan, or the volume.
            group: its method.
            shape: of an image.
            count: how many images are lost by it.

        Raises:
            InputError: that error, where the others are not to be done.

        """
        error.where = _where(part, place, error)
        empty = isinstance(error, NoSignalError)
        if isinstance(error, BusyError) or self.scan.strict or not (empty or self.go_on):
            raise error
        self._first = self._first or error
        self._lost += count
        if empty:
            self.empty.append(item)
        else:
            self.bad.append(error)
        reason = "no signal" if empty else f"not reconstructed: {error.what}"
        lam = 0.0 if group.weighted else None
        return [ItemResult(np.zeros(shape, np.complex64), reason, lam)] * count

    def conclude(self, count: int) -> list[str]:
        """Return what is to be noted once all ``count`` images were tried.

        Raises:
            InputError: nothing is left; what is wrong with the first.

        """
        if self._lost >= count and self._first is not None:
            raise self.bad[0] if self.bad else self._first
        notes = [f"no signal in {in_words(self.empty)}: the image is zero there"] if self.empty else []
        return notes + [f"not reconstructed, and zero in the output: {e.where}: {e.what}" for e in self.bad[:8]]


def _where(scan: Scan, item: int, error: MriReconError) -> str:
    return error.where if error.where and str(scan.path) in error.where else scan.where(item)


def _one_of_each_kind(notes: Iterator[str]) -> list[str]:
    """Return the notes, without those that begin, up to a colon, as one before them does."""
    kinds: dict[str, str] = {}
    for note in notes:
        kinds.setdefault(note.partition(":")[0], note)
    return list(kinds.values())
