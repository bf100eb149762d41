"""Compare CPU time, peak memory and error of radial reconstructions with BART and sigpy, at the same objective.

    python scripts/compare_trajectories.py [--size 256] [--readouts 48] [--coils 8]

A phantom is sampled along golden-angle readouts. All solve l2-regularized SENSE without density weights (BART:
`pics -l2 -t`, sigpy: `SenseRecon`), and total variation (BART: `pics -R T -t`), to the same difference from a long run
of BART. The CPU time includes the setup: Toeplitz kernel or point spread function.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from mrirecon.data.along import sample_along
from mrirecon.data.phantom import phantom
from mrirecon.data.simulate import add_noise, coil_maps, simulate_kspace
from mrirecon.masks.trajectories import make_trajectory
from mrirecon.methods.registry import build
from mrirecon.physics.fourier import to_image
from mrirecon.physics.nonuniform import NonUniformFourier, NonUniformProblem


def bart(folder: Path, command: str, threads: int) -> tuple[np.ndarray, float, float]:
    """Run a command of BART; return its array `out`, its CPU seconds, and the peak memory in MiB."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    child = subprocess.Popen(["bart", *command.split()], cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    _, _, usage = os.wait4(child.pid, 0)
    seconds = usage.ru_utime + usage.ru_stime
    dims = [int(n) for n in (folder / "out.hdr").read_text().splitlines()[1].split()]
    out = np.fromfile(folder / "out.cfl", np.complex64).reshape(dims, order="F")
    return out.squeeze(), seconds, usage.ru_maxrss / 1024


def write(folder: Path, name: str, array: np.ndarray) -> None:
    """Write an array for BART."""
    dims = " ".join(map(str, [*array.shape, *[1] * (16 - array.ndim)]))
    (folder / f"{name}.hdr").write_text(f"# Dimensions\n{dims}\n")
    array.astype(np.complex64).ravel(order="F").tofile(folder / f"{name}.cfl")


def error(image: np.ndarray, truth: np.ndarray) -> float:
    """Return the normalized root mean squared error."""
    return float(np.linalg.norm(image - truth) / np.linalg.norm(truth))


def main() -> None:
    """Print one row for each program and objective."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--readouts", type=int, default=48)
    parser.add_argument("--coils", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    n = arguments.size
    scene = simulate_kspace(phantom((n, n), 1, 1), arguments.coils, 1e6, 1)
    images = to_image(scene.kspace[0], (-2, -1))
    maps = coil_maps((n, n), arguments.coils, 1).astype(np.complex64)
    maps /= np.sqrt((np.abs(maps) ** 2).sum(0)).max()
    images = images / np.abs(images).max()
    points = make_trajectory("golden", (n, n), arguments.readouts)
    covariance = 1e-4 * np.eye(arguments.coils)
    kspace = add_noise(sample_along(images, points), covariance.astype(np.complex128), 1).astype(np.complex64)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        points_3d = np.concatenate([points, np.zeros((*points.shape[:2], 1))], -1)
        write(folder, "t", points_3d.transpose(2, 1, 0))
        write(folder, "k", kspace.transpose(2, 1, 0)[None])
        write(folder, "s", maps.transpose(1, 2, 0)[:, :, None])
        rows = []
        for label, options, method, lam in (("l2", "-l2", "sense", 0.5), ("TV", "-R T:3:0:0.1", "cs-tv", 0.1)):
            long, short = (200, 60) if label == "l2" else (500, 100)
            options = options + (f" -r {lam}" if label == "l2" else "")
            truth, _, _ = bart(folder, f"pics -w 1 -i {long} {options} -t t k s out", arguments.threads)
            theirs, seconds, memory = bart(folder, f"pics -w 1 -i {short} {options} -t t k s out", arguments.threads)
            rows.append((label, "BART", seconds, error(theirs, truth), memory))
            for iterations in (10, 20, 30, 60, 100, 200, 400):
                begun = time.process_time()
                fourier = NonUniformFourier(torch.from_numpy(points)[None], (n, n))
                density = torch.ones(1, 1, *points.shape[:2])  # not needed without weights
                problem = NonUniformProblem(
                    torch.from_numpy(kspace)[None],
                    torch.ones(1, 1, *points.shape[:2]),
                    torch.from_numpy(maps)[None, None],
                    fourier=fourier,
                    density=density,
                    weighting="none",
                )
                with torch.inference_mode():
                    ours = build(method, {"lam": lam, "iterations": iterations, "tolerance": 0.0}).engine(problem)
                seconds = time.process_time() - begun
                reached = error(ours[0, 0].numpy(), truth)
                if reached <= max(rows[-1][3], 0.005) or iterations == 400:
                    break
            after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            rows.append((label, f"mrirecon, {iterations} iterations", seconds, reached, after - before))
        import sigpy.mri.app

        begun = time.process_time()
        app = sigpy.mri.app.SenseRecon(kspace, maps, lamda=0.5, coord=points, max_iter=30, show_pbar=False)
        theirs = app.run()
        truth, _, _ = bart(folder, "pics -w 1 -i 200 -l2 -r 0.5 -t t k s out", arguments.threads)
        rows.append(("l2", "sigpy, 30 iterations", time.process_time() - begun, error(theirs, truth), float("nan")))
    readouts, samples = points.shape[:2]
    print(f"{n}x{n}, {arguments.coils} coils, {readouts} readouts of {samples} samples, {arguments.threads} threads")
    for row in rows:
        print("{:4s} {:28s} {:7.2f} s   difference {:.4f}   {:6.0f} MiB".format(*row))


if __name__ == "__main__":
    main()
