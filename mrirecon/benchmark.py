"""Time and memory against BART, paired: both do the same job in turn, round by round, in one run.

The scan is simulated (a phantom, loop coils, correlated noise), so that errors are known. Every regularized method is
first swept over λ, and timed at its own best: speed counts only at equal or lower error.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from mrirecon.calibrate import ItemMaps
from mrirecon.coils.calibration import find_calibration
from mrirecon.coils.espirit import espirit
from mrirecon.data.phantom import phantom
from mrirecon.data.simulate import simulate_kspace
from mrirecon.errors import UsageError
from mrirecon.inference import pose
from mrirecon.masks import make_mask
from mrirecon.registry import build

Case = Literal["espirit", "wavelet", "wavelet2d", "tv"]
CASES: tuple[Case, ...] = ("espirit", "wavelet", "wavelet2d", "tv")
_SWEEP = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016)


@dataclass(frozen=True)
class Timing:
    """One job, ours and BART's: medians over the rounds, and the median of the ratios round by round.

    Attributes:
        case: name of the job.
        ours_s: seconds.
        bart_s: seconds, the process with its files included; None without BART.
        ratio: BART's time over ours.
        ours_error: NRMSE inside the object, at our best λ; None for maps.
        bart_error: at BART's best λ.
        ours_mib: peak memory above what the imports and the data take.
        bart_mib: peak memory of its process.
        settings: what was run, with λ.

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
        return find_calibration(self.mask, 24)

    def maps(self) -> ItemMaps:
        region = torch.from_numpy(np.ascontiguousarray(self.kspace[(slice(None), *self.box)]))[None]
        found = espirit(region, self.mask.shape, crop=0)
        return ItemMaps(found.maps, "ESPIRiT", values=found.values)

    def error(self, image: np.ndarray) -> float:
        """NRMSE inside the object, after one least-squares scale."""
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
        cases: which jobs.
        size: matrix size of the square image.
        coils: number of coils.
        rounds: timed repetitions of each pair.
        threads: for both.
        progress: told what is being done.

    Raises:
        UsageError: an unknown case.

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
    has_bart = shutil.which("bart") is not None
    if has_bart:
        _write_cfl(folder / "k", np.moveaxis(scan.kspace, 0, -1)[:, :, None, :])
        _bart(scan, "ecalib -m 1 -r 24 k s")
    ours, theirs, settings = _best(case, scan, has_bart, progress)
    ours()  # one round that does not count
    if has_bart:
        theirs()
    pairs: list[tuple[float, float]] = []
    for number in range(rounds):
        progress(f"{case}: round {number + 1} of {rounds}")
        start = time.perf_counter()
        image = ours()
        middle = time.perf_counter()
        other = theirs() if has_bart else None
        pairs.append((middle - start, time.perf_counter() - middle))
    return Timing(
        case=case,
        ours_s=statistics.median(a for a, _ in pairs),
        bart_s=statistics.median(b for _, b in pairs) if has_bart else None,
        ratio=statistics.median(b / a for a, b in pairs) if has_bart else None,
        ours_error=None if case == "espirit" else scan.error(image),
        bart_error=None if case == "espirit" or other is None else scan.error(other),
        ours_mib=_our_memory(ours),
        bart_mib=_bart_memory(scan, settings[1]) if has_bart else None,
        settings=f"ours {settings[0]}; bart {settings[1]}",
    )


def _best(
    case: Case, scan: _Scan, has_bart: bool, progress: Callable[[str], None]
) -> tuple[Callable[[], np.ndarray], Callable[[], np.ndarray], tuple[str, str]]:
    """Return our job and BART's, each at its best λ, and what they are."""
    if case == "espirit":
        ecalib = "ecalib -m 1 -r 24 k s"
        return lambda: scan.maps().cropped().numpy(), lambda: _bart(scan, ecalib, "s"), ("espirit", ecalib)
    maps = scan.maps()
    problem, prior = pose(scan.kspace, scan.mask, maps, weighted=True)
    method, term, steps = ("cs-tv", "T", 100) if case == "tv" else ("cs", "W", 60)

    def ours(lam: float) -> np.ndarray:
        with torch.inference_mode():
            image = build(method, {"lam": lam}).run(problem).image * prior
        return np.asarray(image[0, 0].numpy())

    def command(lam: float) -> str:
        return f"pics -S -i {steps} -R {term}:3:0:{lam} k s x"

    progress(f"{case}: sweep over λ")
    best = min(_SWEEP, key=lambda lam: scan.error(ours(lam)))
    other = min(_SWEEP, key=lambda lam: scan.error(_bart(scan, command(lam), "x"))) if has_bart else 0.0
    return (
        lambda: ours(best),
        lambda: _bart(scan, command(other), "x"),
        (f"{method} λ = {best:g}", command(other)),
    )


def _simulate(case: Case, size: int, coils: int, threads: int, folder: Path) -> _Scan:
    made = simulate_kspace(phantom((size, size), 1, 1), coils, 30.0, 1)
    if case == "wavelet2d":
        mask = make_mask("poisson", (size, size), 8, calibration=24, seed=1).mask
    else:
        mask = make_mask("equispaced", (size, size), 4, calibration=24, seed=1).mask
    kspace = np.ascontiguousarray(made.kspace[0] * mask, dtype=np.complex64)
    # Maps of unit length over the coils put the true ones' length into the image.
    truth = np.abs(made.image).reshape(size, size) * np.linalg.norm(made.maps.reshape(coils, size, size), axis=0)
    return _Scan(kspace, mask, truth, threads, folder)


def _bart(scan: _Scan, command: str, result: str | None = None) -> np.ndarray:
    environment = {**os.environ, "OMP_NUM_THREADS": str(scan.threads)}
    subprocess.run(["bart", *command.split()], cwd=scan.folder, env=environment, check=True, capture_output=True)
    return np.empty(0) if result is None else _read_cfl(scan.folder / result)


def _bart_memory(scan: _Scan, command: str) -> float:
    """Peak resident memory of BART's process in MiB, by the kernel's account of a child of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_child_peak, (["bart", *command.split()], str(scan.folder), scan.threads))


def _child_peak(command: list[str], folder: str, threads: int) -> float:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def _our_memory(job: Callable[[], object]) -> float:
    """Peak resident memory in MiB above the level before the job, in a fork of this process."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        # Threads do not survive a fork: one thread, and the allocator's own memory, are what is measured.
        torch.set_num_threads(1)
        Path("/proc/self/clear_refs").write_text("5")
        before = _resident()
        job()
        os.write(writer, str(_peak() - before).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return float(text) / 1024


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    raise UsageError("memory cannot be measured here", why=f"/proc/self/status has no {name}", fix="run on Linux")


def _resident() -> int:
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _write_cfl(path: Path, array: np.ndarray) -> None:
    dims = [*array.shape, *[1] * (16 - array.ndim)]
    path.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, dims)) + "\n")
    array.astype(np.complex64).ravel(order="F").tofile(path.with_suffix(".cfl"))


def _read_cfl(path: Path) -> np.ndarray:
    dims = [int(d) for d in path.with_suffix(".hdr").read_text().splitlines()[1].split()]
    return np.fromfile(path.with_suffix(".cfl"), dtype=np.complex64).reshape(dims, order="F").squeeze()
