"""Decide how to reconstruct a scan: `choose(scan, request)` makes all decisions once, and returns the `Plan`.

Items with the same sampling are reconstructed by the same method. A learned method is chosen only if the card of its
model covers the scan: acceleration, calibration region, size, coils, SNR, contrast.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mrirecon.coils.sampling import GridSampling, Sampling, as_sampling
from mrirecon.engine import Precision
from mrirecon.errors import BusyError, InputError, ModelMismatchError, MriReconError, UsageError
from mrirecon.io.readers.reader import read
from mrirecon.io.safe.scratch import scratch_folders
from mrirecon.io.sampling import format_items, group_by_sampling
from mrirecon.io.scan import Scan
from mrirecon.io.trajectory import TrajectoryOptions
from mrirecon.methods.registry import METHODS, find_method
from mrirecon.metrics import object_mask
from mrirecon.models.checkpoints import TrainedModel, describe_model, shipped_models, with_options
from mrirecon.models.hardware import pick_device, pick_precision
from mrirecon.physics.operators import root_sum_of_squares
from mrirecon.reconstruction.calibrate import EspiritOptions, MapsSource, find_source, small_field_of_view
from mrirecon.reconstruction.plan import Plan, PlanGroup, Request
from mrirecon.reconstruction.preprocess.prepare import note_loud_coils
from mrirecon.reconstruction.slices import HybridSlices, Slicing, find_slicing, open_slices

# Tolerance factor: masks vary around the acceleration and size requested in training; measured SNR is an estimate.
DOMAIN_TOLERANCE = {"acceleration": 1.15, "calibration": 1.0, "size": 1.7, "coils": 1.3, "snr": 1.5}
PREFERRED = "cirim"  # the learned method to choose if its card covers the data
CONTRASTS = {"t1w": r"t1", "t2w": r"t2|tse|haste", "flair": r"flair|tirm", "pdw": r"pd", "t2*w": r"swi|t2s|flash"}

# Function that inspects one item of each group with the same sampling; see `_inspect_alike`.
Inspector = Callable[[Callable[[Scan, int], Any]], list[tuple[tuple[int, ...], str, Any]]]


def choose(scan: Scan, request: Request | None = None, scratch: Sequence[Path] | None = None) -> Plan:
    """Decide how to reconstruct a scan.

    Args:
        scan: result of `mrirecon.io.read` or `mrirecon.reconstruction.preprocess.prepare`.
        request: the user's request; by default everything is automatic.
        scratch: folders for temporary files, in order of preference, for volumes that are solved slice by slice; this
            function stores the first volume.

    Raises:
        UsageError: a method, option or device that does not exist; a learned method without a model.
        ModelMismatchError: with ``strict_model``, data that the model was not trained for.
        InputError: no item can be read; the error is that of the first.
        ResourceError: not enough disk space for a temporary file.

    """
    request = request or Request()
    device = pick_device(request.device)
    model = None if request.model is None else request.load(request.model)
    groups: list[PlanGroup] = []
    if model is not None or request.method != "auto":  # check this before a long pass over the file
        group = _plan_method(request.method if model is None else model.method, scan, request)
        reason = "as requested" if model is None else f"model {request.model}"
        groups = [replace(group, items=tuple(range(len(scan))), reason=reason)]
    ndim = len(scan.space)
    slicing, notes = find_slicing(scan, request.options) if ndim == 3 else (None, [])
    first, representative = None, (scan, 0)
    if slicing is not None:
        first, representative = _first_volume(scan, slicing, scratch)
        if first is None:
            notes.append(f"the mask is constant along {slicing.readout}, but some coils lack data: solved as a volume")
            slicing = None
        else:
            ndim = 2
    notes += note_loud_coils(*representative)
    inspect = partial(_inspect_alike, scan, slicing, first)
    outside = []
    if not groups:
        groups = _choose_groups(scan, request, inspect)
    elif groups[0].model is not None:
        outside = _outside(groups[0].model, scan, inspect, strict=request.strict_model)
    groups = [replace(g, settings={"ndim": ndim, **g.settings}) if "ndim" in g.entry.fields else g for g in groups]
    main = groups[0]
    precision: Precision = "float32"
    precision_note = None
    if any(group.model for group in groups):
        precision, sentence = pick_precision(request.precision, device)
        precision_note = None if request.precision == "float32" else sentence
    elif request.precision == "bfloat16":
        precision_note = f"{main.entry.name} has no network, so that nothing is computed in bfloat16: all is float32"
    reason = main.reason
    if len(groups) > 1:
        reason = "; ".join(f"{format_items(g.items)} by {g.entry.name}: {g.reason}" for g in groups)
    return Plan(
        method=main.entry.name,
        model=main.model,
        reason=reason,
        groups=tuple(groups),
        slicing=slicing,
        device=device,
        precision=precision,
        notes=tuple(notes),
        precision_note=precision_note,
        outside=tuple(outside),
        first_volume=first,
    )


def preview(
    path: str | Path,
    *,
    axes: str | None = None,
    dataset: str | None = None,
    items: str | None = None,
    trajectory: TrajectoryOptions | None = None,
) -> tuple[str, list[str]]:
    """Describe how a file would be reconstructed by default, with notes; see `mrirecon.io.read`."""
    try:
        scan = read(path, axes=axes, dataset=dataset, items=items, trajectory=trajectory)
        plan = choose(scan)
        # For a volume this would take too long.
        note = small_field_of_view(scan, scan.representative_item()) if len(scan.space) == 2 else None
    except MriReconError as error:
        return f"reconstruct would refuse it: {error.what}", []
    method = f"by {plan.method}: " if len(plan.groups) == 1 else ""
    return f"reconstruct {method}{plan.reason}", [*scan.notes, *plan.notes, *([note] if note else [])]


def choose_method(scan: Scan, item: int = 0, maps: MapsSource = "auto") -> tuple[str, str]:
    """Choose the method for the data of an item; return it with the reason."""
    kspace, sampling = scan.measured(item)
    rate = sampling.acceleration
    box = [s.stop - s.start for s in sampling.box]
    separate = scan.calibration is not None
    if rate < 1.01:
        return "zero-filled", "fully sampled: the coil combination is the least-squares solution"
    if scan.coils == 1:
        return "cs", f"one coil, {rate:.1f}-fold undersampled"
    if maps in ("auto", "file") and scan.roles.maps is not None:
        return "cs", f"{rate:.1f}-fold undersampled, coil maps in the file"
    kernel = EspiritOptions().kernel
    if min(box) >= kernel or separate:
        size = "a separate calibration scan" if separate else f"a {'×'.join(map(str, box))} calibration region"
        described = f"{rate:.1f}-fold undersampled with {size}"
        folder = shipped_models().get(PREFERRED)
        if folder is None:
            return "cs", described
        card = describe_model(folder)["card"]
        assert isinstance(card, dict), "describe_model checks this"
        reasons = out_of_domain_reasons(card, scan, kspace, sampling)
        if reasons:
            return "cs", f"{described}; not {PREFERRED}: {reasons[0]}"
        return PREFERRED, f"{described}, for which it was trained"
    return "rss", (
        f"{rate:.1f}-fold undersampled, and its calibration region of {'×'.join(map(str, box))} is too small for coil "
        f"maps ({kernel} samples along each axis): aliasing remains. Give maps with --maps FILE to remove it"
    )


def _first_volume(
    scan: Scan, slicing: Slicing, scratch: Sequence[Path] | None
) -> tuple[HybridSlices | None, tuple[Scan, int]]:
    """Return the first readable volume as slices, and the representative item: its middle slice.

    If the data of some coil are less complete along the readout than those of the first coil, there are no slices, and
    the volume is the representative item.
    """
    folders = scratch_folders(None) if scratch is None else scratch
    failed: InputError | None = None
    for volume in slicing.lines:
        slices = open_slices(scan, volume, slicing)
        try:
            complete = slices.spool(folders)
        except BusyError:
            raise
        except InputError as error:
            failed = failed or error
            continue
        return (slices, (slices, len(slices) // 2)) if complete else (None, (scan, volume))
    assert failed is not None, "slices belong to a volume"
    raise failed


def _choose_groups(scan: Scan, request: Request, inspect: Inspector) -> list[PlanGroup]:
    """Return groups of items with their method and the reason, the most frequent method first.

    One item decides for all with the same sampling. Items without signal are left out.

    Raises:
        InputError: no item can be read; the error is that of the first.

    """
    chosen = inspect(lambda part, item: choose_method(part, item, request.maps))
    count = Counter(method for items, _, (method, _) in chosen for _ in items)
    chosen.sort(key=lambda group: (group[2][0] == "zero-filled", -count[group[2][0]]))
    planned: dict[str, PlanGroup] = {}
    for _, _, (method, _) in chosen:
        if method not in planned:
            planned[method] = _plan_method(method, scan, request, main=not planned)
    return [replace(planned[method], items=items, reason=reason) for items, _, (method, reason) in chosen]


def _inspect_alike(
    scan: Scan, slicing: Slicing | None, first: HybridSlices | None, inspect: Callable[[Scan, int], Any]
) -> list[tuple[tuple[int, ...], str, Any]]:
    """Return items with the same sampling, the location of their representative item, and its inspection result.

    Args:
        scan: the scan.
        slicing: how volumes are solved slice by slice; then the middle slice represents a volume.
        first: the volume that was already read.
        inspect: function of (scan, item). It gets the middle item; if this raises `InputError`, the next one.

    Raises:
        InputError: no item can be read; the error is that of the first.

    """
    results: list[tuple[tuple[int, ...], str, Any]] = []
    failures: list[InputError] = []
    groups = [((0,), [0])] if len(scan) == 1 else [(g.items, g.representatives) for g in group_by_sampling(scan)]
    for items, candidates in groups:
        for item in candidates:
            try:
                part, index = scan, item
                if slicing is not None:
                    part = first if first and first.volume == item else open_slices(scan, item, slicing)
                    index = len(part) // 2
                results.append((items, part.where(index), inspect(part, index)))
                break
            except BusyError:
                raise
            except InputError as error:
                failures.append(error)
    if not results:
        if not failures:
            scan.mask(scan.representative_item())  # raises the error for a scan without signal
        raise failures[0]
    return results


def _outside(model: TrainedModel, scan: Scan, inspect: Inspector, *, strict: bool) -> list[str]:
    """Return notes on data for which a model was not trained, one for each group of items with the same sampling.

    Raises:
        ModelMismatchError: there are such data, and ``strict`` is set.
        InputError: no item can be read; the error is that of the first.

    """
    notes = []
    groups = inspect(lambda part, item: out_of_domain_reasons(model.card, part, *part.measured(item)))
    for items, location, reasons in groups:
        if reasons and strict:
            raise ModelMismatchError(
                "the model was not trained for these data",
                where=location,
                why="; ".join(reasons),
                fix="use --method cs or another model, or omit --strict-model",
            )
        if reasons:
            of = f" ({format_items(items)})" if len(items) < len(scan) else ""
            notes.append(f"outside the training range of the model{of}: {'; '.join(reasons)}")
    return notes


def _plan_method(name: str, scan: Scan, request: Request, *, main: bool = True) -> PlanGroup:
    """Return a plan group (without items) for a method: model, settings and coil maps.

    Args:
        name: name of the method.
        scan: the scan.
        request: the user's request. Options and weight are for the main method; other methods use them if they have
            these options, and their defaults otherwise.
        main: whether it is the main method.

    Raises:
        UsageError: options or a weight that the method does not have; a learned method without a model.

    """
    source = request.model if request.model is not None else shipped_models().get(name)
    model = None if source is None else request.load(source)
    method = find_method(name)
    settings, lam = dict(request.options or {}), request.lam
    if not main:
        settings = settings if model is None and set(settings) <= set(method.fields) else {}
        lam = lam if model is None and method.has_weight else None
    if model is not None:
        model, settings = with_options(model, settings), {}
    if model is not None and lam is not None:
        raise UsageError("a trained model has no regularization weight", fix="omit --lambda")
    if main and request.strict_model and model is None and request.method != "auto":
        raise UsageError(f"--strict-model has no effect on {name}, which is not trained", fix="omit --strict-model")
    if model is None and method.learned:
        fix = "give a trained model with --model DIR"
        raise UsageError(f"method {name!r} is learned and needs weights", fix=fix)
    if lam is not None and not method.has_weight:
        having = ", ".join(sorted(other.name for other in METHODS.values() if other.has_weight))
        raise UsageError(f"method {name!r} has no regularization weight", fix=f"omit --lambda, or use {having}")
    if "seed" in method.fields:
        settings.setdefault("seed", request.seed)
    if lam is not None and lam != "auto":
        settings["lam"] = lam
    if method.has_weight and not method.weighted:  # its weight does not depend on the noise
        settings.setdefault("lam", method.fields["lam"][1])
    if model is None:
        resolved = method.resolve(settings)
        settings = {key: resolved[key] for key in settings}
    espirit = request.espirit or EspiritOptions()
    if method.map_sets == 1 and espirit.sets == "auto":
        espirit = replace(espirit, sets=1)
    # A model that estimates the maps itself has a network for it.
    takes_maps = method.maps and (model is None or model.model.prepare is None)
    calibration = find_source(scan, request.maps, espirit) if takes_maps else None
    return PlanGroup((), "", method, model, settings, calibration, espirit)


def domain_measures(kspace: np.ndarray, sampling: Sampling | np.ndarray) -> dict[str, float]:
    """Measure the quantities of a model's card: acceleration, calibration, smallest and largest side, coils, SNR.

    The SNR is the mean of the zero-filled image inside the object, divided by the noise of an average coil.
    """
    sampling = as_sampling(sampling)
    images = torch.from_numpy(sampling.coil_images(kspace))
    magnitude = root_sum_of_squares(images, 0)
    inside = object_mask(magnitude.reshape(-1, *magnitude.shape[-2:])).reshape(magnitude.shape)
    noise = float(np.sqrt((sampling.noise(kspace).deviation ** 2).mean()))
    signal = float(magnitude[inside].mean()) if bool(inside.any()) else 0.0
    return {
        "acceleration": sampling.acceleration,
        "calibration": float(min(s.stop - s.start for s in sampling.box)),
        "smallest side": float(min(sampling.shape)),
        "largest side": float(max(sampling.shape)),
        "coils": float(len(kspace)),
        "snr": signal / noise if noise else float("inf"),
    }


def out_of_domain_reasons(
    card: Mapping[str, object], scan: Scan, kspace: np.ndarray, sampling: Sampling | np.ndarray
) -> list[str]:
    """Return the reasons why a model's card does not cover the data; empty if it covers them.

    A card without a training range is also a reason.

    Args:
        card: card of the model.
        scan: the scan, for its axes and protocol.
        kspace: samples of one item.
        sampling: where they were taken; or a mask (*space), true where sampled.

    """
    covers = card.get("covers")
    if not isinstance(covers, Mapping):
        return ["its card does not state its training data"]
    sampling = as_sampling(sampling)
    measures, reasons = domain_measures(kspace, sampling), list[str]()
    trained = covers.get("sampling", [GridSampling.kind])
    if isinstance(trained, list) and sampling.kind not in trained:
        reasons.append(f"samples on {sampling.kind}, trained for {', '.join(map(str, trained))}")
    for key, measure, unit, low, high in (
        ("acceleration", "acceleration", "-fold", False, True),
        ("calibration", "calibration", " samples", True, False),
        ("size", "smallest side", "", True, False),
        ("size", "largest side", "", False, True),
        ("coils", "coils", "", True, True),
        ("snr", "snr", "", True, False),  # less noise than in training is not a problem
    ):
        span = covers.get(key)
        if not isinstance(span, list) or len(span) < 2 or not all(isinstance(v, int | float) for v in span):
            continue
        value, lowest, highest = measures[measure], min(span) / DOMAIN_TOLERANCE[key], max(span) * DOMAIN_TOLERANCE[key]
        if (low and value < lowest) or (high and value > highest):
            reasons.append(f"{measure} {value:.3g}{unit}, trained for {min(span):g} to {max(span):g}{unit}")
    if len(scan.space) != 2:
        reasons.append("three-dimensional k-space, trained for slices")
    known = covers.get("contrasts")
    contrast = contrast_of(str(scan.attributes.get("acquisition", "")))
    if isinstance(known, list) and contrast is not None and contrast not in known:
        reasons.append(f"contrast {contrast}, trained for {', '.join(map(str, known))}")
    return reasons


def contrast_of(text: str) -> str | None:
    """Find the contrast in the name of a protocol; return None if there is none."""
    lowered = text.lower()
    return next((name for name in ("flair", "t2*w", "t1w", "t2w", "pdw") if re.search(CONTRASTS[name], lowered)), None)
