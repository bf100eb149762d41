"""Choose how a scan is reconstructed: `choose(scan, request)` decides once, and returns the `Plan`.

Items that are sampled alike are reconstructed alike. A learned method is chosen where the card of its model covers the
scan: acceleration, calibration region, size, coils, SNR, contrast.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch

from mrirecon.coils.calibration import find_calibration
from mrirecon.coils.noise import noise_deviation
from mrirecon.errors import BusyError, InputError, ModelMismatchError, UsageError
from mrirecon.io import Scan
from mrirecon.io.safe.scratch import scratch_folders
from mrirecon.io.sampling import alike, in_words
from mrirecon.methods.registry import find, methods, resolve
from mrirecon.metrics import object_mask
from mrirecon.models.checkpoints import Trained, describe_model, shipped
from mrirecon.models.hardware import pick_device, pick_precision
from mrirecon.physics.operators import Fourier, root_sum_of_squares
from mrirecon.reconstruction.calibrate import EspiritOptions, Source
from mrirecon.reconstruction.plan import Plan, PlanGroup, Request, has_weight
from mrirecon.reconstruction.preprocess.prepare import note_loud
from mrirecon.reconstruction.slices import Slices, Slicing, find_slicing, open_slices

# Achieved rates and sizes scatter around what was asked for in training; measured SNR is an estimate.
SLACK = {"acceleration": 1.15, "calibration": 1.0, "size": 1.7, "coils": 1.3, "snr": 1.5}
PREFERRED = "cirim"  # the learned method that is chosen where its card covers the data
CONTRASTS = {"t1w": r"t1", "t2w": r"t2|tse|haste", "flair": r"flair|tirm", "pdw": r"pd", "t2*w": r"swi|t2s|flash"}

Found = TypeVar("Found")


def choose(scan: Scan, request: Request | None = None, scratch: Sequence[Path] | None = None) -> Plan:
    """Decide how a scan is reconstructed.

    Args:
        scan: from `mrirecon.io.read`, or `mrirecon.reconstruction.preprocess.prepare`.
        request: what is asked; by default everything is automatic.
        scratch: folders for temporary files, in order of preference: the first of volumes that are solved slice by
            slice is read here.

    Raises:
        UsageError: a method, option or device that does not exist; a learned method without a model.
        ModelMismatchError: with ``strict_model``, data that the model was not trained for.
        InputError: no item can be read; what is wrong with the first.
        ResourceError: no room for a temporary file.

    """
    request = request or Request()
    options = request.options or {}
    device = pick_device(request.device)
    automatic = request.model is None and request.method == "auto"
    model = None if request.model is None else request.load(request.model)
    if model is None and not automatic:
        resolve(request.method, options)  # before a long pass over the file
    slicing, notes = find_slicing(scan, options)
    first, representative = None, (scan, 0)
    if slicing is not None:
        first, representative = _first_volume(scan, slicing, scratch)
        if first is None:
            notes.append(f"the mask is constant along {slicing.readout}, but not every coil's data: solved as a volume")
            slicing = None
    notes += note_loud(*representative)
    outside: list[str] = []
    if automatic:
        groups = _groups_by_method(scan, slicing, first, request.maps)
    else:
        if model is None and request.method in shipped() and not options:
            model = request.load(shipped()[request.method])
        method, reason = request.method, "as asked"
        if request.model is not None and model is not None:
            method, reason = model.method, f"model {request.model}"
        groups = [PlanGroup(tuple(range(len(scan))), method, reason)]
        if model is not None:
            outside = _outside(model, scan, slicing, first, strict=request.strict_model)
    groups = _with_settings(groups, request, model, ndim=len(representative[0].space))
    precision, precision_note = pick_precision(request.precision, device)
    if not any(group.model for group in groups):
        precision = "float32"
        precision_note = f"{groups[0].method} has no network to compute in bfloat16: all of it is computed in float32"
    asked = request.precision == "bfloat16" or (request.precision == "auto" and any(g.model for g in groups))
    return Plan(
        tuple(groups),
        request.maps,
        request.espirit or EspiritOptions(),
        slicing,
        device,
        precision,
        tuple(notes),
        precision_note if asked else None,
        tuple(outside),
        first,
    )


def choose_method(scan: Scan, item: int = 0, maps: Source = "auto") -> tuple[str, str]:
    """Return the method that suits what the scan holds, and why, in words."""
    kspace, mask = scan.samples(item)
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
        card = describe_model(shipped()[PREFERRED])["card"]
        assert isinstance(card, dict), "describe_model checks it"
        reasons = _reasons(card, scan, kspace, mask)
        if reasons:
            return "cs", f"{why}; not {PREFERRED}: {reasons[0]}"
        return PREFERRED, f"{why}, as it was trained for"
    return "rss", (
        f"{rate:.1f}-fold undersampled, and its calibration region of {'×'.join(map(str, box))} is too small for coil "
        f"maps ({kernel} samples along each axis): aliasing remains. Give maps with --maps FILE to remove it"
    )


def _first_volume(
    scan: Scan, slicing: Slicing, scratch: Sequence[Path] | None
) -> tuple[Slices | None, tuple[Scan, int]]:
    """Read the first volume that can be read, and return it as slices with the slice in its middle.

    Not every coil's data may be as complete along the readout as the first one's: then there are no slices, and the
    volume stands for all.
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
    assert failed is not None, "slices are of some volume"
    raise failed


