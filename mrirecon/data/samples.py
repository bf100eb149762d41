"""Compute training samples; each depends on (seed, epoch, number) only, whatever the process and the order."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import mrirecon
from mrirecon.coils.calibration import find_calibration
from mrirecon.coils.espirit import PRIOR_POWER, CoilMaps, crop_weights, espirit
from mrirecon.coils.sampling import TrajectorySampling, grid_centre
from mrirecon.data.augmentation import augment
from mrirecon.data.batch import Batch, pack, read_packed, require_one_size, unpack, write_packed
from mrirecon.data.fields import generator
from mrirecon.data.sampling import KERNEL, SampleInfo, coloured_noise, draw_mask, draw_trajectory, split_samples, turn
from mrirecon.data.scene import Scene, draw_scene
from mrirecon.data.settings import Data
from mrirecon.data.simulate import one_thread, simulate
from mrirecon.data.sources import FULLY_SAMPLED_SHARE, SliceRef
from mrirecon.data.volumes import Volume
from mrirecon.engine import StartImage
from mrirecon.errors import InputError, MriReconError, UsageError
from mrirecon.io.scan import Scan
from mrirecon.physics.nonuniform import NonUniformFourier, NonUniformProblem, pipe_menon
from mrirecon.physics.operators import Fourier, combine, per_item, root_sum_of_squares
from mrirecon.physics.problem import Problem
from mrirecon.physics.transforms import Prior

_PLANE = (-2, -1)
CALIBRATION, CROP = 24, 0.8  # parameters of ESPIRiT, besides KERNEL, as in `mrirecon reconstruct`
_CODE = (  # modules that determine the values of a sample
    *("data", "coils", "masks", "physics", "engine.py"),
    *("methods/steps", "methods/cs.py", "methods/regularization.py"),
)
SampleKey = tuple[int, int, int]  # epoch, number, index of the slice


class _FullKspace(NamedTuple):
    """Hold samples before undersampling."""

    kspace: Tensor  # (B, C, y, x)
    clean: Tensor | None  # (B, C, y, x), coil images of the reference; None for those of ``kspace``
    labels: Tensor | None  # (B, 1, y, x)
    acquired: list[np.ndarray | None]  # (y, x), of measured k-space
    info: list[SampleInfo]
    noise: Tensor | None = None  # (B, C, C), noise covariance if known


@dataclass(frozen=True)
class SampleFactory:
    """Compute samples from slices.

    Args:
        slices: source slices.
        data: settings of the simulation, the masks and the coil maps.
        seed: seed of the run.
        batch: number of samples with equal size, so that they can be stacked.
        with_kspace: whether the loss compares k-space.
        held_out_share: fraction of the acquired k-space samples that only the loss uses (SSDU); 0 for none.
        maps: whether the method uses coil maps.
        uncropped_maps: whether maps extend beyond the object; see `mrirecon.reconstruction.calibrate.build_problem`.
        start: function that computes the initial image; None leaves this to the method.

    """

    slices: Sequence[SliceRef]
    data: Data
    seed: int
    batch: int = 1
    with_kspace: bool = False
    held_out_share: float = 0.0
    maps: bool = True
    uncropped_maps: bool = True
    start: StartImage | None = None

    def sample(self, epoch: int, number: int, index: int, device: torch.device | str = "cpu") -> Batch:
        """Return sample ``number`` of an epoch as a batch of one, augmented for its first draw.

        Raises:
            MriReconError: the sample cannot be computed; the message gives its name.

        """
        keys = [(epoch, number, index)]
        return self.augment(self.load_or_make(keys, device), keys, 0)

    def load_or_make(self, keys: Sequence[SampleKey], device: torch.device | str = "cpu") -> Batch:
        """Return samples of one size, not augmented: read from the buffer's folder, or computed.

        New samples for a folder are packed and unpacked, so that computed and stored samples are equal.
        """
        path = self.cache_file(keys)
        if path is None:
            return self.make(keys, device)
        stored = read_packed(path)
        if stored is None:
            packed = pack(self.make(keys, device))
            write_packed(path, packed)
            stored = unpack(packed)
        return stored.to(device)

    def cache_file(self, keys: Sequence[SampleKey]) -> Path | None:
        """Return the file that stores samples; None if the buffer has no folder.

        Raises:
            UsageError: the folder's name contains a variable that is not set.

        """
        folder = self.data.buffer.folder()
        if folder is None:
            return None
        text = " ".join(f"{epoch} {number} {self.slices[index].fingerprint}" for epoch, number, index in keys)
        return folder / self._cache_key / f"{keys[0][0]}-{keys[0][1]}-{_short_hash(text)}.pt"

    @cached_property
    def _cache_key(self) -> str:
        """Return a hash of everything that determines the samples except their slices: settings and code."""
        start = self.start
        if isinstance(start, partial):
            named = f"{start.func.__qualname__} {sorted(start.keywords.items())}"
        else:
            named = "" if start is None else start.__qualname__
        data = self.data.model_dump(mode="json", include={"axes", "maps", "target", "crop", "simulation", "masks"})
        if self.data.trajectories:
            data["trajectories"] = [t.model_dump(mode="json") for t in self.data.trajectories]
        del data["simulation"]["cavities"]  # drawn by `augment`
        numbers = [self.seed, self.batch, self.with_kspace, self.held_out_share, self.maps, self.uncropped_maps]
        return _short_hash(json.dumps([data, *numbers, named, simulator_version()], sort_keys=True))

    def augment(self, batch: Batch, keys: Sequence[SampleKey], use: int) -> Batch:
        """Augment a batch for its draw number ``use``, counted from 0."""
        simulated = self.maps and all(self.slices[index].simulated for _, _, index in keys)
        low, high = self.data.simulation.cavities if simulated else (0, 0)
        with one_thread():
            return augment(batch, [(self.seed, epoch, number) for epoch, number, _ in keys], use, (low, high))

    def make(self, keys: Sequence[SampleKey], device: torch.device | str = "cpu") -> Batch:
        """Compute samples of one size and stack them.

        Args:
            keys: (epoch, number, index of the slice) of each sample.
            device: device of the computation and of the result.

        Raises:
            MriReconError: a sample cannot be computed; the message gives its name.

        """
        try:
            with one_thread():
                return self._make(keys, torch.device(device))
        except MriReconError as error:
            if len(keys) > 1:
                for key in keys:  # find the sample that fails
                    self.make([key], device)
                raise
            epoch, number, index = keys[0]
            named = f"{self.slices[index].name} (epoch {epoch}, item {number})"
            error.where = named + (f": {error.where}" if error.where else "")
            raise

    def _make(self, keys: Sequence[SampleKey], device: torch.device) -> Batch:
        slices = [self.slices[index] for _, _, index in keys]
        own = [generator(self.seed, epoch, number, 1) for epoch, number, _ in keys]
        # The samples of a batch share the random draws that determine the size.
        shared = [generator(self.seed, epoch, number // self.batch, 0) for epoch, number, _ in keys]
        simulated = all(s.simulated for s in slices)
        if simulated:
            conjugate = [generator(self.seed, epoch, number, 2).random() < 0.5 for epoch, number, _ in keys]
            full = _conjugate(self._simulated(slices, own, shared, device), torch.tensor(conjugate, device=device))
        else:
            full = self._measured(slices, shared, device)
        if self.data.trajectories:
            return self._along_trajectory(keys, slices, full, own, shared)
        space = (int(full.kspace.shape[-2]), int(full.kspace.shape[-1]))
        prospective = [a is not None and float(a.mean()) < FULLY_SAMPLED_SHARE for a in full.acquired]
        masks: list[np.ndarray] = []
        for rng, acquired, undersampled, info in zip(own, full.acquired, prospective, full.info, strict=True):
            if acquired is not None and undersampled:
                masks.append(acquired)
                continue
            mask, drawn = draw_mask(self.data.masks, space, rng, self.maps and self.data.maps == "espirit")
            info |= drawn
            masks.append(mask if acquired is None else mask & acquired)
        sampled = _stack_masks(masks, device)
        y = full.kspace * sampled
        maps, prior = self._maps(y, masks, slices)
        image = Fourier(_PLANE).adjoint(full.kspace) if full.clean is None else full.clean
        target = None
        if not any(prospective):
            target = self._target(image, full.kspace, maps, noisy=full.clean is None or self.data.target == "measured")
        compared = loss_mask = None
        if self.held_out_share:
            parts = [split_samples(mask, self.held_out_share, rng) for mask, rng in zip(masks, own, strict=True)]
            sampled, loss_mask = (_stack_masks(part, device) for part in zip(*parts, strict=True))
            y, compared = y * sampled, y
        elif self.with_kspace:
            seen = [m if p else np.ones_like(m) for m, p in zip(masks, prospective, strict=True)]
            loss_mask = _stack_masks(seen, device)
            measured = torch.tensor(prospective, device=device).reshape(-1, 1, 1, 1)
            compared = torch.where(measured, y, Fourier(_PLANE)(image))
        problem = Problem(y, sampled.to(y.real.dtype), maps, noise=full.noise)
        if self.start is not None:
            with torch.no_grad():
                problem = replace(problem, initial_image=_start_images(self.start, problem, prior))
        return Batch(
            problem,
            target,
            compared,
            None if loss_mask is None else loss_mask.to(y.real.dtype),
            full.labels,
            [f"{s.name}, epoch {epoch}, item {n}" for s, (epoch, n, _) in zip(slices, keys, strict=True)],
            full.info,
        )

    def _along_trajectory(
        self,
        keys: Sequence[SampleKey],
        slices: Sequence[SliceRef],
        full: _FullKspace,
        own: Sequence[np.random.Generator],
        shared: Sequence[np.random.Generator],
    ) -> Batch:
        """Sample the coil images along trajectories, with noise that is independent for each sample.

        Raises:
            UsageError: the loss compares Cartesian k-space, or maps are taken from the file.

        """
        if self.held_out_share or self.with_kspace or self.data.maps == "file":
            raise UsageError(
                "samples on trajectories have no Cartesian k-space to compare",
                where="data.trajectories",
                why="the loss compares k-space, or data.maps is file",
                fix="use a loss of images, such as l1 or ssim, and data.maps: espirit",
            )
        image = Fourier(_PLANE).adjoint(full.kspace) if full.clean is None else full.clean
        space = (int(image.shape[-2]), int(image.shape[-1]))
        kind, points = draw_trajectory(self.data.trajectories, space, shared[0])
        turned = np.stack([turn(points, space, rng.uniform(0, 2 * math.pi)) for rng in own])
        fourier = NonUniformFourier(torch.from_numpy(turned).to(image.device), space)
        y = fourier(image)
        if full.noise is not None and self.data.target == "clean":
            y = y + coloured_noise(full.noise, own, tuple(y.shape[2:])).to(y)
        used = np.ones(points.shape[:2], dtype=bool)
        density = pipe_menon(fourier)
        samplings = [TrajectorySampling(NonUniformFourier(k[None].cpu(), space), used) for k in fourier.trajectory]
        size = min(min(s.stop - s.start for s in samplings[0].box), CALIBRATION)
        centres = [
            grid_centre(one.cpu(), sampling.fourier, (size, size), used)
            for one, sampling in zip(y, samplings, strict=True)
        ]
        estimated = espirit(torch.stack(centres).to(y.device), space, kernel=KERNEL, crop=0)
        maps = estimated.maps if self.uncropped_maps else _cropped(estimated)
        problem: Problem = NonUniformProblem(
            y, torch.ones_like(density).to(y.real), maps, noise=full.noise, fourier=fourier, density=density
        )
        if self.start is not None:
            prior = Prior(estimated.values**PRIOR_POWER) if self.uncropped_maps else None
            with torch.no_grad():
                problem = replace(problem, initial_image=self.start(problem.prepared(), prior))
        for info in full.info:
            info |= {"trajectory": kind, "readouts": len(points)}
        names = [f"{s.name}, epoch {epoch}, item {n}" for s, (epoch, n, _) in zip(slices, keys, strict=True)]
        target = self._target(image, full.kspace, maps, noisy=full.clean is None or self.data.target == "measured")
        return Batch(problem, target, None, None, full.labels, names, full.info)

    def _target(self, image: Tensor, kspace: Tensor, maps: Tensor, *, noisy: bool) -> Tensor:
        """Combine coil images (B, C, y, x) to the reference (B, 1, y, x): root sum of squares, phase of the maps.

        Maps from a small calibration region attenuate thin structures such as the scalp, and a network would learn this
        attenuation. The root sum of squares of noise is biased, so noisy images are combined with maps from the full
        k-space, like the reference images of the evaluation.
        """
        if not self.maps:
            return root_sum_of_squares(image, 1, keepdim=True)
        combined = combine(maps, image)
        if not noisy:
            return root_sum_of_squares(image, 1, keepdim=True) * torch.sgn(combined)
        if self.data.maps != "espirit" or image.shape[1] == 1:
            return combined
        everything = np.ones(tuple(kspace.shape[2:]), dtype=bool)
        return combine(_cropped(_espirit(kspace, [everything] * len(kspace))), image)

    def _simulated(
        self,
        slices: Sequence[SliceRef],
        own: Sequence[np.random.Generator],
        shared: Sequence[np.random.Generator],
        device: torch.device,
    ) -> _FullKspace:
        scans = simulate([self.scene(*one) for one in zip(slices, own, shared, strict=True)], device)
        clean = Fourier(_PLANE).adjoint(scans.kspace) if self.data.target == "measured" else scans.clean
        coils = scans.kspace.shape[1]
        info: list[SampleInfo] = [
            {"coils": coils, "snr": round(snr, 1), "lesions": len(lesions)}
            for snr, lesions in zip(scans.snr, scans.lesions, strict=True)
        ]
        return _FullKspace(scans.kspace, clean, scans.labels, [None] * len(slices), info, scans.covariance)

    def scene(self, ref: SliceRef, own: np.random.Generator, shared: np.random.Generator) -> Scene:
        """Draw the scene of a slice: quantities that determine the size from ``shared``, all others from ``own``."""
        assert isinstance(ref.source, Volume), "only volumes are simulated from"
        low, high = self.data.simulation.coils
        coils = max(1, round(math.exp(shared.uniform(math.log(low - 0.49), math.log(high + 0.49)))))
        return draw_scene(ref.source, ref.index, self.data.simulation, own, coils=coils, window=self._window(shared))

    def _measured(
        self, slices: Sequence[SliceRef], shared: Sequence[np.random.Generator], device: torch.device
    ) -> _FullKspace:
        all_kspace: list[Tensor] = []
        masks: list[np.ndarray | None] = []
        for ref, rng in zip(slices, shared, strict=True):
            assert isinstance(ref.source, Scan), "simulated and measured slices are never in one batch"
            kspace, mask = torch.from_numpy(ref.source.kspace(ref.index)), ref.source.mask(ref.index)
            window = self._window(rng)
            if window is not None and mask.mean() >= FULLY_SAMPLED_SHARE:
                size = [min(a, b) for a, b in zip(window, mask.shape, strict=True)]
                starts = [n // 2 - m // 2 for n, m in zip(mask.shape, size, strict=True)]
                rows, columns = (slice(a, a + m) for a, m in zip(starts, size, strict=True))
                kspace = Fourier(_PLANE)(Fourier(_PLANE).adjoint(kspace)[..., rows, columns].contiguous())
                mask = np.ones(size, dtype=bool)
            all_kspace.append(kspace)
            masks.append(mask)
        require_one_size([tuple(k.shape) for k in all_kspace])
        info: list[SampleInfo] = [{"coils": len(k)} for k in all_kspace]
        return _FullKspace(torch.stack(all_kspace).to(device), None, None, masks, info)

    def _window(self, shared: np.random.Generator) -> tuple[int, int] | None:
        crop = self.data.crop
        if crop is None:
            return None
        low, high = math.ceil(crop[0] / 8), crop[1] // 8
        if high < low:
            return crop[0], crop[0]
        y, x = shared.integers(low, high + 1, 2) * 8
        return int(y), int(x)

    def _maps(self, y: Tensor, masks: Sequence[np.ndarray], slices: Sequence[SliceRef]) -> tuple[Tensor, Tensor | None]:
        """Return coil maps (B, 1, C, y, x) as in a reconstruction, and the prior (B, 1, y, x) of estimated maps.

        The maps are estimated from the calibration region of each sample, or read from the file.
        """
        batch, coils, *space = y.shape
        from_file = self.data.maps == "file" and isinstance(slices[0].source, Scan)
        if not self.maps or self.data.maps == "none" or (coils == 1 and not from_file):
            return torch.full((batch, 1, coils, *space), coils**-0.5, dtype=y.dtype, device=y.device), None
        if self.data.maps == "file":
            stored = torch.stack([_stored_maps(ref, tuple(space)) for ref in slices]).to(y.device)
            return stored / root_sum_of_squares(stored, 2).flatten(1).amax(1).reshape(-1, 1, 1, 1, 1), None
        estimated = _espirit(y, masks)
        if self.uncropped_maps:
            return estimated.maps, estimated.values**PRIOR_POWER
        return _cropped(estimated), None


def _conjugate(full: _FullKspace, chosen: Tensor) -> _FullKspace:
    """Replace the chosen items (B,) bool by their complex conjugate images.

    The sign of the phase is a convention of the scanner. A network that was trained with one sign fails on the other.
    """
    if not bool(chosen.any()):
        return full
    fourier = Fourier(_PLANE)
    conjugate = fourier(fourier.adjoint(full.kspace).conj())
    clean, noise = full.clean, full.noise
    return full._replace(
        kspace=torch.where(per_item(chosen, conjugate), conjugate, full.kspace),
        clean=None if clean is None else torch.where(per_item(chosen, clean), clean.conj(), clean),
        noise=None if noise is None else torch.where(per_item(chosen, noise), noise.conj(), noise),
    )


@cache
def simulator_version() -> str:
    """Return a hash of the code that computes samples, so that samples of other versions are not reused."""
    package = Path(mrirecon.__file__).parent
    code = hashlib.sha256(f"{mrirecon.__version__} {torch.__version__}".encode())
    for name in _CODE:
        path = package / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            code.update(file.relative_to(package).as_posix().encode() + file.read_bytes())
    return code.hexdigest()[:16]


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _group(keys: Iterable[Hashable]) -> list[list[int]]:
    """Group the indices of equal keys, in order of first appearance."""
    groups: dict[Hashable, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    return list(groups.values())


def _stored_maps(ref: SliceRef, space: tuple[int, ...]) -> Tensor:
    """Return the coil maps (1, C, y, x) of a file.

    Raises:
        InputError: the file has no maps, or maps of another shape.

    """
    stored = ref.source.maps(ref.index) if isinstance(ref.source, Scan) else None
    if stored is None or stored.shape[0] != 1 or stored.shape[2:] != space:
        raise InputError(
            "the file has no matching coil maps" if stored is None else "stored maps do not match cropped samples",
            where=ref.name,
            fix="use data.maps: espirit",
        )
    return torch.from_numpy(np.ascontiguousarray(stored))


def _stack_masks(masks: Sequence[np.ndarray], device: torch.device) -> Tensor:
    return torch.from_numpy(np.stack(masks))[:, None].to(device)


def _start_images(start: StartImage, p: Problem, prior: Tensor | None) -> Tensor:
    """Return initial images (B, 1, y, x).

    On a CPU, samples whose masks vary along the same axes are solved together, because masks of lines need transforms
    along one axis only.
    """
    if p.y.device.type != "cpu":
        return start(p.prepared(), None if prior is None else Prior(prior))
    out = torch.empty_like(p.maps[:, :, 0])
    for members in _group(tuple(bool((m != m.narrow(a, 0, 1)).any()) for a in _PLANE) for m in p.mask):
        noise, weight = (None if v is None else v[members] for v in (p.noise, prior))
        part = Problem(p.y[members], p.mask[members], p.maps[members], noise=noise)
        out[members] = start(part.prepared(), None if weight is None else Prior(weight))
    return out


def _espirit(y: Tensor, masks: Sequence[np.ndarray]) -> CoilMaps:
    """Estimate uncropped maps from the calibration regions of samples (B, C, y, x), batched by region size."""
    boxes = [find_calibration(mask, CALIBRATION) for mask in masks]
    parts: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
    for members in _group(tuple(side.stop - side.start for side in box) for box in boxes):
        regions = torch.stack([y[i][(slice(None), *boxes[i])] for i in members])
        result = espirit(regions, (y.shape[-2], y.shape[-1]), kernel=KERNEL, crop=0)
        parts |= zip(members, zip(result.maps, result.values, result.spectrum, strict=True), strict=True)
    ordered = zip(*(parts[i] for i in range(len(masks))), strict=True)
    return CoilMaps(*(torch.stack(part) for part in ordered))


def _cropped(estimated: CoilMaps) -> Tensor:
    """Crop maps (B, 1, C, y, x) to the object."""
    return estimated.maps * crop_weights(estimated.values, CROP).unsqueeze(2)
