"""Simulate a whole scan from a magnitude volume and write it, for `mrirecon simulate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from mrirecon import __version__
from mrirecon.data.along import sample_along, write_samples
from mrirecon.data.fields import generator
from mrirecon.data.scene import draw_scene
from mrirecon.data.settings import Lesions, Simulation
from mrirecon.data.simulate import add_noise, one_thread, simulate, true_maps
from mrirecon.data.volumes import PHANTOM, Volume, read_volumes
from mrirecon.errors import UsageError
from mrirecon.io.safe.atomic import sha256
from mrirecon.io.writers.write import sidecar_path, write_image, write_json, write_kspace
from mrirecon.masks.trajectories import make_trajectory
from mrirecon.physics.operators import root_sum_of_squares


def pick_volume(path: str | Path, name: str | None = None) -> Volume:
    """Return the volume of a file, selected by name if there are several.

    Raises:
        UsageError: there are several volumes and no name, or no volume has the name.

    """
    volumes = read_volumes(path)
    names = [v.name.split(":")[-1] for v in volumes]
    if name is None and len(volumes) == 1:
        return volumes[0]
    if name not in names:
        raise UsageError(
            f"{path} holds {len(volumes)} volumes" if name is None else f"{path} holds no volume {name!r}",
            why=", ".join(names[:12]),
            fix="name one with --volume",
        )
    return volumes[names.index(name)]


def simulate_scan(
    path: str | Path,
    out: str | Path,
    *,
    volume: str | None = None,
    slices: tuple[int, int] | None = None,
    coils: int = 8,
    snr: float = 30.0,
    seed: int = 0,
    lesions: int = 0,
    lesion_size: tuple[float, float] = (3.0, 10.0),
    lesion_contrast: tuple[float, float] = (0.15, 0.6),
    resolution: float = 1.0,
    bias: float = 0.0,
    phase: bool = True,
    size: tuple[int, int] | None = None,
    keep_maps: bool = False,
    trajectory: tuple[str, int] | None = None,
    command: Sequence[str] | None = None,
) -> dict[str, object]:
    """Simulate the multi-coil scan of a volume with the simulator of the training data.

    The scan is fully sampled, or sampled along a trajectory.

    Args:
        path: NIfTI, .npz, .npy or HDF5 with a magnitude volume, or ``phantom:SEED``.
        out: output file (.h5, .npz or .cfl) for k-space, with the noise-free root sum of squares as reference.
        volume: name of the volume, if the file holds several.
        slices: first and last + 1; None takes all.
        coils: number of receiver coils; they have the same position for all slices.
        snr: mean signal of the object over the noise of an average coil image.
        seed: seed of all random draws.
        lesions: number of lesions to insert into each slice; masks are written to ``NAME_lesions.npz``, descriptions to
            its sidecar.
        lesion_size: smallest and largest diameter in mm.
        lesion_contrast: lowest and highest |lesion − tissue| / tissue.
        resolution: pixel density relative to the volume's own, at most 1.
        bias: standard deviation of the logarithm of the bias field.
        phase: simulate a phase of the object.
        size: (y, x) number of samples; None keeps the size of the volume.
        keep_maps: also write the true sensitivities.
        trajectory: kind and number of readouts (`mrirecon.masks.trajectories`); None measures a full Cartesian grid.
        command: the command line, for the sidecar.

    Returns:
        Plain data: written files, shape, volume, settings, and notes.

    Raises:
        UsageError, InputError: a parameter is out of range, or a file cannot be used.

    """
    if coils < 1 or not snr > 0 or not 0 < resolution <= 1 or lesions < 0:
        raise UsageError(
            "a scan cannot be simulated with these parameters",
            why=f"coils={coils}, snr={snr}, resolution={resolution}, lesions={lesions}",
            fix="give at least 1 coil, a positive SNR, a resolution in (0, 1], and at least 0 lesions",
        )
    source = pick_volume(path, volume)
    first, last = slices or (0, len(source))
    if not 0 <= first < last <= len(source):
        raise UsageError(
            f"slices {first}:{last} do not exist", why=f"the volume has {len(source)}", fix="choose existing slices"
        )
    settings = Simulation(
        coils=[coils, coils],
        snr=[snr, snr],
        phase=[float(phase)] * 2,
        field_strength=[3.0],
        echo_time=[2.0, 5.0],
        spin_echo_share=1.0 - phase,
        fat=[0.5, 0.9],
        air=[0, 0],
        veins=[0, 4 * phase],
        fine_phase=[0.5 * phase] * 2,
        bias_field=bias,
        gamma=[1.0, 1.0],
        resolution=[resolution, resolution],
        aspect=[1.0, 1.0],
        flip=False,
        transpose=0.0,
        lesions=Lesions(count=[lesions, lesions], size=list(lesion_size), contrast=list(lesion_contrast)),
    )
    chosen = source.slices[first:last].astype(np.float32)
    level = float(chosen[chosen > 0.1 * chosen.max()].mean())
    kspace, images, maps, labels, inserted = [], [], [], [], []
    with one_thread():
        for number in range(first, last):
            scene = draw_scene(
                source,
                number,
                settings,
                generator(seed, 6),
                coils=coils,
                window=size,
                centred=True,
                number=number,
                level=level,
            )
            simulated = simulate([scene])
            if trajectory is None:
                kspace.append(simulated.kspace[0].numpy())
            else:
                points = make_trajectory(trajectory[0], tuple(simulated.clean.shape[2:]), trajectory[1])
                samples = sample_along(simulated.clean[0].numpy(), points)
                kspace.append(add_noise(samples, simulated.covariance[0].numpy(), seed + number).astype(np.complex64))
            images.append(root_sum_of_squares(simulated.clean, 1)[0].numpy())
            if keep_maps:
                maps.append(true_maps([scene]).numpy())
            labels.append(scene.labels)
            inserted.append([asdict(lesion) for lesion in scene.lesions])
    record: dict[str, object] = {
        "mrirecon": __version__,
        "simulated": True,
        "input": str(path),
        "sha256": None if str(path).split(":")[0] == PHANTOM else sha256(path),
        "volume": source.name,
        "measured share of k-space (y, x)": list(source.support),
        "coils": coils,
        "snr": snr,
        "seed": seed,
        "settings": settings.model_dump(),
        "command": list(command) if command else None,
    }
    inputs = [] if str(path).split(":")[0] == PHANTOM else [path]
    write = write_kspace
    if trajectory is not None:
        matrix = tuple(int(n) for n in images[0].shape)
        write = partial(write_samples, points=points, matrix=matrix)
        record["trajectory"] = {"kind": trajectory[0], "readouts": trajectory[1]}
    written = write(
        out,
        np.stack(kspace),
        reference=np.stack(images),
        maps=np.stack(maps) if keep_maps else None,
        attributes={"simulated": True, "source": source.name, "acquisition": "simulated"},
        sidecar=record,
        inputs=inputs,
    )
    notes = []
    if source.support != (1.0, 1.0):
        shares = " and ".join(f"{s:.0%}" for s in source.support)
        notes.append(f"the volume was interpolated: only the measured part of its k-space, {shares} (y, x), is used")
    if lesions:
        target = Path(out).with_name(Path(out).name.split(".")[0] + "_lesions.npz")
        written += write_image(target, np.stack(labels))
        write_json(
            sidecar_path(target), {"lesions": inserted, "first slice": first, "unit": "mm, pixels of the volume"}
        )
        count = sum(map(len, inserted))
        if count < lesions * len(chosen):
            notes.append(f"{count} of {lesions * len(chosen)} lesions could be placed")
    return {"outputs": [str(p) for p in written], "shape": list(np.stack(kspace).shape), "notes": notes, **record}