def _groups_by_method(scan: Scan, slicing: Slicing | None, first: Slices | None, maps: Source) -> list[PlanGroup]:
    """Return the items of a scan by the method that suits them, the most frequent method first.

    Items that are sampled alike are decided by the one in their middle, or by another where it cannot be read. Items
    without signal are in no group.

    Raises:
        InputError: no item can be read; what is wrong with the first.

    """
    failures: list[InputError] = []
    groups = [
        PlanGroup(items, *chosen)
        for items, _, chosen in _of_alike_items(
            scan, slicing, first, lambda part, item: choose_method(part, item, maps), failures
        )
    ]
    if not groups:
        if not failures:
            scan.mask(scan.example())  # which says that there is no signal
        raise failures[0]
    count = Counter(method for group in groups for method in [group.method] * len(group.items))
    return sorted(groups, key=lambda group: (group.method == "zero-filled", -count[group.method]))


def _of_alike_items(
    scan: Scan,
    slicing: Slicing | None,
    first: Slices | None,
    look: Callable[[Scan, int], Found],
    failures: list[InputError] | None = None,
) -> Iterator[tuple[tuple[int, ...], str, Found]]:
    """Yield items that are sampled alike, with the item that stands for them, in words, and what a look at it shows.

    Args:
        scan: the scan.
        slicing: how its volumes are solved slice by slice; the slice in the middle of one then stands for it.
        first: the volume that was read already.
        look: called with (scan, item); the next item is tried where it raises `InputError`.
        failures: what it raised is added here.

    """

    def candidate(item: int) -> tuple[Scan, int]:
        if slicing is None:
            return scan, item
        read = first is not None and first.volume == item
        part = first if read and first else open_slices(scan, item, slicing)
        return part, len(part) // 2

    if len(scan) == 1:
        groups: list[tuple[tuple[int, ...], Sequence[int]]] = [((0,), [0])]
    else:
        groups = [(group.items, group.candidates) for group in alike(scan)]
    for items, candidates in groups:
        for item in candidates:
            try:
                part, place = candidate(item)
                yield items, part.where(place), look(part, place)
            except BusyError:
                raise
            except InputError as error:
                if failures is not None:
                    failures.append(error)
                continue
            break


def _outside(model: Trained, scan: Scan, slicing: Slicing | None, first: Slices | None, *, strict: bool) -> list[str]:
    """Return notes on what of a scan a model was not trained for, one for all items that are sampled alike.

    Raises:
        ModelMismatchError: with ``strict``, there is something.

    """
    notes = []
    for items, where, reasons in _of_alike_items(
        scan, slicing, first, lambda part, item: out_of_domain_reasons(model.card, part, item)
    ):
        if reasons and strict:
            raise ModelMismatchError(
                "the model was not trained for such data",
                where=where,
                why="; ".join(reasons),
                fix="use --method cs, a model that was, or leave --strict-model out",
            )
        of = f" ({in_words(items)})" if len(items) < len(scan) else ""
        notes += [f"outside what the model was trained for{of}: {'; '.join(reasons)}"] if reasons else []
    return notes


