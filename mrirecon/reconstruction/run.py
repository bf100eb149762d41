"""Reconstruct a scan by a `Plan`: for each item, estimate coil maps, build the problem, solve it, and finish.

`reconstruct` does this for a scan, `_solve_together` for the items of one batch.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from mrirecon.coils.trivial import unit
from mrirecon.engine import Precision
from mrirecon.errors import BusyError, InputError, MriReconError, NoSignalError
from mrirecon.io.drawing import Panel, Shown, slice_panels
from mrirecon.io.safe.scratch import Rows
from mrirecon.io.safe.text import counted
from mrirecon.io.sampling import format_items
from mrirecon.io.scan import Scan
from mrirecon.methods.regularization import weight_by_noise
from mrirecon.physics.transforms import Gain
from mrirecon.reconstruction.adaptation.scans import adapt_plan
from mrirecon.reconstruction.calibrate import (
    ItemMaps,
    build_problem,
    item_maps,
    item_noise,
    join_map_sets,
    stack_problems,
)
from mrirecon.reconstruction.choose import choose
from mrirecon.reconstruction.plan import Plan, PlanGroup, Request
from mrirecon.reconstruction.preprocess.prepare import finish
from mrirecon.reconstruction.slices import read_slices

Progress = Callable[[int, int, str], None]


@dataclass
class Reconstruction(Shown):
    """Hold the images of a scan, and how they were reconstructed; `numpy.asarray` returns `image`.

    Attributes:
        images: (item, *space) complex64, in the scale of the data; magnitudes if the method has no phase.
        method: the method; if items differ, that of most undersampled items, see `methods`.
        why: reason for the method.
        maps: source of the coil maps.
        lam: regularization weight of each item, relative to its scale, if the method has one.
        reasons: reason why the iterations of each item stopped.
        seconds: wall time of each item, with reading and calibration. If volumes are solved slice by slice, weights,
            reasons and seconds are those of slices.
        notes: further notes for the user.
        methods: the method of each item, if items differ.
        failed: errors of skipped items, whose images are zero.
        precision: precision of networks; float32 without networks.
        sets: number of sets of coil maps of each item.
        adaptation: how the model was adapted to the scan, as in the card of an adapted model; None if it was not.
        loops: lengths of the axes over which items were separate problems (slices, repetitions), in their order.

    """

    images: np.ndarray = field(repr=False)
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
    adaptation: dict[str, object] | None = None
    loops: tuple[int, ...] = ()

    @property
    def image(self) -> np.ndarray:
        """Return the images with the axes of k-space, without coils: (*loops, *space), for one item (*space)."""
        return self.images.reshape(*self.loops, *self.images.shape[1:])

    def panels(self) -> list[Panel]:
        """Return panels with the magnitude of at most 16 slices."""
        return slice_panels(self.images)

    def caption(self) -> list[str]:
        """Return method, reason, coil maps, regularization weight and time, and the notes."""
        weight = f"; λ {float(np.mean(self.lam)):.3g}" if self.lam else ""
        done = f"coil maps: {self.maps or 'none'}{weight}; {sum(self.seconds):.1f} s"
        return [f"{self.method}: {self.why}", done, *self.notes]

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.image, dtype) if copy else np.asarray(self.image, dtype)


@dataclass(frozen=True)
class ItemResult:
    """Hold the image of one item, or of one slice of a volume, and how it was reconstructed.

    Attributes:
        image: (*space) complex64.
        reason: reason why the iterations stopped, or why the image is zero.
        lam: regularization weight; None if the method has none.
        sets: number of sets of coil maps.
        maps: source of the coil maps; None for an item without an image.
        iterates: (step, *space), the image after every step, if requested.
        notes: notes for the user.
        seconds: wall time.

    """

    image: np.ndarray
    reason: str
    lam: float | None = None
    sets: int = 0
    maps: str | None = None
    iterates: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    seconds: float = 0.0


def reconstruct(
    scan: Scan,
    request: Request | None = None,
    *,
    plan: Plan | None = None,
    progress: Progress | None = None,
    on_iterates: Callable[[int, np.ndarray], None] | None = None,
    scratch: Sequence[Path] | None = None,
    skip_failed: bool = False,
    **options: Any,  # the fields of `Request`, which checks their names
) -> Reconstruction:
    """Reconstruct every item of a scan.

    A volume with a fully sampled readout is solved slice by slice, unless ``ndim=3``. The image of an item without
    signal is zero, with a note.

    Args:
        scan: result of `mrirecon.io.read` or `mrirecon.reconstruction.preprocess.prepare`.
        request: the user's request; by default made from ``options``, which are its fields: method, maps, model,
            and so on.
        plan: the plan of `mrirecon.reconstruction.choose.choose` for this scan; by default it is made here.
        progress: function of (items done, items, current work); counts slices if volumes are solved slice by slice.
        on_iterates: function of (item, images (step, *space)) that gets every iterate, in the scale of the data.
        scratch: folders for temporary files (also of large images), in order of preference.
        skip_failed: skip items that cannot be reconstructed (see `Reconstruction.failed`) instead of an error.
        options: see `mrirecon.reconstruction.plan.Request`.

    Raises:
        UsageError: a method, option or device that does not exist; a learned method without a model.
        ModelMismatchError: with ``strict_model``, data that the model was not trained for.
        InputError: data that cannot be reconstructed; the message names the item.
        ResourceError: not enough disk space for a temporary file.

    """
    request = request or Request(**options)
    plan = plan or choose(scan, request, scratch)
    adaptation = None
    if request.adaptation is not None:
        plan, adaptation = adapt_plan(scan, plan, request.adaptation, scratch=scratch, progress=progress)
    for group in plan.groups:
        if group.model is not None:
            group.model.model.to(plan.device).precision = plan.precision
    first, count = plan.first_volume, len(scan)
    length, shape = (1, scan.space_shape) if first is None else (len(first), first.space_shape)
    total = count * length
    rows = Rows(total, shape, np.complex64, scratch, f"images of {scan.path.name}")
    # An item without signal is in no group, and is assigned to the first.
    group_of = dict.fromkeys(range(count), plan.groups[0])
    group_of |= {item: group for group in plan.groups for item in group.items}
    groups = [group_of[item] for item in range(count)]
    failures = ItemFailures(scan, skip_failed)
    results: list[ItemResult] = []
    main, report = plan.method, progress or (lambda done, total, what: None)
    report(0, total, main)
    start = time.perf_counter()
    batches = _results(scan, groups, plan, max(1, request.batch), failures, on_iterates is not None, scratch)
    for items, solved in batches:
        duration = (time.perf_counter() - start) / len(items)
        for item, result in zip(items, solved, strict=True):
            rows.write(len(results), result.image)
            if on_iterates is not None:
                nothing = np.zeros((0, *shape), np.complex64)
                on_iterates(item, nothing if result.iterates is None else result.iterates)
            results.append(replace(result, image=np.empty(0), iterates=None, seconds=duration))
        del solved, result  # their images are already stored
        report(len(results), total, main)
        start = time.perf_counter()

    images = rows.view()
    if plan.slicing is not None:
        images = np.moveaxis(images.reshape(count, length, *shape), 1, plan.slicing.axis + 1)
    failed_notes = failures.notes(len(results))
    item_notes = _one_of_each_kind(note for result in results for note in result.notes)
    images, finish_notes = finish(scan, images, scratch)
    combined = {"echo"} if scan.prepared is not None and scan.prepared.options.echoes else set()
    return Reconstruction(
        images=images,
        method=main,
        why=plan.reason,
        maps=next((result.maps for result in reversed(results) if result.maps is not None), ""),
        lam=[result.lam for result in results if result.lam is not None],
        reasons=[result.reason for result in results],
        seconds=[result.seconds for result in results],
        notes=counted(
            [
                *scan.notes,
                *plan.notes,
                *item_notes,
                *finish_notes,
                *([plan.precision_note] if plan.precision_note else []),
                *failed_notes,
                *([plan.slicing.note] if plan.slicing is not None else []),
                *plan.outside,
            ]
        ),
        methods=[g.entry.name for g in groups] if len({g.entry.name for g in plan.groups}) > 1 else [],
        failed=failures.errors,
        precision=plan.precision,
        sets=[result.sets for result in results],
        adaptation=adaptation,
        loops=tuple(n for a, n in zip(scan.layout.loops, scan.layout.loop_shape, strict=True) if a not in combined),
    )


def _results(
    scan: Scan,
    groups: Sequence[PlanGroup],
    plan: Plan,
    batch: int,
    failures: ItemFailures,
    iterates: bool,
    scratch: Sequence[Path] | None,
) -> Iterator[tuple[list[int], list[ItemResult]]]:
    """Yield items (for slices, their volumes) with their results, one batch at a time."""
    if plan.slicing is None:
        for items, blank in _batches(scan, groups, batch):
            group = groups[items[0]]
            yield items, blank or _solve(scan, items, items, group, plan, failures, iterates)
        return
    first = plan.first_volume
    assert first is not None, "the plan has read it"
    for volume, group in enumerate(groups):
        try:
            part = first if first.volume == volume else read_slices(scan, volume, plan.slicing, scratch)
        except InputError as error:
            error.where = _location(scan, volume, error)
            lost = failures.record(error, volume, group, first.space_shape, len(first))
            yield [volume] * len(first), [lost] * len(first)
            continue
        for positions, blank in _batches(part, [group] * len(part), batch):
            volumes = [volume] * len(positions)
            yield volumes, blank or _solve(part, positions, volumes, group, plan, failures, iterates)


def _batches(part: Scan, groups: Sequence[PlanGroup], size: int) -> Iterator[tuple[list[int], list[ItemResult]]]:
    """Yield items to solve as one batch, with their results if they hold no signal; else with an empty list."""
    for (blank, _), alike in itertools.groupby(range(len(part)), lambda i: (part.is_blank(i), groups[i].entry.name)):
        items = list(alike)
        group = groups[items[0]]
        if blank:
            yield items, [_zero_image(part.space_shape, group, "no signal")] * len(items)
            continue
        step = size if group.model is not None else 1  # only networks take several items
        yield from ((items[start : start + step], []) for start in range(0, len(items), step))


def _solve(
    part: Scan,
    positions: Sequence[int],
    items: Sequence[int],
    group: PlanGroup,
    plan: Plan,
    failures: ItemFailures,
    iterates: bool,
) -> list[ItemResult]:
    """Solve items with signal as one batch; halve a batch that fails, and record single items that fail.

    Args:
        part: the scan, or one volume of it as slices.
        positions: items of ``part``.
        items: items of the scan: the same, or the volume of each slice.
        group: method and settings.
        plan: all other decisions.
        failures: records items that cannot be reconstructed.
        iterates: also return the image after every step.

    """
    notes: tuple[str, ...] = ()
    try:
        return _solve_together(part, positions, group, plan, iterates)
    except MriReconError as error:
        error.where = _location(part, positions[0], error)
        if not isinstance(error, InputError):
            raise
        if len(positions) == 1 or isinstance(error, BusyError):
            return [failures.record(error, items[0], group, part.space_shape)]
    except (RuntimeError, MemoryError) as error:
        if len(positions) == 1 or "memory" not in str(error).lower():
            raise
        notes = (f"a batch of {len(positions)} did not fit into memory: it was halved",)
    half = len(positions) // 2
    results = [
        *_solve(part, positions[:half], items[:half], group, plan, failures, iterates),
        *_solve(part, positions[half:], items[half:], group, plan, failures, iterates),
    ]
    return [replace(result, notes=(*notes, *result.notes)) for result in results]


def _solve_together(scan: Scan, items: Sequence[int], group: PlanGroup, plan: Plan, iterates: bool) -> list[ItemResult]:
    """Reconstruct items with signal as one batch: maps → problem → solve."""
    method, settings = group.entry, dict(group.settings)
    network = None if group.model is None else group.model.model
    weight_follows_noise = method.has_weight and "lam" not in settings
    problems, gains, drafts = [], [], []
    for item in items:
        kspace, sampling = scan.measured(item)
        if group.calibration is None:
            maps = ItemMaps(unit(len(kspace), sampling.shape), "none needed" if network is None else "a network's")
        else:
            maps = item_maps(scan, item, kspace, sampling, source=group.calibration, options=group.espirit)
        notes = () if maps.note is None else (maps.note,)
        if method.use == "cropped" and maps.is_empty:  # a batch of one, because only networks take several items
            reason = "no object: its coil maps are empty"
            return [replace(_zero_image(scan.space_shape, group, reason), maps=maps.source, notes=notes)]
        noise = None
        if method.use == "informed" or weight_follows_noise:
            noise = item_noise(scan, item, kspace, sampling, maps.noise).covariance
        problems.append(build_problem(kspace, sampling, maps, method.use, device=plan.device, noise=noise))
        gains.append(Gain(maps.gain))
        drafts.append(ItemResult(np.empty(0), "", sets=maps.maps.shape[1], maps=maps.source, notes=notes))
        del maps  # the problem holds the weighted maps
    if len({draft.sets for draft in drafts}) > 1:  # problems of different sizes cannot be stacked
        runs = itertools.groupby(zip(drafts, items, strict=True), lambda pair: pair[0].sets)
        each = (_solve_together(scan, [item for _, item in run], group, plan, iterates) for _, run in runs)
        return [result for one in each for result in one]
    problem, prior = stack_problems(problems)
    if weight_follows_noise:  # a batch of one, because only networks take several items
        settings["lam"] = float(weight_by_noise(method.name, problem)[0])
    reconstructor = network or method.reconstructor(settings).to(plan.device)
    with torch.inference_mode():
        solution = reconstructor.run(problem, prior=prior, consume=not iterates)
        steps = list(reconstructor.images(problem, prior=prior)) if iterates else []
    results = []
    for number, (item, one, gain, draft) in enumerate(zip(items, problems, gains, drafts, strict=True)):
        transform, own = gain @ one.transform, slice(number, number + 1)
        image = join_map_sets(transform.undo(solution.image[own])[0])
        if not np.isfinite(image).all():
            fix, where = "check the data with `mrirecon info FILE`", scan.where(item)
            raise InputError("the reconstruction holds NaN or infinite values", where=where, fix=fix)
        images = np.stack([join_map_sets(transform.undo(step[own])[0]) for step in steps]) if iterates else None
        lam = cast("float | None", settings.get("lam"))
        results.append(replace(draft, image=image, reason=solution.reasons[number], lam=lam, iterates=images))
    return results


def _zero_image(shape: tuple[int, ...], group: PlanGroup, reason: str) -> ItemResult:
    """Return a result with an image of zeros and the reason."""
    return ItemResult(np.zeros(shape, np.complex64), reason, 0.0 if group.entry.has_weight else None)


@dataclass
class ItemFailures:
    """Record the items of one scan that cannot be reconstructed.

    The image of an item without signal is zero, with a note. Another failure stops the scan, unless failed items are
    skipped. A scan in which every item fails is always refused.

    Attributes:
        scan: scan of the items.
        skip_failed: continue with the other items after a failure.
        empty: items without signal (volumes, if they are solved slice by slice).
        errors: other failures in their order.
        count: number of lost images.

    """

    scan: Scan
    skip_failed: bool = False
    empty: list[int] = field(default_factory=list)
    errors: list[InputError] = field(default_factory=list)
    count: int = 0
    _no_signal: InputError | None = None

    def record(
        self, error: InputError, item: int, group: PlanGroup, shape: tuple[int, ...], count: int = 1
    ) -> ItemResult:
        """Record an item that cannot be reconstructed, and return an image of zeros.

        Args:
            error: the error.
            item: the item of the scan, or the volume.
            group: group of the item.
            shape: shape of an image.
            count: number of images that are lost.

        Raises:
            InputError: the error, if failed items are not skipped.

        """
        empty = isinstance(error, NoSignalError)
        if isinstance(error, BusyError) or self.scan.strict or not (empty or self.skip_failed):
            raise error
        self.count += count
        if empty:
            self.empty.append(item)
            self._no_signal = self._no_signal or error
        else:
            self.errors.append(error)
        return _zero_image(shape, group, "no signal" if empty else f"not reconstructed: {error.what}")

    def notes(self, total: int) -> list[str]:
        """Return notes on the failures, after all ``total`` images were tried.

        Raises:
            InputError: every image is lost; the first error is raised.

        """
        if self.count >= total and (self.errors or self._no_signal):
            raise [*self.errors, self._no_signal][0]  # type: ignore[misc]  # one of the two is an error
        notes = [f"no signal in {format_items(self.empty)}: the image is zero"] if self.empty else []
        return notes + [f"not reconstructed, zero in the output: {e.where}: {e.what}" for e in self.errors[:8]]


def _location(scan: Scan, item: int, error: MriReconError) -> str:
    return error.where if error.where and str(scan.path) in error.where else scan.where(item)


def _one_of_each_kind(notes: Iterable[str]) -> list[str]:
    """Remove notes with the same text before the colon as an earlier note."""
    kinds: dict[str, str] = {}
    for note in notes:
        kinds.setdefault(note.partition(":")[0], note)
    return list(kinds.values())
