"""Items to learn from: each a function of (seed, epoch, number), whoever makes it and in whatever order."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mrirecon.coils.calibration import find_calibration
from mrirecon.coils.espirit import PRIOR_POWER, CoilMaps, crop_weights, espirit
from mrirecon.data.batch import Batch, require_one_size
from mrirecon.data.draws import KERNEL, draw_mask, split_samples
from mrirecon.data.fields import generator
from mrirecon.data.packing import pack, read_packed, simulator_version, unpack, write_packed
from mrirecon.data.scene import Scene, draw_scene
from mrirecon.data.settings import Data
from mrirecon.data.simulator import one_thread, simulate
from mrirecon.data.sources import MEASURED, Slot
from mrirecon.data.turn import turned
from mrirecon.data.volumes import Volume
from mrirecon.engine import StartImage
from mrirecon.errors import InputError, MriReconError
from mrirecon.io import Scan
from mrirecon.physics.operators import Fourier, combine, root_sum_of_squares
from mrirecon.physics.problem import Problem
from mrirecon.physics.transforms import Prior

_PLANE = (-2, -1)
CALIBRATION, CROP = 24, 0.8  # of ESPIRiT, as `mrirecon reconstruct` estimates maps
Address = tuple[int, int, int]  # epoch, number, slot
About = dict[str, object]


class _Raw(NamedTuple):
    """Items before they are undersampled."""

    kspace: Tensor  # (B, C, y, x)
    clean: Tensor | None  # (B, C, y, x), coil images to learn from; None for those of ``kspace``
    labels: Tensor | None  # (B, 1, y, x)
    acquired: list[np.ndarray | None]  # (y, x), of measured k-space
    about: list[About]
    noise: Tensor | None = None  # (B, C, C), its covariance where it is known


@dataclass(frozen=True)
class Recipe:
    """How items are made.

    Args:
        slots: the slices.
        data: what is drawn.
        seed: of the run.
        batch: items that share a size, so that they can be stacked.
        full: whether the loss compares k-space.
        split: share of the acquired samples that the network does not see and the loss looks at (SSDU); 0 for none.
        maps: whether the method takes coil maps.
        informed: whether maps go on beyond the object; see `mrirecon.reconstruction.run.build_problem`.
        start: makes the image that the method refines; None leaves it to the method.

    """

    slots: Sequence[Slot]
    data: Data
    seed: int
    batch: int = 1
    full: bool = False
    split: float = 0.0
    maps: bool = True
    informed: bool = True
    start: StartImage | None = None

    def item(self, epoch: int, number: int, slot: int, device: torch.device | str = "cpu") -> Batch:
        """Return item ``number`` of an epoch, a batch of one, made from a slot on a device, as it is seen first.

        Raises:
            MriReconError: with the item's name.

        """
        address = [(epoch, number, slot)]
        return self.turned(self.kept(address, device), address, 0)

    def kept(self, addresses: Sequence[Address], device: torch.device | str = "cpu") -> Batch:
        """Return items that share a size: those of the buffer's folder, where there is one, else made anew.

        Where they are made just now, they are read again: they are the same whether they were there before or not.
        """
        path = self.place(addresses)
        if path is None:
            return self.made(addresses, device)
        found = read_packed(path)
        if found is None:
            packed = pack(self.made(addresses, device))
            write_packed(path, packed)
            found = unpack(packed)
        return found.to(device)

    def place(self, addresses: Sequence[Address]) -> Path | None:
        """Return the file that items are kept in; None where the buffer has no folder.

        Raises:
            UsageError: the folder's name holds a variable that is not set.

        """
        folder = self.data.buffer.folder()
        if folder is None:
            return None
        told = " ".join(f"{epoch} {number} {self.slots[slot].fingerprint}" for epoch, number, slot in addresses)
        name = hashlib.sha256(told.encode()).hexdigest()[:16]
        return folder / self._kind / f"{addresses[0][0]}-{addresses[0][1]}-{name}.pt"

    @cached_property
    def _kind(self) -> str:
        """A name for all that decides over items, but for their slices: what is drawn, and the code that draws."""
        start = self.start
        if isinstance(start, partial):
            begun = f"{start.func.__qualname__} {sorted(start.keywords.items())}"
        else:
            begun = "" if start is None else start.__qualname__
        data = self.data.model_dump(mode="json", include={"axes", "maps", "target", "crop", "simulation", "masks"})
        del data["simulation"]["cavities"]  # drawn when it is read
        told = [data, self.seed, self.batch, self.full, self.split, self.maps, self.informed, begun]
        told.append(simulator_version())
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]

    def turned(self, made: Batch, addresses: Sequence[Address], use: int) -> Batch:
        """Return a batch that was made before as it is seen when it is drawn for the ``use``-th time."""
        cavities = self.data.simulation.cavities
        simulated = self.maps and all(self.slots[slot].simulated for _, _, slot in addresses)
        keys = [(self.seed, epoch, number) for epoch, number, _ in addresses]
        with one_thread():
            return turned(made, keys, use, (cavities[0], cavities[1]) if simulated else (0, 0))

    def made(self, addresses: Sequence[Address], device: torch.device | str = "cpu") -> Batch:
        """Make items that share a size, and stack them.

        Args:
            addresses: (epoch, number, slot) of each.
            device: where they are computed, and where they are then.

        Raises:
            MriReconError: with the name of the item that cannot be made.

        """
        try:
            with one_thread():
                return self._made(addresses, torch.device(device))
        except MriReconError as error:
            if len(addresses) > 1:
                for one in addresses:  # whose fault it is
                    self.made([one], device)
                raise
            epoch, number, slot = addresses[0]
            named = f"{self.slots[slot].name} (epoch {epoch}, item {number})"
            error.where = named + (f": {error.where}" if error.where else "")
            raise

    def _made(self, addresses: Sequence[Address], device: torch.device) -> Batch:
        owns = [generator(self.seed, epoch, number, 1) for epoch, number, _ in addresses]
        slots = [self.slots[slot] for _, _, slot in addresses]
        # What decides over sizes is drawn for the batch.
        shared = [generator(self.seed, epoch, number // self.batch, 0) for epoch, number, _ in addresses]
        simulated = all(s.simulated for s in slots)
        raw = self._simulated(slots, owns, shared, device) if simulated else self._measured(slots, shared, device)
        space = (int(raw.kspace.shape[-2]), int(raw.kspace.shape[-1]))
        masks, prospective = [], []
        for own, acquired, about in zip(owns, raw.acquired, raw.about, strict=True):
            prospective.append(acquired is not None and float(acquired.mean()) < MEASURED)
            if acquired is not None and prospective[-1]:
                masks.append(acquired)
                continue
            mask, told = draw_mask(self.data.masks, space, own, self.maps and self.data.maps == "espirit")
            about |= told
            masks.append(mask if acquired is None else mask & acquired)
        y = raw.kspace * _stacked(masks, device)
        maps, prior = self._maps(y, masks, slots)
        image = Fourier(_PLANE).adjoint(raw.kspace) if raw.clean is None else raw.clean
        target = None
        if not any(prospective):
            target = self._target(image, raw.kspace, maps, noisy=raw.clean is None or self.data.target == "measured")
        full = held = None
        sampled = _stacked(masks, device)
        if self.split:
            parts = [split_samples(mask, self.split, own) for mask, own in zip(masks, owns, strict=True)]
            sampled, held = (_stacked([p[i] for p in parts], device) for i in (0, 1))
            y, full = y * sampled, y
        elif self.full:
            held = _stacked([m if p else np.ones_like(m) for m, p in zip(masks, prospective, strict=True)], device)
            full = torch.where(_column(prospective, y), y, Fourier(_PLANE)(image))
        problem = Problem(y, sampled.to(y.real.dtype), maps, noise=raw.noise)
        if self.start is not None:
            with torch.no_grad():
                problem = replace(problem, initial_image=_started(self.start, problem, prior))
        return Batch(
            problem,
            target,
            full,
            None if held is None else held.to(y.real.dtype),
            raw.labels,
            [f"{s.name}, epoch {epoch}, item {n}" for s, (epoch, n, _) in zip(slots, addresses, strict=True)],
            raw.about,
        )

    def _target(self, image: Tensor, kspace: Tensor, maps: Tensor, *, noisy: bool) -> Tensor:
        """Return what coil images (B, C, y, x) show (B, 1, y, x): their root sum of squares, with the maps' phase.

        Maps of a small calibration region combine what they hardly resolve, such as the scalp, too darkly, and a
        network would learn to dim it. Noise, which no square forgives, is combined by maps of all of k-space, as in the
        reference that reconstructions are compared with.
        """
        if not self.maps:
            return root_sum_of_squares(image, 1, keepdim=True)
        shown = combine(maps, image)
        if not noisy:
            return root_sum_of_squares(image, 1, keepdim=True) * torch.sgn(shown)
        if self.data.maps != "espirit" or image.shape[1] == 1:
            return shown
        everything = np.ones(tuple(kspace.shape[2:]), dtype=bool)
        return combine(_cropped(_espirit(kspace, [everything] * len(kspace))), image)

    def _simulated(
        self,
        slots: Sequence[Slot],
        owns: Sequence[np.random.Generator],
        shared: Sequence[np.random.Generator],
        device: torch.device,
    ) -> _Raw:
        made = simulate([self.scene(*one) for one in zip(slots, owns, shared, strict=True)], device)
        measured = self.data.target == "measured"
        clean = Fourier(_PLANE).adjoint(made.kspace) if measured else made.clean
        coils = made.kspace.shape[1]
        about: list[About] = [
            {"coils": coils, "snr": round(snr, 1), "lesions": len(lesions)}
            for snr, lesions in zip(made.snr, made.lesions, strict=True)
        ]
        return _Raw(made.kspace, clean, made.labels, [None] * len(slots), about, made.covariance)

    def scene(self, slot: Slot, own: np.random.Generator, shared: np.random.Generator) -> Scene:
        """Draw the scene of a slice: what decides over sizes from ``shared``, all else from ``own``."""
        assert isinstance(slot.source, Volume), "only volumes are simulated from"
        low, high = self.data.simulation.coils
        coils = max(1, round(math.exp(shared.uniform(math.log(low - 0.49), math.log(high + 0.49)))))
        return draw_scene(slot.source, slot.index, self.data.simulation, own, coils=coils, window=self._window(shared))

    def _measured(self, slots: Sequence[Slot], shared: Sequence[np.random.Generator], device: torch.device) -> _Raw:
        found: list[Tensor] = []
        masks: list[np.ndarray | None] = []
        about: list[About] = []
        for slot, rng in zip(slots, shared, strict=True):
            assert isinstance(slot.source, Scan), "simulated and measured slices are never in one batch"
            kspace, mask = torch.from_numpy(slot.source.kspace(slot.index)), slot.source.mask(slot.index)
            window = self._window(rng)
            if window is not None and mask.mean() >= MEASURED:
                size = [min(a, b) for a, b in zip(window, mask.shape, strict=True)]
                starts = [n // 2 - m // 2 for n, m in zip(mask.shape, size, strict=True)]
                cut = tuple(slice(a, a + m) for a, m in zip(starts, size, strict=True))
                kspace = Fourier(_PLANE)(Fourier(_PLANE).adjoint(kspace)[..., cut[0], cut[1]].contiguous())
                mask = np.ones(size, dtype=bool)
            found.append(kspace)
            masks.append(mask)
            about.append({"coils": slot.source.coils})
        require_one_size([tuple(k.shape) for k in found])
        return _Raw(torch.stack(found).to(device), None, None, masks, about)

    def _window(self, shared: np.random.Generator) -> tuple[int, int] | None:
        crop = self.data.crop
        if crop is None:
            return None
        low, high = math.ceil(crop[0] / 8), crop[1] // 8
        if high < low:
            return crop[0], crop[0]
        sides = shared.integers(low, high + 1, 2) * 8
        return int(sides[0]), int(sides[1])

    def _maps(self, y: Tensor, masks: Sequence[np.ndarray], slots: Sequence[Slot]) -> tuple[Tensor, Tensor | None]:
        """Return what inference will have: maps (B, 1, C, y, x) of each item's own calibration region, or of the file.

        And the prior (B, 1, y, x) that comes with the first.
        """
        batch, coils, *space = y.shape
        from_file = self.data.maps == "file" and isinstance(slots[0].source, Scan)
        if not self.maps or self.data.maps == "none" or (coils == 1 and not from_file):
            return torch.full((batch, 1, coils, *space), coils**-0.5, dtype=y.dtype, device=y.device), None
        if self.data.maps == "file":
            stored = torch.stack([_stored_maps(slot, tuple(space)) for slot in slots]).to(y.device)
            return stored / root_sum_of_squares(stored, 2).flatten(1).amax(1).reshape(-1, 1, 1, 1, 1), None
        found = _espirit(y, masks)
        if self.informed:
            return found.maps, found.values**PRIOR_POWER
        return _cropped(found), None


def _stored_maps(slot: Slot, space: tuple[int, ...]) -> Tensor:
    """Return the coil maps (1, C, y, x) of a file.

    Raises:
        InputError: it holds none, or others.

    """
    stored = slot.source.maps(slot.index) if isinstance(slot.source, Scan) else None
    if stored is None or stored.shape[0] != 1 or stored.shape[2:] != space:
        raise InputError(
            "the file holds no coil maps that fit" if stored is None else "the maps do not fit what is cut out",
            where=slot.name,
            fix="use data.maps: espirit",
        )
    return torch.from_numpy(np.ascontiguousarray(stored))


def _stacked(masks: Sequence[np.ndarray], device: torch.device) -> Tensor:
    return torch.from_numpy(np.stack(masks))[:, None].to(device)


def _column(values: Sequence[bool], like: Tensor) -> Tensor:
    return torch.tensor(list(values), device=like.device).reshape(-1, *[1] * (like.ndim - 1))


def _started(start: StartImage, p: Problem, prior: Tensor | None) -> Tensor:
    """Return initial images (B, 1, y, x); on a CPU in groups, because lines need Fourier transforms along one axis."""
    if p.y.device.type != "cpu":
        return start(p.prepared(), None if prior is None else Prior(prior))
    groups: dict[tuple[bool, ...], list[int]] = {}
    for item, mask in enumerate(p.mask):
        varying = tuple(bool((mask != mask.narrow(axis, 0, 1)).any()) for axis in _PLANE)
        groups.setdefault(varying, []).append(item)
    out = torch.empty_like(p.maps[:, :, 0])
    for members in groups.values():
        noise, weight = (None if v is None else v[members] for v in (p.noise, prior))
        part = Problem(p.y[members], p.mask[members], p.maps[members], noise=noise)
        out[members] = start(part.prepared(), None if weight is None else Prior(weight))
    return out


def _espirit(y: Tensor, masks: Sequence[np.ndarray]) -> CoilMaps:
    """Return maps of the calibration regions of items (B, C, y, x), uncropped; those of one size together."""
    boxes = [find_calibration(mask, CALIBRATION) for mask in masks]
    groups: dict[tuple[int, ...], list[int]] = {}
    for item, box in enumerate(boxes):
        groups.setdefault(tuple(s.stop - s.start for s in box), []).append(item)
    parts: list[tuple[Tensor, Tensor, Tensor]] = [None] * len(masks)  # type: ignore[list-item]  # filled below
    for members in groups.values():
        regions = torch.stack([y[i][(slice(None), *boxes[i])] for i in members])
        found = espirit(regions, (y.shape[-2], y.shape[-1]), kernel=KERNEL, crop=0)
        for place, item in enumerate(members):
            parts[item] = (found.maps[place], found.values[place], found.spectrum[place])
    maps, values, spectrum = (torch.stack(list(part)) for part in zip(*parts, strict=True))
    return CoilMaps(maps, values, spectrum)


def _cropped(found: CoilMaps) -> Tensor:
    """Return maps (B, 1, C, y, x) that end where the object does."""
    return found.maps * crop_weights(found.values, CROP).unsqueeze(2)