def _with_settings(groups: Sequence[PlanGroup], request: Request, model: Trained | None, ndim: int) -> list[PlanGroup]:
    """Return the groups with the models and settings of their methods.

    Options and weight are meant for the method of the first group. Those of the others take them where they have such
    options, and else their own.

    Raises:
        UsageError: options or a weight for a method that has none; a learned method without a model.

    """
    done: dict[str, PlanGroup] = {}
    for group in groups:
        method = group.method
        if method in done:
            continue
        options, lam = request.options or {}, request.lam
        trained = model if model is not None and model.method == method else None
        if trained is None and method in shipped():
            trained = request.load(shipped()[method])
        if done:
            known = find(method).schema.model_fields
            options = options if trained is None and set(options) <= set(known) else {}
            lam = lam if trained is None and "lam" in known else None
        if trained is not None and options:
            raise UsageError(f"{method} comes trained, with its own options", fix="leave --set out, or train your own")
        if trained is not None and lam is not None:
            raise UsageError("a trained model has no regularization weight to set", fix="leave --lambda out")
        if trained is None and find(method).learned:
            fix = "give a trained model with --model DIR"
            raise UsageError(f"method {method!r} is learned: it needs weights", fix=fix)
        settings = _settings(method, options, lam, request.seed, ndim)
        done[method] = replace(group, model=trained, settings=settings, weighted=has_weight(method))
    return [replace(done[group.method], items=group.items, reason=group.reason) for group in groups]


def _settings(
    method: str, options: Mapping[str, object], lam: float | Literal["auto"] | None, seed: int, ndim: int
) -> dict[str, object]:
    """Return the method's options with what follows from the scan filled in."""
    schema = find(method).schema.model_fields
    settings = dict(options)
    if "ndim" in schema:
        settings.setdefault("ndim", ndim)
    if "seed" in schema:
        settings.setdefault("seed", seed)
    if lam is not None:
        if not has_weight(method):
            having = sorted(name for name in methods() if has_weight(name))
            raise UsageError(
                f"method {method!r} has no regularization weight", fix=f"leave --lambda out, or use {', '.join(having)}"
            )
        if lam != "auto":
            settings["lam"] = lam
    if has_weight(method) and not find(method).weighted:  # its weight does not follow the noise
        settings.setdefault("lam", schema["lam"].default)
    return settings


def scan_facts(scan: Scan, item: int = 0) -> dict[str, float]:
    """Return what a model's card is compared with: acceleration, calibration, smallest and largest side, coils, SNR.

    The SNR is that of the zero-filled image inside the object, over the noise of an average coil.
    """
    return _facts(*scan.samples(item))


def _facts(kspace: np.ndarray, mask: np.ndarray) -> dict[str, float]:
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
        "coils": float(len(kspace)),
        "snr": signal / noise if noise else float("inf"),
    }


def out_of_domain_reasons(card: Mapping[str, object], scan: Scan, item: int = 0) -> list[str]:
    """Return in words what of a scan a model's card does not cover; empty where it covers all.

    A card that does not say what it covers is a reason, too.
    """
    return _reasons(card, scan, *scan.samples(item))


def _reasons(card: Mapping[str, object], scan: Scan, kspace: np.ndarray, mask: np.ndarray) -> list[str]:
    covers = card.get("covers")
    if not isinstance(covers, Mapping):
        return ["its card does not say what it was trained for"]
    facts, reasons = _facts(kspace, mask), []
    for key, fact, unit, low, high in (
        ("acceleration", "acceleration", "-fold", False, True),
        ("calibration", "calibration", " samples", True, False),
        ("size", "smallest side", "", True, False),
        ("size", "largest side", "", False, True),
        ("coils", "coils", "", True, True),
        ("snr", "snr", "", True, False),  # less noise than it was trained with is no harm
    ):
        span = covers.get(key)
        if not isinstance(span, list) or len(span) < 2 or not all(isinstance(v, int | float) for v in span):
            continue
        value, lowest, highest = facts[fact], min(span) / SLACK[key], max(span) * SLACK[key]
        if (low and value < lowest) or (high and value > highest):
            reasons.append(f"{fact} {value:.3g}{unit}, trained for {min(span):g} to {max(span):g}{unit}")
    if len(scan.space) != 2:
        reasons.append("three-dimensional k-space, trained for slices")
    known = covers.get("contrasts")
    contrast = contrast_of(str(scan.attributes.get("acquisition", "")))
    if isinstance(known, list) and contrast is not None and contrast not in known:
        reasons.append(f"contrast {contrast}, trained for {', '.join(map(str, known))}")
    return reasons


def contrast_of(text: str) -> str | None:
    """Return the contrast that a protocol's name speaks of, or None where it does not."""
    lowered = text.lower()
    return next((name for name in ("flair", "t2*w", "t1w", "t2w", "pdw") if re.search(CONTRASTS[name], lowered)), None)
