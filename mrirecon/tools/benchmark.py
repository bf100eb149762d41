"""Compare time and memory with BART: both run the same job alternately in one session.

The scan is simulated (phantom, loop coils, correlated noise), so that errors are known. Each regularized method is
first run with several λ and then timed at its best λ, because speed is only relevant at equal or lower error.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from mrirecon.coils.calibration import find_calibration
from mrirecon.coils.espirit import crop_weights, espirit
from mrirecon.data.phantom import phantom
from mrirecon.data.simulate import simulate_kspace
from mrirecon.errors import UsageError
from mrirecon.io.readers.images import read_image
from mrirecon.io.writers.write import write_kspace
from mrirecon.masks import make_mask
from mrirecon.methods.registry import build
from mrirecon.reconstruction.calibrate import EspiritOptions, ItemMaps, build_problem

Case = Literal["espirit", "wavelet", "wavelet2d", "tv"]
CASES: tuple[Case, ...] = ("espirit", "wavelet", "wavelet2d", "tv")
_ECALIB = "ecalib -m 1 -r 24 k s"
_SWEEP = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016)


@dataclass(frozen=True)
class Timing:
    """Hold time, error and memory of one job: medians over the rounds, and the median of their ratios.

    Attributes:
        case: name of the job.
        ours_s: our time in seconds.
        bart_s: BART's time in seconds, including process and files; None without BART.
        ratio: BART's time over ours.
        ours_error: NRMSE inside the object, at our best λ; None for maps.
        bart_error: the same for BART, at its best λ.
        ours_mib: our peak memory including data, minus that of the idle program.
        bart_mib: the same for BART.
        settings: commands with λ.

    """

    case: str
    ours_s: float
    bart_s: float | None
    ratio: float | None
    ours_error: float | None
    bart_error: float | None
    ours_mib: float
    bart_mib: float | None
    settings: str


@dataclass(frozen=True)
class _Scan:
    kspace: np.ndarray  # (C, y, x), undersampled
    mask: np.ndarray
    truth: np.ndarray  # magnitude (y, x)
    threads: int
    folder: Path

    @property
    def box(self) -> tuple[slice, ...]:
        """Return the calibration region."""
        return find_calibration(self.mask, 24)

    def maps(self) -> ItemMaps:
        """Estimate the coil maps."""
        region = torch.from_numpy(np.ascontiguousarray(self.kspace[(slice(None), *self.box)]))[None]
        result = espirit(region, self.mask.shape, crop=0)
        weights = crop_weights(result.values, EspiritOptions.crop)
        return ItemMaps(result.maps, "ESPIRiT", values=result.values, object_weights=weights)

    def error(self, image: np.ndarray) -> float:
        """Return the NRMSE inside the object after a least-squares scale."""
        inside = self.truth > 0.05 * self.truth.max()
        a, b = np.abs(image)[inside], self.truth[inside]
        return float(np.linalg.norm(a * (a @ b) / (a @ a) - b) / np.linalg.norm(b))


def run(
    cases: Sequence[Case] = CASES,
    *,
    size: int = 320,
    coils: int = 8,
    rounds: int = 5,
    threads: int = 2,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Timing]:
    """Run the benchmark.

    Args:
        cases: names of the jobs.
        size: matrix size of the square image.
        coils: number of coils.
        rounds: timed repetitions of each pair.
        threads: number of threads of both programs.
        progress: called with lines for the user.

    Raises:
        UsageError: a case is unknown.

    """
    unknown = set(cases) - set(CASES)
    if unknown:
        raise UsageError(f"unknown benchmark case {sorted(unknown)[0]!r}", fix=f"choices: {', '.join(CASES)}")
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        return [_case(case, size, coils, rounds, threads, Path(folder), progress) for case in cases]


def _case(
    case: Case, size: int, coils: int, rounds: int, threads: int, folder: Path, progress: Callable[[str], None]
) -> Timing:
    scan = _simulate(case, size, coils, threads, folder)
    ours, command = _our_job(case, scan), _bart_job(case, scan)

    def bart(lam: float) -> np.ndarray:
        return _bart(scan, command(lam), None if case == "espirit" else "x")

    has_bart = shutil.which("bart") is not None
    if has_bart:
        write_kspace(folder / "k.cfl", scan.kspace[None])
        _bart(scan, _ECALIB)
    lam, bart_lam = 0.0, 0.0
    if case != "espirit":
        progress(f"{case}: sweep over λ")
        lam = min(_SWEEP, key=lambda value: scan.error(ours(value)))
        bart_lam = min(_SWEEP, key=lambda value: scan.error(bart(value))) if has_bart else 0.0
    ours(lam)  # one round to warm up
    pairs: list[tuple[float, float]] = []
    for number in range(rounds):
        progress(f"{case}: round {number + 1} of {rounds}")
        start = time.perf_counter()
        image = ours(lam)
        middle = time.perf_counter()
        other = bart(bart_lam) if has_bart else None
        pairs.append((middle - start, time.perf_counter() - middle))
    return Timing(
        case=case,
        ours_s=statistics.median(a for a, _ in pairs),
        bart_s=statistics.median(b for _, b in pairs) if has_bart else None,
        ratio=statistics.median(b / a for a, b in pairs) if has_bart else None,
        ours_error=None if case == "espirit" else scan.error(image),
        bart_error=None if case == "espirit" or other is None else scan.error(other),
        ours_mib=_our_memory(scan, case, lam),
        bart_mib=_bart_memory(scan, command(bart_lam)) if has_bart else None,
        settings=f"ours λ = {lam:g}; bart {command(bart_lam)}",
    )


def _our_job(
    case: Case, scan: _Scan, maps: ItemMaps | None = None, *, once: bool = False
) -> Callable[[float], np.ndarray]:
    """Return our job as a function of λ, with given or estimated maps; with ``once``, it may overwrite k-space."""
    if case == "espirit":
        return lambda _: scan.maps().cropped().numpy()
    built = build_problem(scan.kspace, scan.mask, maps or scan.maps(), "weighted")
    method = "cs-tv" if case == "tv" else "cs"

    def job(lam: float) -> np.ndarray:
        with torch.inference_mode():
            image = built.transform.undo(build(method, {"lam": lam}).run(built.problem, consume=once).image)
        return np.asarray(image[0, 0].numpy())

    return job


def _bart_job(case: Case, scan: _Scan) -> Callable[[float], str]:
    """Return BART's job as a function of λ."""
    if case == "espirit":
        return lambda _: _ECALIB
    term, steps = ("T", 100) if case == "tv" else ("W", 60)
    return lambda lam: f"pics -S -i {steps} -R {term}:3:0:{lam} k s x"


