"""Assess the reliability of an image without a reference.

- data consistency: ‖A x − y‖ / ‖y‖ over the acquired samples; far below the relative noise, the image fits noise; far
  above it, the image does not explain the data;
- held-out samples: a few acquired samples are withheld, the rest is reconstructed, and the withheld samples are
  predicted. Their noise is the lower bound of the error;
- output noise: the standard deviation of the image over replicas with added noise of the measured covariance
  (pseudo-replicas; Robson et al., MRM 60:895, 2008). For a linear method, this is its noise; for a nonlinear method,
  its local response to noise;
- g-factor: that noise over the noise of the fully sampled combination, over √R (Pruessmann et al., MRM 42:952, 1999).
  Their least squares weights the coils by the inverse noise covariance: whiten the scan to get the same;
- null space: the part of the image that does not affect the samples, x − (AᴴA + ε)⁻¹AᴴA x. It comes from the method,
  not from the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mrirecon.coils.noise import NoiseLevel
from mrirecon.coils.sampling import Sampling
from mrirecon.engine import Reconstructor
from mrirecon.errors import InputError, UsageError
from mrirecon.io.drawing import Panel
from mrirecon.io.readers.reader import read
from mrirecon.io.safe.atomic import atomic_path, refuse_existing
from mrirecon.io.scan import Scan
from mrirecon.io.writers.pictures import save_panels
from mrirecon.methods.cross_validation import choose_hidden
from mrirecon.methods.registry import Use, build, find_method
from mrirecon.methods.regularization import weight_by_noise
from mrirecon.models.checkpoints import load_model, shipped_models
from mrirecon.physics.operators import norm, root_sum_of_squares
from mrirecon.physics.problem import Problem
from mrirecon.physics.solvers import conjugate_gradient
from mrirecon.physics.transforms import Prior
from mrirecon.reconstruction.calibrate import ItemMaps, build_problem, item_maps, item_noise
from mrirecon.reconstruction.preprocess import Preprocess, Whiten, prepare

Solve = Callable[[Problem, Prior | None], Tensor]
RIDGE = 1e-3  # ε, relative to the largest eigenvalue of AᴴA: singular values below 3 % belong to the null space
_STEPS = 60


@dataclass(frozen=True)
class Trust:
    """Hold the measures of one item; see the module's docstring.

    Attributes:
        residual: relative residual of the acquired samples.
        noise_share: measured relative noise in the acquired samples, ‖n‖ / ‖y‖.
        noise_deviation: standard deviation of a sample, √E|n|², root mean square over the coils.
        noise_low: lower end of its 95 % interval.
        noise_high: upper end of the interval.
        held_out: relative error of the withheld samples.
        held_out_zero_filled: the same of the zero-filled image, for comparison.
        null_share: energy in the null space over the energy of the image.
        g_median: median g-factor over the object.
        g_high: 95th percentile over the object.
        null_space: (*space) magnitude of the part in the null space.
        noise: (*space) output noise in the image's unit; for two sets of coil maps, of both combined.
        g: (*space) g-factor; 0 outside the object; for two sets, the larger value.

    """

    residual: float
    noise_share: float
    noise_deviation: float
    noise_low: float
    noise_high: float
    held_out: float | None
    held_out_zero_filled: float | None
    null_share: float
    g_median: float | None
    g_high: float | None
    null_space: np.ndarray
    noise: np.ndarray
    g: np.ndarray


def examine(
    scan: Scan,
    item: int = 0,
    *,
    method: str = "cs",
    model: Reconstructor | None = None,
    replicas: int = 64,
    held_out_share: float = 0.05,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> Trust:
    """Compute the measures of one item for a method.

    Args:
        scan: undersampled scan.
        item: index of the item.
        method: registered method, at its default weight.
        model: trained network of a learned method.
        replicas: number of replicas with added noise.
        held_out_share: fraction of the samples outside the calibration region to withhold.
        seed: seed of noise and withheld samples.
        progress: called with (replicas done, replicas, "replica").

    Raises:
        UsageError: a share outside 0 to 1.
        InputError: the scan is fully sampled.

    """
    if not 0 < held_out_share < 1:
        raise UsageError(f"--held-out-share cannot be {held_out_share:g}", fix="give a number between 0 and 1")
    kspace, sampling = scan.measured(item)
    if sampling.acceleration == 1:
        raise InputError("fully sampled data need no such check", where=scan.where(item))
    maps = item_maps(scan, item, kspace, sampling)
    use = find_method(method).use
    level = _level(scan, item, kspace, sampling)
    problem, transform, prior = build_problem(kspace, sampling, maps, use, noise=level.covariance)
    deviation = float(np.sqrt((level.deviation**2).mean()))
    with torch.inference_mode():
        solve = _solver(method, model, problem)
        u = solve(problem, prior)
        draws = {"replicas": replicas, "seed": seed}
        noise = pseudo_replicas(
            lambda p: transform.undo(solve(p, prior)), problem, level.covariance, **draws, progress=progress
        )[0]
        # The null space depends on the maps only, whatever the method.
        plain = build_problem(kspace, sampling, maps, "cropped").problem
        image = transform.undo(u)
        unseen = null_space(plain, image * (plain.maps.abs().sum(2) > 0))
    per_set = [
        _g_factor(plain.maps[0, m], noise[m], level.covariance, math.prod(sampling.shape) / sampling.count)
        for m in range(len(noise))
    ]
    factor = np.max(per_set, axis=0)
    inside = factor[factor > 0]
    held, zero = hidden_samples(scan, item, solve, use, held_out_share=held_out_share, seed=seed)
    return Trust(
        float(norm(problem.residual(u))[0] / norm(problem.data)[0]),
        float(deviation * np.sqrt(len(kspace) * float(problem.weights.sum())) / np.linalg.norm(problem.data.numpy())),
        deviation,
        deviation * level.low,
        deviation * level.high,
        held,
        zero,
        float((norm(unseen) / norm(image)).square()[0]),
        float(np.median(inside)) if inside.size else None,
        float(np.percentile(inside, 95)) if inside.size else None,
        root_sum_of_squares(unseen[0], 0).numpy(),
        root_sum_of_squares(noise, 0).numpy(),
        factor,
    )


def examine_file(
    path: Path,
    item: int = 0,
    *,
    method: str = "cs",
    model: Path | None = None,
    output: Path | None = None,
    axes: str | None = None,
    whiten: Whiten = "loud",
    overwrite: bool = False,
    **options: Any,
) -> tuple[Trust, list[str]]:
    """Compute the measures of one item of a file, and write their maps; return the measures with the scan's notes.

    Args:
        path: undersampled scan.
        item: index of the item.
        method: registered method; a learned method takes the weights shipped with mrirecon.
        model: folder of a trained model, instead of a method.
        output: file for the maps of noise, g-factor and null space: .png or .npz.
        axes: axis names of the scan, if its file does not state them.
        whiten: see `mrirecon.reconstruction.preprocess.Preprocess`.
        overwrite: replace an output that exists.
        options: further arguments of `examine`.

    Raises:
        UsageError: an output that exists, or of another format; an item that does not exist.
        InputError: see `examine` and `mrirecon.io.read`.

    """
    if output is not None:
        refuse_existing([output], overwrite)
        if output.suffix not in (".png", ".npz"):
            raise UsageError("maps must be .png or .npz", where=str(output))
    weights = model or shipped_models().get(method)
    trained = None if weights is None else load_model(weights)
    name, network = (method, None) if trained is None else (trained.method, trained.model)
    scan = prepare(read(path, axes=axes), Preprocess(whiten=whiten))
    if item >= len(scan):
        raise UsageError(f"there is no item {item}", where=str(path), why=f"it has {len(scan)}, from 0 on")
    result = examine(scan, item, method=name, model=network, **options)
    if output is not None:
        _write_maps(output, result, f"{path.name}, item {item}, {name}")
    return result, list(scan.notes)


def _write_maps(path: Path, result: Trust, heading: str) -> None:
    # The scale of the g-factor starts at 0, to show values below 1, where regularization reduces noise.
    titles = {"null_space": "not measured", "noise": "noise in the image", "g": "g-factor"}
    maps = {name: getattr(result, name) for name in titles}
    if path.suffix == ".npz":
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **maps)
        return
    panels = [Panel(titles[k], v, colours="heat", note=f"white: {np.quantile(v, 0.998):.3g}") for k, v in maps.items()]
    save_panels(path, panels, columns=len(panels), heading=heading)


def _level(scan: Scan, item: int, kspace: np.ndarray, sampling: Sampling) -> NoiseLevel:
    """Return the noise of an item: white if a noise scan whitened the scan, else estimated from the data."""
    if scan.prepared is not None and scan.prepared.whitening is not None and scan.noise is not None:
        error = (len(kspace) * scan.noise.shape[1]) ** -0.5
        return NoiseLevel(np.eye(len(kspace), dtype=np.complex128), 1 - error, 1 + error, "the noise scan")
    return item_noise(scan, item, kspace, sampling)


def pseudo_replicas(
    solve: Callable[[Problem], Tensor],
    problem: Problem,
    noise: np.ndarray,
    replicas: int,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> Tensor:
    """Return the standard deviation (B, M, *space) of images over replicas of the data with added noise.

    The square of the result is E|x − x̄|² of the complex images, for complex noise of covariance Σ = E[n nᴴ] over the
    coils.

    Args:
        solve: maps a problem to an image.
        problem: problem with measured data.
        noise: (C, C) covariance Σ; or (C,) standard deviations for independent coils.
        replicas: number of replicas, at least two.
        seed: seed of the noise.
        progress: called with (replicas done, replicas, "replica").

    """
    if replicas < 2:
        raise InputError("the output noise needs two replicas or more", why=f"given: {replicas}")
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.from_numpy(_square_root(noise)).to(torch.complex64) / 2**0.5
    total, power = torch.zeros((), dtype=torch.complex128), torch.zeros((), dtype=torch.float64)
    for number in range(replicas):
        if progress is not None:
            progress(number, replicas, "replica")
        real, imaginary = (torch.randn(problem.y.shape, generator=generator) for _ in range(2))
        coloured = torch.einsum("cd,bd...->bc...", mixing, torch.complex(real, imaginary))
        y = problem.y + coloured * problem.mask
        x = solve(problem.with_samples(y)).to(torch.complex128)
        total, power = total + x, power + x.abs().square()
    spread = (power - total.abs().square() / replicas) / (replicas - 1)
    return spread.clamp_min(0).sqrt()


def _square_root(noise: np.ndarray) -> np.ndarray:
    """Return a matrix F (C, C) with F Fᴴ = Σ, also for a singular covariance."""
    if noise.ndim == 1:
        return np.diag(noise).astype(np.complex128)
    values, vectors = np.linalg.eigh(noise)
    root: np.ndarray = vectors * np.sqrt(values.clip(min=0))
    return root


def null_space(problem: Problem, image: Tensor) -> Tensor:
    """Return the part (B, M, *space) of an image in the null space of a problem."""
    p = problem.prepared()
    epsilon = RIDGE * float(p.lipschitz.max())
    in_range = conjugate_gradient(lambda v: p.normal(v) + epsilon * v, p.normal(image), None, _STEPS)
    return image - in_range


def hidden_samples(
    scan: Scan,
    item: int,
    solve: Solve,
    use: Use,
    *,
    held_out_share: float = 0.05,
    seed: int = 0,
) -> tuple[float | None, float | None]:
    """Return the relative error of withheld samples for a method and for zero filling; None if no samples are withheld.

    Args:
        scan: undersampled scan.
        item: index of the item.
        solve: maps a problem and a prior to an image.
        use: use of the coil maps; see `build_problem`.
        held_out_share: fraction of the samples outside the calibration region to withhold.
        seed: seed of their selection.

    """
    kspace, sampling = scan.measured(item)
    hidden = choose_hidden(sampling, held_out_share, seed)
    if hidden is None:
        return None, None
    remaining = sampling.only(~hidden)
    samples = (kspace * ~hidden).astype(np.complex64)
    maps: ItemMaps = item_maps(scan, item, samples, remaining)
    truth = kspace[:, hidden]
    errors = []
    with torch.inference_mode():
        problem, _, prior = build_problem(samples, remaining, maps, use)
        plain = build_problem(samples, remaining, maps, "cropped").problem
        for p, x in ((problem, solve(problem, prior)), (plain, plain.zero_filled)):
            predicted = p.encode(x)[0].numpy()[:, hidden]
            errors.append(float(np.linalg.norm(predicted - truth) / np.linalg.norm(truth)))
    return errors[0], errors[1]


def _solver(method: str, model: Reconstructor | None, problem: Problem) -> Solve:
    """Return a solver for problems derived from a measured one, with the measured one's regularization weight."""
    if model is not None:
        return lambda p, prior: model.run(p, prior=prior).image
    options = {"lam": float(weight_by_noise(method, problem)[0])} if find_method(method).weighted else {}
    return lambda p, prior: build(method, options).run(p, prior=prior).image


def _g_factor(maps: Tensor, noise: Tensor, covariance: np.ndarray, rate: float) -> np.ndarray:
    """Return g (*space): the noise over the noise of the fully sampled least-squares combination, over √R.

    R is the number of voxels over that of the samples, which is below 1 if samples are closer than 1/FOV.
    """
    maps = maps.flatten(1)
    sigma = torch.from_numpy(covariance).to(maps.dtype)
    total = maps.abs().square().sum(0)
    full = ((maps.conj() * (sigma @ maps)).sum(0).real.clamp_min(0).sqrt() / total).reshape(noise.shape)
    # cropped maps decrease at their edge: use their full-weight region only
    factor = torch.where(total.reshape(noise.shape) > 0.9, noise / full / rate**0.5, 0.0)
    return np.asarray(factor.nan_to_num().numpy())
