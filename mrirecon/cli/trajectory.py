"""Define the commands `trajectory make`, `trajectory show` and `trajectory apply`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mrirecon.cli import options as opt
from mrirecon.cli.console import print_line
from mrirecon.errors import UsageError

app = typer.Typer(name="trajectory", help="Make, show and apply non-Cartesian trajectories.", no_args_is_help=True)

Kind = Annotated[str, typer.Argument(help="{trajectories}")]
Readouts = Annotated[int, typer.Option(min=1, help="Readouts or interleaves; for a stack of stars, of each partition.")]
Samples = Annotated[int | None, typer.Option(min=2, help="Samples of a readout; by default 2-fold oversampled.")]


@app.command(cls=opt.Derived)
def make(
    kind: Kind,
    output: Annotated[Path, typer.Option("--output", "-o", help="Trajectory to write, .npz")],
    shape: Annotated[str, typer.Option(help="Size of the image, such as 256x256, or 32x128x128.")],
    readouts: Readouts,
    samples: Samples = None,
) -> None:
    """Make a trajectory in 1/FOV, and write it as `traj` (readout, sample, ndim) with its `matrix`."""
    import numpy as np

    from mrirecon.io.safe.atomic import atomic_path
    from mrirecon.masks.trajectories import make_trajectory

    if output.suffix != ".npz":
        raise UsageError("a trajectory is written as .npz", why=f"--output is {output}", fix="add .npz to its name")
    size = opt.sizes(shape, "--shape")
    points = make_trajectory(kind, size, readouts, samples)
    with atomic_path(output) as temporary, temporary.open("wb") as file:
        np.savez(file, traj=points, matrix=np.array(size))
    print_line(f"{kind}: {points.shape[0]} readouts of {points.shape[1]} samples in 1/FOV")
    typer.echo(output)


@app.command(cls=opt.Derived)
def show(
    file: Annotated[Path, typer.Argument(help="File with a trajectory: .npz, .h5, .npy or BART's.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Picture to write, .png")],
) -> None:
    """Draw a trajectory in the k-space plane of its last two components."""
    from mrirecon.evaluation.pictures import save_trajectory_picture
    from mrirecon.io.readers.reader import read_points

    points = read_points(file)
    if points.shape[-1] not in (2, 3):  # BART stores the components first
        points = points.T
    save_trajectory_picture(output, points.reshape(-1, *points.shape[-2:]))
    typer.echo(output)


@app.command(cls=opt.Derived)
def apply(
    kspace: Annotated[Path, typer.Argument(help="k-space file, Cartesian and fully sampled")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write, .h5 or .npz")],
    kind: Annotated[str, typer.Option(help="{trajectories}")] = "golden",
    readouts: Readouts = 64,
    samples: Samples = None,
    axes: opt.Axes = None,
    keep_reference: Annotated[bool, typer.Option("--keep-reference", help="Copy the file's reference image.")] = False,
) -> None:
    """Sample a fully sampled Cartesian file along a trajectory, in retrospect."""
    from mrirecon.data.along import write_along
    from mrirecon.io.readers.reader import read
    from mrirecon.masks.trajectories import make_trajectory

    scan = read(kspace, axes=axes)
    points = make_trajectory(kind, scan.space_shape, readouts, samples)
    sidecar = {"trajectory": {"kind": kind, "readouts": readouts, "samples": points.shape[1]}}
    for path in write_along(scan, output, points, keep_reference=keep_reference, sidecar=sidecar):
        typer.echo(path)
