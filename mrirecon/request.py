"""What is asked of `reconstruct`, the same for all files of a batch, and whether it has been done already."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from mrirecon import __version__
from mrirecon.calibrate import EspiritOptions, Source
from mrirecon.checkpoints import Trained, describe_model, load_model, seal_of, shipped
from mrirecon.errors import UsageError
from mrirecon.hardware import PrecisionChoice, pick_device
from mrirecon.io import safe_name, sha256
from mrirecon.io.formats import EXTENSION, FOREIGN, ImageFormat, image_format, named_format, require
from mrirecon.io.identify import cfl_pair
from mrirecon.io.scan import Nan
from mrirecon.prepared import Preprocess
from mrirecon.registry import find, resolve
from mrirecon.text import local, parse_json


@dataclass(frozen=True)
class Request:
    """How files are to be reconstructed.

    Attributes:
        method: see `mrirecon.inference.reconstruct`, as for maps, espirit, lam, device, options and seed.
        maps: where coil maps come from; ``maps_file`` names a file to take them from.
        maps_file: file with coil maps.
        espirit: how maps are estimated.
        preprocess: what is done to k-space before, and to images afterwards; by default nothing.
        mask: file with a sampling mask; undersamples fully sampled data.
        axes: names of the stored axes, where the file leaves them open.
        dataset: name of the k-space array, where the file leaves it open.
        items: which items, such as "3-17"; None for all.
        nan: ``zero`` takes samples that are NaN or infinite as not measured.
        strict: refuse what is otherwise noted and worked around, see `mrirecon.io.read`.
        manifest: list of checksums that the file must agree with, see `mrirecon.io.manifest`.
        isolate: first look into the file in a process that may crash, see `mrirecon.io.apart`.
        lam: regularization weight.
        device: where to compute.
        precision: what a model's networks compute in.
        format: ``h5`` (magnitude and complex), ``npz``, ``cfl``, ``nii``, ``dicom`` (a folder), ``png``; by default by
            the name of the output.
        seed: of random draws.
        batch: items that a model takes at a time.
        options: further options of the method.
        model: folder of a trained model, in place of a method; a learned method without one takes the model that comes
            with mrirecon.
        strict_model: refuse data that the model was not trained for.
        save_iterates: also write the image after every step, as NAME_iterates.h5 with items and steps in turn.
        reference: image file or fully sampled k-space to score against.
        bids: folder of a BIDS derivative dataset, in place of an output: NIfTI, named as `mrirecon.io.bids` says.
        contrast: BIDS's word for the contrast, such as T1w, where the scan does not tell.

    Raises:
        UsageError: a model together with a method or options of one.

    """

    method: str = "auto"
    maps: Source = "auto"
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
    model: str | Path | None = None
    strict_model: bool = False
    save_iterates: bool = False
    reference: str | Path | None = None
    bids: str | Path | None = None
    contrast: str | None = None
    _loaded: dict[str, Trained] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.model is not None and (self.method != "auto" or self.options):
            raise UsageError("a model brings its own method and options", fix="leave --method and --set out")
        if self.bids is not None and self.format not in (None, "nii"):
            raise UsageError("a BIDS dataset holds NIfTI", fix="leave --format out")
        if self.maps_file is not None:
            object.__setattr__(self, "maps", "file")

    def load(self, folder: str | Path) -> Trained:
        """Return the model of a folder, loaded once for all files."""
        if str(folder) not in self._loaded:
            self._loaded[str(folder)] = load_model(folder)
        return self._loaded[str(folder)]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that the images depend on beside the input: options, other files, models, our version.

        Not the device, nor how many slices are taken at a time: they change no more than rounding. What was not looked
        at with ``strict``, or against a list of checksums, is not finished where that is asked.
        """
        beside = ("mask", "maps_file", "reference", "manifest")
        files: dict[str, str | Path | None] = {name: getattr(self, name) for name in beside}
        models = [self.model] if self.model is not None else list(shipped().values()) if self._may_be_shipped else []
        told = {
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
            "models": [seal_of(describe_model(folder)) for folder in models],
        }
        return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()

    def check(self) -> None:
        """Refuse before the first of many files what no file could change: options, models and other files.

        Raises:
            MriReconError: as `mrirecon.inference.reconstruct` would of every file.

        """
        if self.model is not None:
            self.load(self.model)
        elif self.method != "auto":
            weighed = isinstance(self.lam, float) and "lam" in find(self.method).schema.model_fields
            resolve(self.method, {**(self.options or {}), **({"lam": self.lam} if weighed else {})})
        pick_device(self.device)
        if self.format is not None or self.bids is not None:
            require(image_format("", self.format or "nii"))
        assert self.digest, "it reads the other files"

    @property
    def _may_be_shipped(self) -> bool:
        return self.method == "auto" or self.method in shipped()

    def finished(self, source: Path, sidecar: Path) -> dict[str, object] | None:
        """Return what a sidecar tells, if it tells of this request done for a file that is still the same; else None.

        The input and the outputs must be those that were noted. A file counts as such when its size, its time of
        modification and, of the input, its inode are; where only the size is, its SHA-256 decides.
        """
        try:
            told = parse_json(sidecar.read_bytes())
            if told["request"] != self.digest:
                return None
            noted, outputs = told["input"], told["outputs"]
            if not isinstance(told["method"], str):
                return None
            if not outputs or not _same(noted, stamp(source), ("mtime_ns", "inode"), source):
                return None
            for output in outputs:
                path = sidecar.parent / local(str(output["file"]))
                status = path.stat()
                found = {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
                if not _same(output, found, ("mtime_ns",), path):
                    return None
        except (OSError, ValueError, KeyError, TypeError):  # no sidecar, or not one of ours: then it is not finished
            return None
        return dict(told)


def stamp(source: Path) -> dict[str, int]:
    """Return size in bytes, time of modification and inode of a k-space file (of the data file of a BART pair).

    Raises:
        OSError: it is not there.

    """
    try:
        status = source.stat() if source.suffix != ".hdr" else cfl_pair(source)[1].stat()
    except FileNotFoundError:
        status = cfl_pair(source)[1].stat()
    return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "inode": status.st_ino}


def _same(noted: Mapping[str, object], found: Mapping[str, int], quick: tuple[str, ...], path: Path) -> bool:
    if noted["bytes"] != found["bytes"]:
        return False
    return all(noted[key] == found[key] for key in quick) or noted["sha256"] == sha256(path)


def output_path(source: Path, out: Path, method: str, format: ImageFormat | None) -> Path:
    """Return where the images of ``source`` go: ``out`` itself if it names a file, else a name of its own in it.

    Raises:
        UsageError: a name that stands for a format that is not written, and for no folder that is there.

    """
    named = named_format(out)
    if named is None and out.suffix.lower() in FOREIGN and not out.is_dir() and format is None:
        image_format(out)  # which it is not, and says what to do
    if named is not None and (not out.is_dir() or named == "dicom"):
        return out
    ending = f"_{method}{EXTENSION[format or 'h5']}"
    return out / f"{safe_name(source.name.split('.')[0], room=len(ending))}{ending}"
