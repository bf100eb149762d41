"""Define the `Request` of the user and the `Plan`, which holds all decisions and is read by all later steps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch

from mrirecon import __version__
from mrirecon.coils.registry import Calibration
from mrirecon.engine import Precision
from mrirecon.errors import UsageError
from mrirecon.io.safe.atomic import sha256
from mrirecon.io.scan import Nan
from mrirecon.io.trajectory import TrajectoryOptions
from mrirecon.io.writers.write import ImageFormat, image_format, require
from mrirecon.methods.registry import Method, find_method, resolve
from mrirecon.models.checkpoints import (
    TrainedModel,
    compute_seal,
    describe_model,
    load_model,
    shipped_models,
    with_options,
)
from mrirecon.models.hardware import PrecisionChoice, pick_device
from mrirecon.reconstruction.adaptation.settings import Adaptation
from mrirecon.reconstruction.calibrate import EspiritOptions, MapsSource
from mrirecon.reconstruction.preprocess.prepare import Preprocess
from mrirecon.reconstruction.slices import HybridSlices, Slicing


@dataclass(frozen=True)
class Request:
    """Hold the user's request: how to reconstruct scans.

    Attributes:
        method: ``auto``, or a registered method.
        maps: source of the coil maps.
        maps_file: file with coil maps.
        espirit: options for the estimate of maps.
        preprocess: steps before and after the reconstruction; by default, only loud coils are scaled.
        mask: file with a sampling mask; undersamples fully sampled data.
        axes: names of the stored axes, if the file does not state them.
        dataset: name of the k-space array, if the file does not define it.
        items: items to reconstruct, such as "3-17"; None for all.
        trajectory: what the user states about a trajectory; None if the file states all, or is Cartesian.
        nan: ``zero`` treats samples that are NaN or infinite as not measured.
        strict: refuse defects that otherwise only cause a note; see `mrirecon.io.read`.
        manifest: list of checksums that the file must match; see `mrirecon.io.safe.manifest`.
        isolate: first read the file in a separate process, which may crash (see `mrirecon.io.safe.probe`); None does so
            if there are several files.
        lam: regularization weight relative to the scale of the data; ``auto`` and None compute it from the mask and
            the measured noise (`mrirecon.methods.regularization.weight_by_noise`).
        device: device to compute on: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, …
        precision: precision of networks; ``auto`` takes bfloat16 if it is faster, see `mrirecon.models.hardware`.
            Methods without networks compute in float32.
        format: ``h5`` (magnitude and complex), ``npz``, ``cfl``, ``nii``, ``dicom`` (a folder), ``png``,
            ``montage`` (all slices in one PNG); by default by
            the suffix of the output.
        seed: seed of random numbers.
        batch: number of items that a model processes at a time; halved if memory is not sufficient.
        options: further options of the method; of a trained model, those in
            `mrirecon.models.checkpoints.INFERENCE_OPTIONS`.
        model: a trained model or its folder, instead of a method; a learned method without a model uses the model
            shipped with mrirecon.
        adaptation: adapt the model to each scan first (`mrirecon.reconstruction.adaptation`); None does not.
        strict_model: refuse data for which the model was not trained, instead of a note.
        save_iterates: also write the image after every step to NAME_iterates.h5.
        reference: image file or fully sampled k-space to compute scores with.
        bids: folder of a BIDS derivative dataset, instead of an output; see `mrirecon.io.writers.bids`.
        contrast: contrast in BIDS, such as T1w, if the scan does not state it.

    Raises:
        UsageError: a model together with a method; a contrast without a BIDS dataset.

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
    trajectory: TrajectoryOptions | None = None
    nan: Nan = "refuse"
    strict: bool = False
    manifest: str | Path | None = None
    isolate: bool | None = None
    lam: float | Literal["auto"] | None = None
    device: str = "auto"
    precision: PrecisionChoice = "float32"
    format: ImageFormat | None = None
    seed: int = 0
    batch: int = 1
    options: Mapping[str, object] | None = None
    model: TrainedModel | str | Path | None = None
    adaptation: Adaptation | None = None
    strict_model: bool = False
    save_iterates: bool = False
    reference: str | Path | None = None
    bids: str | Path | None = None
    contrast: str | None = None
    _loaded: dict[str, TrainedModel] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.model is not None and self.method != "auto":
            raise UsageError("a model defines its own method", fix="omit --method")
        if self.contrast is not None and self.bids is None:
            raise UsageError("--contrast is only written to a BIDS dataset", fix="also give --bids, or omit --contrast")
        if self.bids is not None and self.format not in (None, "nii"):
            raise UsageError("a BIDS dataset requires NIfTI", fix="omit --format")
        if self.maps_file is not None:
            object.__setattr__(self, "maps", "file")

    def load(self, model: TrainedModel | str | Path) -> TrainedModel:
        """Load the model of a folder once for all files; return a loaded model unchanged."""
        if isinstance(model, TrainedModel):
            return model
        if str(model) not in self._loaded:
            self._loaded[str(model)] = load_model(model)
        return self._loaded[str(model)]

    def with_reference(self, reference: str | Path | None) -> Request:
        """Return the same request with another reference; loaded models are shared."""
        request = replace(self, reference=reference)
        object.__setattr__(request, "_loaded", self._loaded)
        return request

    @property
    def steps(self) -> Preprocess:
        """Return the steps of preprocessing; without coil maps, many coils take little time and are kept."""
        if self.method != "auto" and not find_method(self.method).maps:
            return replace(self.preprocess, many_coils="keep")
        return self.preprocess

    @cached_property
    def digest(self) -> str:
        """Return a SHA-256 of all that defines the images except the input: options, other files, model, version.

        Device and batch are left out, because they change only rounding. ``strict`` and the list of checksums are
        included: a result without them does not count as finished if they are requested.
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
            **({} if self.adaptation is None else {"adaptation": asdict(self.adaptation)}),
            **({} if self.trajectory is None else {"trajectory": self._trajectory_digest()}),
            "nan": self.nan,
            "items": self.items,
            "strict": self.strict,
            "options": dict(self.options or {}),
            "espirit": asdict(self.espirit or EspiritOptions()),
            # Without this default, images that an earlier version finished still count as finished.
            "preprocess": {k: v for k, v in asdict(self.preprocess).items() if (k, v) != ("many_coils", "compress")},
            "save_iterates": self.save_iterates,
            "bids": None if self.bids is None else [str(self.bids), self.contrast],
            **{name: None if path is None else sha256(path) for name, path in files.items()},
            "models": [compute_seal(describe_model(folder)) for folder in folders],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()

    def _trajectory_digest(self) -> dict[str, object]:
        assert self.trajectory is not None, "the caller checked"
        file = self.trajectory.file
        if file is not None and file.suffix in (".hdr", ".cfl"):  # BART's samples are not in the header
            return asdict(self.trajectory) | {"file": [sha256(file.with_suffix(s)) for s in (".hdr", ".cfl")]}
        return asdict(self.trajectory) | {"file": None if file is None else sha256(file)}

    def check(self) -> None:
        """Check options, models and other files before the first input is read.

        Raises:
            MriReconError: the error that `mrirecon.reconstruction.run.reconstruct` would raise for every input.

        """
        model = self.model or shipped_models().get(self.method)
        if model is not None:
            with_options(self.load(model), self.options or {})
        elif self.method != "auto":
            has_number = isinstance(self.lam, float) and find_method(self.method).has_weight
            resolve(self.method, {**(self.options or {}), **({"lam": self.lam} if has_number else {})})
        pick_device(self.device)
        if self.format is not None or self.bids is not None:
            require(image_format("", self.format or "nii"))
        assert self.digest, "computed now because it reads the other files"


@dataclass(frozen=True)
class PlanGroup:
    """Hold a group of items that are reconstructed in the same way.

    Attributes:
        items: items of the scan.
        reason: reason for this method.
        entry: the method.
        model: the trained model, if the method is learned.
        settings: options of the method, with values that depend on the scan; ``lam`` only if it does not depend on
            the noise of each item.
        calibration: source of the coil maps; None if the method needs none, or estimates them itself.
        espirit: options for the estimate of maps, with the number of sets.

    """

    items: tuple[int, ...]
    reason: str
    entry: Method
    model: TrainedModel | None = field(repr=False)
    settings: Mapping[str, object]
    calibration: Calibration | None
    espirit: EspiritOptions


@dataclass(frozen=True)
class Plan:
    """Hold all decisions of `mrirecon.reconstruction.choose` on how to reconstruct the items of a scan.

    Attributes:
        method: the method of most items, among those that remove aliasing if there are any.
        model: the model of this method, if it is learned.
        reason: the reason for the methods: one for all items, or one for each group.
        groups: groups of items by method, the most frequent method first.
        slicing: how volumes are solved slice by slice; None if every item is solved as a whole.
        device: device to compute on.
        precision: precision of networks.
        notes: notes on these decisions for the user.
        precision_note: reason for the precision, if a precision was requested.
        outside: notes on data for which the model was not trained, one for each group of items.
        first_volume: the first volume as slices, which was read for the decisions.

    """

    method: str
    model: TrainedModel | None = field(repr=False)
    reason: str
    groups: tuple[PlanGroup, ...]
    slicing: Slicing | None
    device: torch.device
    precision: Precision
    notes: tuple[str, ...] = ()
    precision_note: str | None = None
    outside: tuple[str, ...] = ()
    first_volume: HybridSlices | None = field(default=None, repr=False)
