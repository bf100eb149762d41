"""The `Request` says what the user asks for, the `Plan` what is done: decided once, and read by all later steps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from mrirecon import __version__
from mrirecon.coils.registry import Calibration
from mrirecon.engine import Precision
from mrirecon.errors import UsageError
from mrirecon.io.safe.atomic import sha256
from mrirecon.io.sampling import format_items
from mrirecon.io.scan import Nan
from mrirecon.io.writers.write import ImageFormat, image_format, require
from mrirecon.methods.registry import Method, find_method, resolve
from mrirecon.models.checkpoints import TrainedModel, compute_seal, describe_model, load_model, shipped_models
from mrirecon.models.hardware import PrecisionChoice, pick_device
from mrirecon.reconstruction.calibrate import EspiritOptions, MapsSource
from mrirecon.reconstruction.preprocess.prepare import Preprocess
from mrirecon.reconstruction.slices import HybridSlices, Slicing


@dataclass(frozen=True)
class Request:
    """What the user asks for: how scans are to be reconstructed.

    Attributes:
        method: ``auto``, or a registered method.
        maps: where coil maps come from; ``maps_file`` names a file to take them from.
        maps_file: file with coil maps.
        espirit: how maps are estimated.
        preprocess: steps before the reconstruction, and on its images; by default none but for loud coils.
        mask: file with a sampling mask; undersamples fully sampled data.
        axes: names of the stored axes, where the file leaves them open.
        dataset: name of the k-space array, where the file leaves it open.
        items: which items, such as "3-17"; None for all.
        nan: ``zero`` treats samples that are NaN or infinite as not measured.
        strict: refuse defects that are otherwise only noted, see `mrirecon.io.read`.
        manifest: list of checksums that the file must match, see `mrirecon.io.safe.manifest`.
        isolate: read the file first in a process that may crash, see `mrirecon.io.safe.probe`.
        lam: regularization weight relative to the scale of the data; ``auto`` and None let it follow the mask and the
            measured noise (`mrirecon.methods.regularization.weight_by_noise`).
        device: where to compute: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, …
        precision: what a model's networks compute in; ``auto`` takes bfloat16 where it is faster, see
            `mrirecon.models.hardware`. Methods without networks compute in float32.
        format: ``h5`` (magnitude and complex), ``npz``, ``cfl``, ``nii``, ``dicom`` (a folder), ``png``; by default by
            the name of the output.
        seed: of random draws.
        batch: items that a model takes at a time; halved where memory does not suffice.
        options: further options of the method.
        model: a trained model or its folder, in place of a method; a learned method without one takes the model that
            comes with mrirecon.
        strict_model: refuse data that the model was not trained for, instead of noting it.
        save_iterates: also write the image after every step, as NAME_iterates.h5 with items and steps in turn.
        reference: image file or fully sampled k-space to score against.
        bids: folder of a BIDS derivative dataset, in place of an output: NIfTI, named as `mrirecon.io.writers.bids`
            says.
        contrast: BIDS's word for the contrast, such as T1w, where the scan does not tell.

    Raises:
        UsageError: a model together with a method or options of one.

    """

    method: str = "auto"
    maps: MapsSource = "auto"
    maps_file: str | Path | None = None
    espirit: EspiritOptions | None = None
    preprocess: Preprocess = field(default_factory=Preprocess)
    mask: str | Path | None = None
    axes: str | None = None
    dataset: str | None = None
    items: str | None = None
    nan: Nan = "refuse"
    strict: bool = False
    manifest: str | Path | None = None
    isolate: bool = False
    lam: float | Literal["auto"] | None = None
    device: str = "auto"
    precision: PrecisionChoice = "float32"
    format: ImageFormat | None = None
    seed: int = 0
    batch: int = 1
    options: Mapping[str, object] | None = None
    model: TrainedModel | str | Path | None = None
    strict_model: bool = False
    save_iterates: bool = False
    reference: str | Path | None = None
    bids: str | Path | None = None
    contrast: str | None = None
    _loaded: dict[str, TrainedModel] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.model is not None and (self.method != "auto" or self.options):
            raise UsageError("a model brings its own method and options", fix="leave --method and --set out")
        if self.bids is not None and self.format not in (None, "nii"):
            raise UsageError("a BIDS dataset holds NIfTI", fix="leave --format out")
        if self.maps_file is not None:
            object.__setattr__(self, "maps", "file")

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Request:
        """Return the request for options by name; it leaves out values of None and names of no field."""
        names = {f.name for f in fields(cls) if f.init}
        return cls(**{name: value for name, value in options.items() if name in names and value is not None})

    def load(self, model: TrainedModel | str | Path) -> TrainedModel:
        """Return the model of a folder, loaded once for all files; or the model itself."""
        if isinstance(model, TrainedModel):
            return model
        if str(model) not in self._loaded:
            self._loaded[str(model)] = load_model(model)
        return self._loaded[str(model)]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything besides the input that the images depend on: options, other files, models, version.

        The device and the batch are left out, because they change no more than rounding. ``strict`` and the list of
        checksums are included: a result made without them does not count as finished where they are asked for.
        """
        names = ("mask", "maps_file", "reference", "manifest")
        files: dict[str, str | Path | None] = {name: getattr(self, name) for name in names}
        folders: list[str | Path] = []
        if self.model is not None:
            folders = [self.model.folder if isinstance(self.model, TrainedModel) else self.model]
        elif self.method == "auto" or self.method in shipped_models():
            folders = list(shipped_models().values())
        content = {
            "mrirecon": __version__,
            **{name: getattr(self, name) for name in ("method", "maps", "axes", "dataset", "lam", "format", "seed")},
            **({} if self.precision == "float32" else {"precision": self.precision}),
            "nan": self.nan,
            "items": self.items,
            "strict": self.strict,
            "options": dict(self.options or {}),
            "espirit": asdict(self.espirit or EspiritOptions()),
            "preprocess": asdict(self.preprocess),
            "save_iterates": self.save_iterates,
            "bids": None if self.bids is None else [str(self.bids), self.contrast],
            **{name: None if path is None else sha256(path) for name, path in files.items()},
            "models": [compute_seal(describe_model(folder)) for folder in folders],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()

    def check(self) -> None:
        """Check options, models and other files before the first of many inputs is read.

        Raises:
            MriReconError: the error that `mrirecon.reconstruction.run.reconstruct` would raise for every input.

        """
        if self.model is not None:
            self.load(self.model)
        elif self.method != "auto":
            given = isinstance(self.lam, float) and find_method(self.method).has_weight
            resolve(self.method, {**(self.options or {}), **({"lam": self.lam} if given else {})})
        pick_device(self.device)
        if self.format is not None or self.bids is not None:
            require(image_format("", self.format or "nii"))
        assert self.digest, "computed here because it reads the other files"


@dataclass(frozen=True)
class PlanGroup:
    """Items that are reconstructed alike.

    Attributes:
        items: of the scan.
        reason: why by this method, in words.
        entry: the method.
        model: its weights, where it is learned.
        settings: options of the method, completed by what follows from the scan; ``lam`` only where it does not follow
            the noise of each item.
        calibration: where its coil maps come from; None where it takes none from here.
        espirit: how maps are estimated, and in how many sets.

    """

    items: tuple[int, ...]
    reason: str
    entry: Method
    model: TrainedModel | None = field(repr=False)
    settings: Mapping[str, object]
    calibration: Calibration | None
    espirit: EspiritOptions

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.entry.name


@dataclass(frozen=True)
class Plan:
    """Everything that is decided before the items of a scan are reconstructed, by `mrirecon.reconstruction.choose`.

    Attributes:
        groups: which items are reconstructed by which method, the most frequent method first.
        slicing: how volumes are solved slice by slice; None where every item is solved as a whole.
        device: where to compute.
        precision: what networks compute in.
        notes: what the user should know of these decisions.
        precision_note: why networks compute in that, where it was asked.
        outside: what of the scan the model was not trained for, one note a group of items.
        first_volume: the first of the volumes that are solved slice by slice, which was read to decide.

    """

    groups: tuple[PlanGroup, ...]
    slicing: Slicing | None
    device: torch.device
    precision: Precision
    notes: tuple[str, ...] = ()
    precision_note: str | None = None
    outside: tuple[str, ...] = ()
    first_volume: HybridSlices | None = field(default=None, repr=False)

    @property
    def method(self) -> str:
        """The method of most items; of those that undo undersampling, if any do."""
        return self.groups[0].method

    @property
    def model(self) -> TrainedModel | None:
        """The model of that method."""
        return self.groups[0].model

    @property
    def reason(self) -> str:
        """Why the methods were chosen: one reason for all items, or which items have which."""
        if len(self.groups) == 1:
            return self.groups[0].reason
        return "; ".join(f"{format_items(g.items)} by {g.method}: {g.reason}" for g in self.groups)
