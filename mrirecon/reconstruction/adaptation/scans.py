"""Adapt models to scans: choose slices, split their samples, train, and describe the result."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from mrirecon import __version__
from mrirecon.coils.trivial import unit
from mrirecon.engine import Reconstructor
from mrirecon.errors import BusyError, InputError, UsageError
from mrirecon.io.safe.scratch import scratch_folders
from mrirecon.io.scan import Scan
from mrirecon.models.checkpoints import TrainedModel, shipped_models
from mrirecon.physics.conventions import is_multiple
from mrirecon.reconstruction.adaptation.fit import Case, Fit, Progress, fit
from mrirecon.reconstruction.adaptation.settings import Adaptation
from mrirecon.reconstruction.adaptation.split import split_measured
from mrirecon.reconstruction.calibrate import ItemMaps, build_problem, item_maps, item_noise
from mrirecon.reconstruction.choose import PREFERRED, choose
from mrirecon.reconstruction.plan import Plan, PlanGroup, Request
from mrirecon.reconstruction.slices import read_slices


@dataclass(frozen=True)
class Adapted:
    """Hold an adapted model and its description.

    Attributes:
        model: the model with the selected weights, and a card.
        fit: how the weights were selected.
        notes: notes for the user.

    """

    model: TrainedModel
    fit: Fit
    notes: tuple[str, ...]


def adapt(
    scans: Sequence[Scan],
    request: Request,
    settings: Adaptation | None = None,
    *,
    begun: float | None = None,
    progress: Progress | None = None,
) -> Adapted:
    """Adapt a model to the slices with the most signal of each scan.

    Args:
        scans: results of `mrirecon.io.read` or `mrirecon.reconstruction.preprocess.prepare`.
        request: see `adapt_files`.
        settings: steps, time, slices and seed.
        begun: start of the time limit, from `time.monotonic`; by default now.
        progress: function of (steps done, steps, current work).

    Raises:
        UsageError, InputError: see `adapt_files`.

    """
    begun, settings = time.monotonic() if begun is None else begun, settings or Adaptation()
    cases: list[Case] = []
    files: list[dict[str, object]] = []
    notes: list[str] = []
    for scan in scans:
        plan = choose(scan, request)
        group = plan.groups[0]
        chosen = _cases(scan, plan, group, settings, first=len(cases))
        cases += chosen
        notes += [*scan.notes, *plan.notes, *plan.outside]
        trained, places = _weights_of(group), [_place(case, scan) for case in chosen]
        files.append({"file": scan.path.name, "sha256": scan.sha256(), "slices": places})
    result = fit(_prepared(trained, plan), cases, settings, begun=begun, progress=progress)
    card = _card(trained, result, settings, files, plan)
    return Adapted(replace(trained, model=result.model, card=card), result, tuple(dict.fromkeys(notes)))


def adapt_plan(
    scan: Scan,
    plan: Plan,
    settings: Adaptation,
    *,
    scratch: Sequence[Path] | None = None,
    progress: Progress | None = None,
) -> tuple[Plan, dict[str, object]]:
    """Return the plan with its model adapted to the scan, and a description as plain data.

    If the scan cannot be adapted to, for example because it has too few samples, the plan is unchanged, except for a
    note.

    Raises:
        UsageError: the plan has no model, or a model without phase.
        InputError: samples on a trajectory.

    """
    scan.require_grid("adaptation of a model")
    begun = time.monotonic()
    groups, notes, described = list(plan.groups), list(plan.notes), dict[str, object]()
    if not any(group.model for group in groups):
        raise _no_weights(plan.groups[0])
    for number, group in enumerate(groups):
        if group.model is None:
            continue
        try:
            cases = _cases(scan, plan, group, settings, scratch=scratch)
        except BusyError:
            raise
        except InputError as error:
            notes.append(f"{group.entry.name} was not adapted to {error.where}: {error.what}")
            continue
        result = fit(_prepared(group.model, plan), cases, settings, begun=begun, progress=progress)
        groups[number] = replace(group, model=replace(group.model, model=result.model))
        described = _summary(result, settings, plan) | {"slices": [_place(case, scan) for case in cases]}
        notes.append(sentence(group.entry.name, described))
    return replace(plan, groups=tuple(groups), notes=tuple(notes)), described


def sentence(method: str, described: dict[str, object]) -> str:
    """Return the outcome of an adaptation, from its description in the card, as a sentence."""
    before, after = described["validation error before"], described["validation error after"]
    spent = f"{described['steps taken']} steps in {described['seconds']} s"
    if described["weights"] == "adapted":
        return f"{method} was adapted in {spent}: the error of held-out samples fell from {before} to {after}"
    return f"{method} keeps its weights: none of {spent} lowered the error of held-out samples, {before}"


def _prepared(trained: TrainedModel, plan: Plan) -> Reconstructor:
    model = trained.model.to(plan.device)
    model.precision = plan.precision
    return model


def _weights_of(group: PlanGroup) -> TrainedModel:
    if group.model is None:
        raise _no_weights(group)
    return group.model


def _no_weights(group: PlanGroup) -> UsageError:
    return UsageError(
        f"method {group.entry.name!r} has no weights to adapt",
        why=group.reason,
        fix=f"choose a method with weights, such as --method {PREFERRED}, or give --model DIR",
    )


def _cases(
    scan: Scan,
    plan: Plan,
    group: PlanGroup,
    settings: Adaptation,
    *,
    first: int = 0,
    scratch: Sequence[Path] | None = None,
) -> list[Case]:
    """Return the slices with the most signal of a scan as problems with split samples.

    Args:
        scan: the scan.
        plan: how it is reconstructed; of volumes that are solved slice by slice, the slices of one are used.
        group: items with the model.
        settings: number of slices, splits and seed.
        first: number of the first slice among those of all scans.
        scratch: folders for temporary files.

    """
    trained = _weights_of(group)
    if trained.model.engine.blocks[-1].magnitude:
        raise UsageError(
            f"{group.entry.name} with these options cannot be adapted",
            why="its image is a magnitude, and cannot predict samples of k-space",
            fix="use a model whose coils are combined with maps",
        )
    scale, fourier = trained.model.scale, trained.model.fourier
    if not is_multiple(scale, fourier):
        raise UsageError(
            f"{group.entry.name} with scale={scale}, fourier={fourier} cannot be adapted",
            why="its images are not a multiple of the scan's, so that the loss cannot compare samples of k-space",
            fix="use a model of mrirecon, or the model as it is",
        )
    part, items = scan, group.items
    if plan.slicing is not None:
        volume = group.items[0]
        stored = plan.first_volume
        part = (
            stored
            if stored is not None and stored.volume == volume
            else read_slices(scan, volume, plan.slicing, scratch_folders(None) if scratch is None else scratch)
        )
        items = tuple(range(len(part)))
    return [
        _case(part, item, plan, group, settings, first + number)
        for number, item in enumerate(_brightest(part, items, settings.slices))
    ]


def _brightest(part: Scan, items: Sequence[int], count: int) -> list[int]:
    """Return the items with the most signal, in order.

    Raises:
        InputError: no item can be read; the error of the first.

    """
    energies: dict[int, float] = {}
    failed: InputError | None = None
    for item in items:
        if part.is_blank(item):
            continue
        try:
            energies[item] = float(np.linalg.norm(part.samples(item)[0]))
        except BusyError:
            raise
        except InputError as error:
            failed = failed or error
    if not energies:
        raise failed or InputError("no signal to adapt to", where=part.where(items[0]))
    return sorted(sorted(energies, key=lambda item: -energies[item])[:count])


def _case(part: Scan, item: int, plan: Plan, group: PlanGroup, settings: Adaptation, number: int) -> Case:
    """Return one slice as a problem with split samples."""
    kspace, mask = part.samples(item)
    parts = split_measured(mask, settings, location=part.where(item), number=number)
    if group.calibration is None:
        maps = ItemMaps(unit(len(kspace), mask.shape), "a network's")
    else:
        maps = item_maps(part, item, kspace, mask, source=group.calibration, options=group.espirit)
    noise = item_noise(part, item, kspace, mask, maps.noise).covariance
    built = build_problem(kspace, mask, maps, group.entry.use, device=plan.device, noise=noise)
    return Case(built.problem, built.prior, parts, part.where(item))


def _place(case: Case, scan: Scan) -> str:
    """Return the location of a slice in its file, without the folder of the file."""
    return case.location.replace(str(scan.path), scan.path.name)


def _summary(result: Fit, settings: Adaptation, plan: Plan) -> dict[str, object]:
    """Return the outcome of an adaptation as plain data."""
    return {
        "weights": "adapted" if result.adapted else "unchanged: no step lowered the validation error",
        "steps": result.step,
        "steps taken": result.taken,
        "ended": result.reason,
        "validation error before": float(f"{result.before:.4g}"),
        "validation error after": float(f"{result.after:.4g}"),
        "validation errors by step": {str(step): float(f"{e:.4g}") for step, e in result.errors.items()},
        "settings": asdict(settings),
        "precision": plan.precision,
        "device": str(plan.device),
        "seconds": round(result.seconds, 1),
    }


def _card(
    trained: TrainedModel, result: Fit, settings: Adaptation, files: list[dict[str, object]], plan: Plan
) -> dict[str, object]:
    """Return the card of an adapted model."""
    shipped = trained.folder in shipped_models().values()
    return {
        "adapted from": {
            "model": f"the {trained.method} shipped with mrirecon" if shipped else trained.folder.name,
            "sha256": trained.sha256,
        },
        "adapted to": files,
        "adaptation": _summary(result, settings, plan),
        "method": "zero-shot self-supervised learning (Yaman et al., ICLR 2022), from undersampled data alone",
        **{key: trained.card[key] for key in ("covers", "licence") if key in trained.card},
        "versions": {"mrirecon": __version__, "torch": torch.__version__},
        "card of the model before": trained.card,
    }