def _simulate(case: Case, size: int, coils: int, threads: int, folder: Path) -> _Scan:
    simulated = simulate_kspace(phantom((size, size), 1, 1), coils, 30.0, 1)
    if case == "wavelet2d":
        mask = make_mask("poisson", (size, size), 8, calibration=24, seed=1).mask
    else:
        mask = make_mask("equispaced", (size, size), 4, calibration=24, seed=1).mask
    kspace = np.ascontiguousarray(simulated.kspace[0] * mask, dtype=np.complex64)
    # With maps normalized over the coils, the image contains the length of the true maps.
    truth = np.abs(simulated.image).reshape(size, size) * np.linalg.norm(
        simulated.maps.reshape(coils, size, size), axis=0
    )
    return _Scan(kspace, mask, truth, threads, folder)


def _bart(scan: _Scan, command: str, result: str | None = None) -> np.ndarray:
    environment = {**os.environ, "OMP_NUM_THREADS": str(scan.threads)}
    subprocess.run(["bart", *command.split()], cwd=scan.folder, env=environment, check=True, capture_output=True)
    return np.empty(0) if result is None else read_image(scan.folder / f"{result}.cfl")[0]


# A child inherits its parent's peak memory across exec, so a small separate process starts and measures BART.
_CHILD_PEAK = (
    "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
)
_OUR_PEAK = "import sys; from mrirecon.tools.benchmark import print_memory; print_memory(*sys.argv[1:])"


def _bart_memory(scan: _Scan, command: str) -> float:
    """Return BART's peak memory in MiB including data, minus that of an empty job, from the kernel's statistics."""
    idle = _run_child(scan, ["-c", _CHILD_PEAK, "bart", "ones", "2", "8", "8", "none"])
    return (_run_child(scan, ["-c", _CHILD_PEAK, "bart", *command.split()]) - idle) / 1024


def _our_memory(scan: _Scan, case: Case, lam: float) -> float:
    """Return our peak memory in MiB including data, minus that of the idle program, in a separate process."""
    maps = scan.maps()
    assert maps.values is not None
    stored = {"maps": maps.maps.numpy(), "values": maps.values.numpy(), "mask": scan.mask}
    np.savez(scan.folder / "scan.npz", allow_pickle=False, kspace=scan.kspace, **stored)
    return _run_child(scan, ["-c", _OUR_PEAK, case, str(lam), str(scan.threads), str(scan.folder)]) / 1024


def _run_child(scan: _Scan, arguments: list[str]) -> float:
    environment = {**os.environ, "OMP_NUM_THREADS": str(scan.threads)}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=scan.folder, env=environment, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def print_memory(case: Case, lam: str, threads: str, folder: str) -> None:
    """Print the increase of this process's peak memory by one job and its data in KiB, for `run`."""
    torch.set_num_threads(int(threads))
    # A small job first, because libraries loaded on first use do not count, as for BART.
    small = _simulate(case, 128, 4, int(threads), Path(folder))
    _our_job(case, small)(float(lam))
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    with np.load(Path(folder) / "scan.npz") as stored:
        scan = _Scan(stored["kspace"], stored["mask"], np.empty(0), int(threads), Path(folder))
        maps = ItemMaps(torch.from_numpy(stored["maps"]), "file", values=torch.from_numpy(stored["values"]))
    # As in `mrirecon.reconstruction.run`: the problem has its own maps, and k-space is used for this job only.
    job = _our_job(case, scan, maps, once=True)
    del maps
    job(float(lam))
    print(_status("VmHWM") - before)


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    raise UsageError("memory cannot be measured here", why=f"/proc/self/status has no {name}", fix="run on Linux")
