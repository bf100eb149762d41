"""Items to learn from: each a function of (seed, epoch, number), whoever makes it and in whatever order."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mrirecon.coils.calibration import find_calibration
from mrirecon.coils.espirit import PRIOR_POWER, CoilMaps, crop_weights, espirit
from mrirecon.data.acquire import acquire, one_thread
from mrirecon.data.bank import folder_of, kept
from mrirecon.data.batch import Batch
from mrirecon.data.draws import KERNEL, cavity_phase, draw_mask, split_samples
from mrirecon.data.settings import Data
from mrirecon.data.sources import MEASURED, Slot
from mrirecon.data.volumes import Volume
from mrirecon.errors import InputError, MriReconError
from mrirecon.io import Scan
from mrirecon.operators import Fourier, combine, root_sum_of_squares
from mrirecon.problem import Problem

_PLANE = (-2, -1)
CALIBRATION, CROP = 24, 0.8  # of ESPIRiT, as `mrirecon reconstruct` estimates maps


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
        informed: whether maps go on beyond the object, with a prior; see `mrirecon.inference.pose`.
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
    start: Callable[[Problem], Tensor] | None = None

    def item(self, epoch: int, number: int, slot: int) -> Batch:
        """Return item ``number`` of an epoch, a batch of one, made from a slot.

        Raises:
            MriReconError: with the item's name.

        """
        chosen = self.slots[slot]
        try:
            with one_thread():
                if self.data.bank is None:
                    return self._turned(self._item(epoch, number, chosen), epoch, number, chosen)
                made = kept(self.place(epoch, number, slot), lambda: self._item(epoch, number, chosen))
                return self._turned(made, epoch, number, chosen)
        except MriReconError as error:
            error.where = f"{chosen.name} (epoch {epoch}, item {number})" + (f": {error.where}" if error.where else "")
            raise

    def place(self, epoch: int, number: int, slot: int) -> Path:
        """Return where an item is kept.

        Raises:
            UsageError: the folder's name holds a variable that is not set.

        """
        assert self.data.bank is not None, "there is a bank"
        return folder_of(self.data.bank) / self._kind() / f"{epoch}-{number}-{self.slots[slot].fingerprint}.npz"

    def made(self, epoch: int, number: int, slot: int) -> Batch:
        """Make an item anew, as it is to be kept."""
        with one_thread():
            return self._item(epoch, number, self.slots[slot])

    def _turned(self, made: Batch, epoch: int, number: int, slot: Slot) -> Batch:
        """Move a phase from the maps into the object, which leaves the samples as they are."""
        counts = self.data.simulation.cavities
        if not (self.maps and slot.simulated and counts[1]):
            return made
        own = _generator(self.seed, epoch, number, 3)
        p = made.problem
        phase = cavity_phase((p.y.shape[-2], p.y.shape[-1]), int(own.integers(counts[0], counts[1] + 1)), own)
        turn = torch.polar(torch.ones(phase.shape), torch.from_numpy(phase).float())[None, None]
        target = made.target
        return replace(
            made,
            problem=replace(
                p, maps=p.maps * turn.conj().unsqueeze(2), start=None if p.start is None else p.start * turn
            ),
            target=target * turn if target is not None and target.is_complex() else target,
        )

    def _kind(self) -> str:
        """Return a name for all that decides over items, but for their slices."""
        start = None if self.start is None else f"{self.start.__module__}.{self.start.__qualname__}"
        data = self.data.model_dump(mode="json", include={"axes", "maps", "target", "crop", "simulation", "masks"})
        del data["simulation"]["cavities"]  # drawn when it is read
        told = [data, self.seed, self.batch, self.full, self.split, self.maps, self.informed, start]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]

    def _item(self, epoch: int, number: int, slot: Slot) -> Batch:
        own = _generator(self.seed, epoch, number, 1)
        # What decides over sizes is drawn for the batch.
        shared = _generator(self.seed, epoch, number // self.batch, 0)
        clean: Tensor | None = None
        labels: Tensor | None = None
        if isinstance(slot.source, Volume):
            kspace, clean, labels, about = self._simulate(slot.source, slot.index, own, shared)
            acquired = None
        else:
            kspace, acquired, about = self._measured(slot.source, slot.index, shared)
        prospective = acquired is not None and float(acquired.mean()) < MEASURED
        space = (int(kspace.shape[-2]), int(kspace.shape[-1]))
        if prospective:
            assert acquired is not None, "the condition says so"
            mask = acquired
        else:
            mask, told = draw_mask(self.data.masks, space, own, self.maps and self.data.maps == "espirit")
            about |= told
            mask = mask if acquired is None else mask & acquired
        sampled = torch.from_numpy(mask.copy())
        y = kspace * sampled
        stored = slot.source.maps(slot.index) if isinstance(slot.source, Scan) and self.data.maps == "file" else None
        maps, prior = self._maps(y, mask, stored, slot)
        image = Fourier(_PLANE).adjoint(kspace) if clean is None else clean
        target: Tensor | None = None
        if not prospective:
            target = self._target(image, kspace, maps, noisy=clean is None or self.data.target == "measured")
        full = held = None
        if self.split:
            seen, left = split_samples(mask, self.split, own)
            y, sampled, held, full = y * torch.from_numpy(seen), torch.from_numpy(seen), left, y
        elif self.full:
            held, full = (mask, y) if prospective else (np.ones_like(mask), Fourier(_PLANE)(image))
        problem = Problem(y[None], sampled.to(y.real.dtype)[None, None], maps[None], prior)
        if self.start is not None:
            with torch.no_grad():
                problem = replace(problem, start=self.start(problem.prepared()))
        return Batch(
            problem,
            target,
            None if full is None else full[None],
            None if held is None else torch.from_numpy(held).to(y.real.dtype)[None, None],
            labels,
            [f"{slot.name}, epoch {epoch}, item {number}"],
            [about],
        )

    def _target(self, image: Tensor, kspace: Tensor, maps: Tensor, *, noisy: bool) -> Tensor:
        """Return what coil images (C, y, x) show (1, 1, y, x): their root sum of squares, with the maps' phase.

        Maps of a small calibration region combine what they hardly resolve, such as the scalp, too darkly, and a
        network would learn to dim it. Noise, which no square forgives, is combined by maps of all of k-space, as in the
        reference that reconstructions are compared with.
        """
        if not self.maps:
            return root_sum_of_squares(image, 0, keepdim=True)[None]
        shown = combine(maps[None], image[None])
        if not noisy:
            return root_sum_of_squares(image[None], 1, keepdim=True) * torch.sgn(shown)
        if self.data.maps != "espirit" or image.shape[0] == 1:
            return shown
        best = _cropped(_espirit(kspace, np.ones(kspace.shape[1:], dtype=bool)))
        return combine(best[None], image[None])

    def _simulate(
        self, volume: Volume, index: int, own: np.random.Generator, shared: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor, dict[str, object]]:
        settings = self.data.simulation
        coils = round(math.exp(shared.uniform(math.log(settings.coils[0] - 0.49), math.log(settings.coils[1] + 0.49))))
        image = volume.slices[index].astype(np.float32)
        offset = (index - (len(volume) - 1) / 2) * volume.spacing[0] / (max(image.shape) * max(volume.spacing[1:]) / 2)
        # At least 1 coil, and a volume that is cut across everything gets no slice outside the coils.
        made = acquire(
            image,
            (volume.spacing[1], volume.spacing[2]),
            settings,
            own,
            coils=max(1, coils),
            window=self._window(shared),
            height=float(np.clip(offset, -0.6, 0.6)),
        )
        clean = made.kspace if self.data.target == "measured" else made.clean
        if self.data.target == "measured":
            clean = Fourier(_PLANE).adjoint(made.kspace)
        about: dict[str, object] = {"coils": coils, "snr": round(made.snr, 1), "lesions": len(made.lesions)}
        return made.kspace, clean, torch.from_numpy(made.labels)[None, None], about

    def _measured(
        self, scan: Scan, index: int, shared: np.random.Generator
    ) -> tuple[Tensor, np.ndarray, dict[str, object]]:
        kspace, mask = torch.from_numpy(scan.kspace(index)), scan.mask(index)
        window = self._window(shared)
        if window is not None and mask.mean() >= MEASURED:
            size = [min(a, b) for a, b in zip(window, mask.shape, strict=True)]
            starts = [n // 2 - m // 2 for n, m in zip(mask.shape, size, strict=True)]
            cut = tuple(slice(a, a + m) for a, m in zip(starts, size, strict=True))
            kspace = Fourier(_PLANE)(Fourier(_PLANE).adjoint(kspace)[..., cut[0], cut[1]].contiguous())
            mask = np.ones(size, dtype=bool)
        return kspace, mask, {"coils": scan.coils}

    def _window(self, shared: np.random.Generator) -> tuple[int, int] | None:
        crop = self.data.crop
        if crop is None:
            return None
        low, high = math.ceil(crop[0] / 8), crop[1] // 8
        if high < low:
            return crop[0], crop[0]
        sides = shared.integers(low, high + 1, 2) * 8
        return int(sides[0]), int(sides[1])

    def _maps(self, y: Tensor, mask: np.ndarray, stored: np.ndarray | None, slot: Slot) -> tuple[Tensor, Tensor | None]:
        """Return what inference will have: maps (1, C, y, x) of the item's own calibration region, or of the file.

        And the prior (1, 1, y, x) that comes with the first.
        """
        coils, *space = y.shape
        if not self.maps or self.data.maps == "none" or (coils == 1 and stored is None):
            return torch.full((1, coils, *space), coils**-0.5, dtype=y.dtype), None
        if self.data.maps == "file":
            if stored is None or stored.shape[0] != 1 or stored.shape[2:] != tuple(space):
                raise InputError(
                    "the file holds no coil maps that fit" if stored is None else "the maps do not fit what is cut out",
                    where=slot.name,
                    fix="use data.maps: espirit",
                )
            maps = torch.from_numpy(np.ascontiguousarray(stored))
            return maps / root_sum_of_squares(maps, 1).amax(), None
        found = _espirit(y, mask)
        if self.informed:
            return found.maps[0], found.values**PRIOR_POWER
        return _cropped(found), None


def _espirit(y: Tensor, mask: np.ndarray) -> CoilMaps:
    """Return maps of the calibration region of one item (C, y, x), uncropped."""
    region = y[(None, slice(None), *find_calibration(mask, CALIBRATION))]
    return espirit(region, (y.shape[-2], y.shape[-1]), kernel=KERNEL, crop=0)


def _cropped(found: CoilMaps) -> Tensor:
    """Return maps (1, C, y, x) that end where the object does."""
    return (found.maps * crop_weights(found.values, CROP).unsqueeze(2))[0]


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(list(key))))
