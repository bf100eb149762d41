"""Items that are made once and read again: coil maps and a first image cost more than a step of a small network."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mrirecon.data.batch import Batch
from mrirecon.errors import InputError, UsageError
from mrirecon.io import atomic_path
from mrirecon.problem import Problem
from mrirecon.text import parse_json


def folder_of(bank: str) -> Path:
    """Return the folder that a configuration names, $VARIABLES replaced.

    Raises:
        UsageError: one of them is not set.

    """
    found = os.path.expandvars(bank)
    if "$" in found:
        raise UsageError(f"data.bank is {bank!r}, and there is no such variable", fix="set it, or name a folder")
    return Path(found)


def kept(path: Path, make: Callable[[], Batch]) -> Batch:
    """Return the item that is kept in a file, which is made if there is none, or none that can be read.

    Samples, reference and first image are kept as they are, coil maps and their prior in half precision. What was made
    just now is read again, too: an item is the same whether it was kept before or not.
    """
    found = _read(path)
    if found is None:
        keep(path, make())
        found = _read(path)
    assert found is not None, "it was written just now"
    return found


def keep(path: Path, item: Batch) -> None:
    """Write an item, whole or not at all."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **_packed(item))  # type: ignore[arg-type]  # named arrays


def _packed(item: Batch) -> dict[str, np.ndarray]:
    problem = item.problem
    mask = problem.mask[0, 0] > 0
    parts: dict[str, Tensor | None] = {
        "mask": mask,
        "y": problem.y[0][:, mask],
        "maps": torch.view_as_real(problem.maps).half(),
        "prior": None if problem.prior is None else problem.prior.half(),
        "start": problem.start,
        "target": item.target,
        "full": item.full,
        "held": item.held,
        "lesions": item.lesions,
    }
    told = json.dumps({"names": item.names, "about": item.about})
    return {k: v.numpy() for k, v in parts.items() if v is not None} | {"told": np.array(told)}


def _read(path: Path) -> Batch | None:
    """Return the item, or None where there is none, or what is there cannot be read."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            found = {k: file[k] for k in file.files}
        told = parse_json(str(found.pop("told")))
        stored = {k: torch.from_numpy(v) for k, v in found.items()}
        mask = stored["mask"]
        y = torch.zeros((len(stored["y"]), *mask.shape), dtype=stored["y"].dtype)
        y[:, mask] = stored["y"]
        maps = torch.view_as_complex(stored["maps"].float())
        prior = stored["prior"].float() if "prior" in stored else None
        problem = Problem(y[None], mask.to(y.real.dtype)[None, None], maps, prior, stored.get("start"))
        target, full, held, lesions = (stored.get(name) for name in ("target", "full", "held", "lesions"))
        return Batch(problem, target, full, held, lesions, told["names"], told["about"])
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, InputError):
        return None
