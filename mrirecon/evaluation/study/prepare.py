"""What all cells of a study share: scans, their references and masks, and the models that are trained for it.

Everything is made once, kept beside a note of what it was made from, and made again only if that changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mrirecon import training
from mrirecon.data.scan import simulate_scan
from mrirecon.evaluation import reference_images
from mrirecon.evaluation.study.parts import PlannedMask, PlannedMethod, PlannedScan, digest
from mrirecon.evaluation.study.plan import draw
from mrirecon.io import atomic_path, read, write_image, write_json
from mrirecon.io.safe.text import parse_json
from mrirecon.masks import mask_bytes, seed_from
from mrirecon.metrics.presets import Preset
from mrirecon.training.config import Config

Tell = Callable[[str], None]
DONE, BUDGET = "study.json", "budget.json"


def prepare_scan(scan: PlannedScan, out: Path, seed: int, preset: Preset) -> tuple[Path, Path]:
    """Return the file of a scan and that of its reference, as the preset has it, made where they are not.

    That is the SENSE combination of all samples (`sense_reference`); for the preset ``fastmri``, the target that a file
    of fastMRI holds.

    Raises:
        MriReconError: a scan that cannot be read, or is not fully sampled.

    """
    path = Path(scan.source)
    if scan.simulated:
        path = out / "scans" / f"{scan.name}.h5"
        if not path.is_file() or noted(_note(path)).get("key") != scan.key:
            volume, _, name = scan.source.partition("#")
            s = scan.setting
            # a kill must not leave the old note beside a new file
            _note(path).unlink(missing_ok=True)
            simulate_scan(
                volume, path, volume=name or None, slices=None if s.slices is None else (s.slices[0], s.slices[1]),
                coils=s.coils, snr=s.snr, resolution=s.resolution, seed=seed_from(seed, scan.name),
            )  # fmt: skip
            write_json(_note(path), {"key": scan.key})
    reference = out / "references" / f"{scan.name}.h5"
    key = digest([scan.key, preset]) if preset == "fastmri" else scan.key
    if not reference.is_file() or noted(_note(reference)).get("key") != key:
        _note(reference).unlink(missing_ok=True)
        images, kind = reference_images(path, axes=scan.setting.axes, preset=preset)
        write_image(reference, images, sidecar={"input": scan.source, "reference": kind}, inputs=[path])
        write_json(_note(reference), {"key": key})
    return path, reference


def prepare_mask(mask: PlannedMask, scan: PlannedScan, path: Path, out: Path, seed: int) -> tuple[Path, dict[str, Any]]:
    """Return the file of a scan's mask, which is the same for all methods, and what it is.

    Raises:
        UsageError: the numbers do not go with the scan's size.

    """
    shape = read(path, axes=scan.setting.axes).space_shape
    drawn = draw(mask, shape, scan.name, seed)
    file = out / "masks" / mask.name / f"{scan.name}.npy"
    content = mask_bytes(drawn, ".npy")
    if not file.is_file() or file.read_bytes() != content:
        with atomic_path(file) as temporary:
            temporary.write_bytes(content)
    return file, drawn.as_dict()


def prepare_model(
    method: PlannedMethod, out: Path, *, device: str = "auto", tell: Tell, progress: training.Progress | None = None
) -> dict[str, Any]:
    """Train a method where that is not done, or go on where it was stopped; return its folder, steps and scores.

    Raises:
        MriReconError: see `mrirecon.training.train`.
        Stopped: by a signal, after the step was saved.

    """
    assert method.config is not None, "it is to be trained"
    folder = out / "models" / method.folder
    done = noted(folder / DONE)
    if done.get("key") == method.key and (folder / "best").is_dir():
        return done
    config = method.config if method.minutes is None else _within(method.config, method.minutes, folder, device, tell)
    tell(f"trains {method.name}: {config.settings.method}, {_length(config)}")
    start = time.perf_counter()
    found = training.train(config, folder, device=device, progress=progress, tell=lambda t: tell(f"  {t}"))
    told = {
        "key": method.key,
        "model": str(folder / "best"),
        "steps": found["steps"],
        "validation": found["scores"],
        "seconds": found.get("seconds", time.perf_counter() - start),
    }
    write_json(folder / DONE, told)
    return told


def _within(config: Config, minutes: float, folder: Path, device: str, tell: Tell) -> Config:
    """Return the configuration with as many steps as fit into the time; found once, so that a resumed run keeps them.

    Steps are timed, and a quarter of the time is left for validation and for writing.
    """
    steps = noted(folder / BUDGET).get("steps")
    if steps is None:
        trial = training.dry_run(config, folder, device)
        per_step = float(trial["seconds a step"])
        steps = max(1, int(60 * minutes / per_step * 0.75))
        tell(f"{steps} steps of {per_step:.2f} s fit into {minutes:g} minutes, validation included")
        write_json(folder / BUDGET, {"steps": steps, "seconds a step": per_step, "minutes": minutes})
    settings = config.settings
    train = settings.train.model_copy(update={"steps": int(steps), "epochs": None})
    return Config(settings.model_copy(update={"train": train}), config.origins, config.path)


def _length(config: Config) -> str:
    train = config.settings.train
    return f"{train.steps} steps" if train.steps is not None else f"{train.epochs} epochs"


def noted(path: Path) -> dict[str, Any]:
    """Return the content of a note; nothing if there is none, or a kill left half of something else's."""
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _note(path: Path) -> Path:
    return path.with_name(f".{path.name}.key")
