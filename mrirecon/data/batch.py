"""Hold training problems with their references (`Batch`), and pack them for the buffer or a file."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from mrirecon.errors import InputError
from mrirecon.io.safe.atomic import atomic_path
from mrirecon.io.safe.text import parse_json
from mrirecon.physics.nonuniform import NonUniformFourier, NonUniformProblem
from mrirecon.physics.problem import Problem

Packed = dict[str, Tensor]
_PROBLEM = ("y", "mask", "maps", "initial_image", "noise", "trajectory", "density")
_REFERENCES = ("target", "kspace", "loss_mask", "lesions")


@dataclass(frozen=True)
class Batch:
    """Hold problems of one size and the references of their solutions.

    Attributes:
        problem: y = M F S x + n.
        target: (B, 1, y, x), complex: coil images combined with the problem's maps; or real: their root sum of squares
            if no maps are used. None for scans that were not fully sampled.
        kspace: (B, C, y, x), reference k-space, full or as acquired; None unless requested.
        loss_mask: (B, 1, y, x), 1 for the samples of ``kspace`` that the loss compares.
        lesions: (B, 1, y, x) uint8, labels of the inserted lesions; None for measured scans.
        names: file, slice and number of each sample.
        info: mask, acceleration, coils and SNR of each sample.

    """

    problem: Problem
    target: Tensor | None
    kspace: Tensor | None
    loss_mask: Tensor | None
    lesions: Tensor | None
    names: list[str]
    info: list[dict[str, object]]

    def __len__(self) -> int:
        return len(self.names)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of the problem and the references by name, without None."""
        named = {name: getattr(self.problem, name, None) for name in _PROBLEM}
        named |= {name: getattr(self, name) for name in _REFERENCES}
        return {name: value for name, value in named.items() if value is not None}

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on another device."""
        references = {name: v.to(device) for name in _REFERENCES if (v := getattr(self, name)) is not None}
        return replace(self, problem=self.problem.to(device), **references)


def from_tensors(tensors: Mapping[str, Tensor], names: list[str], info: list[dict[str, object]]) -> Batch:
    """Create a batch from named tensors; see `Batch.tensors`.

    Raises:
        KeyError, InputError: the tensors do not belong together.

    """
    y, mask, maps = tensors["y"], tensors["mask"], tensors["maps"]
    initial, noise = tensors.get("initial_image"), tensors.get("noise")
    if "trajectory" in tensors:
        fourier = NonUniformFourier(tensors["trajectory"], tuple(maps.shape[3:]))
        density = tensors["density"]
        problem: Problem = NonUniformProblem(y, mask, maps, initial, noise, fourier=fourier, density=density)
    else:
        problem = Problem(y, mask, maps, initial, noise)
    target, kspace, loss_mask, lesions = (tensors.get(name) for name in _REFERENCES)
    return Batch(problem, target, kspace, loss_mask, lesions, names, info)


def part_of(batch: Batch, which: slice) -> Batch:
    """Return a part of a batch: the samples with these indices."""
    if range(len(batch))[which] == range(len(batch)):
        return batch
    tensors = {name: value[which] for name, value in batch.tensors().items()}
    return from_tensors(tensors, batch.names[which], batch.info[which])


def stack(samples: Sequence[Batch]) -> Batch:
    """Stack samples of one size into a batch; omit tensors that some samples lack.

    Raises:
        InputError: the sizes differ.

    """
    if len(samples) == 1:
        return samples[0]
    require_one_size([tuple(s.problem.maps.shape[2:]) for s in samples])
    parts = [s.tensors() for s in samples]
    tensors = {name: torch.cat([p[name] for p in parts]) for name in parts[0] if all(name in p for p in parts)}
    return from_tensors(tensors, [n for s in samples for n in s.names], [i for s in samples for i in s.info])


def require_one_size(shapes: Sequence[tuple[int, ...]]) -> None:
    """Raise an error if samples cannot be stacked.

    Raises:
        InputError: the sizes (C, y, x) differ.

    """
    if len(set(shapes)) > 1:
        raise InputError(
            "samples of different sizes cannot share a batch",
            why=", ".join("×".join(map(str, s)) for s in sorted(set(shapes))),
            fix="set data.crop, or train.batch to 1",
        )


def pack(batch: Batch) -> Packed:
    """Return a batch as named tensors of a third of the size: sampled k-space only, coil maps in half precision."""
    tensors = batch.tensors()
    sampled = tensors["mask"][:, 0] > 0
    tensors["mask"] = sampled
    tensors["y"] = tensors["y"].movedim(1, -1)[sampled]
    tensors["maps"] = torch.view_as_real(tensors["maps"]).half()
    text = json.dumps({"names": batch.names, "info": batch.info}).encode()
    packed = {name: value.contiguous() for name, value in tensors.items()}
    return packed | {"text": torch.frombuffer(bytearray(text), dtype=torch.uint8)}


def unpack(packed: Packed) -> Batch:
    """Restore a packed batch on the device of its tensors.

    Raises:
        KeyError, RuntimeError, ValueError, InputError: the parts do not belong together.

    """
    text = parse_json(bytes(packed["text"].cpu().numpy().tobytes()))
    sampled = packed["mask"]
    y = packed["y"].new_zeros(*sampled.shape, packed["y"].shape[1])
    y[sampled] = packed["y"]
    tensors = packed | {
        "y": y.movedim(-1, 1).contiguous(),
        "mask": sampled[:, None].to(y.real.dtype),
        "maps": torch.view_as_complex(packed["maps"].float()),
    }
    return from_tensors(tensors, text["names"], text["info"])


def write_packed(path: Path, packed: Packed) -> None:
    """Write a batch atomically."""
    with atomic_path(path) as temporary:
        torch.save({name: value.cpu() for name, value in packed.items()}, temporary)


def read_packed(path: Path) -> Batch | None:
    """Read the batch of a file; return None if the file is missing or unreadable."""
    try:
        return unpack(torch.load(io.BytesIO(path.read_bytes()), weights_only=True))
    except (OSError, EOFError, KeyError, RuntimeError, ValueError, TypeError, pickle.UnpicklingError, InputError):
        return None
