"""Read checkpoints of other toolkits without executing anything from them.

All pickles are read by torch's restricted unpickler (``weights_only``), which creates tensors and plain data only. The
classes of settings that training programs add become inert records (`Record`). Every other class is refused by name.
Archives are not extracted, and nothing may expand beyond the size of the file.
"""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import warnings
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from mrirecon.errors import InputError, UnsafeContentError

_GIB = 1 << 30
_LARGEST = 16 * _GIB  # the largest published checkpoint, with the states of its optimizer, is below 6 GiB
_LARGEST_PICKLE = 64 << 20
_LARGEST_TEXT = 1 << 20
_MOST_ENTRIES = 200_000
_MOST_VALUES = 20_000
_DEPTH = 16
_GZIP_GROWTH = 4  # weights compress by less than a half
CONFIG_NAME, WEIGHTS_NAME = "model_config.yaml", "model_weights.ckpt"
# Packages whose classes hold settings in checkpoints; their objects become inert records.
_SETTINGS = (
    *("argparse", "pathlib", "omegaconf", "datetime", "enum", "typing", "collections", "numpy"),
    *("lightning", "lightning_fabric", "lightning_utilities", "pytorch_lightning"),
    *("fastmri", "atommic", "mridc", "direct"),
)
_BUILTIN_TYPES = ("set", "frozenset", "slice", "range", "complex", "bytearray", "int", "float", "str", "dict", "list")


@dataclass(frozen=True)
class Checkpoint:
    """Hold the content of a checkpoint.

    Attributes:
        path: the file.
        container: description of the container.
        weights: tensors of the network by name.
        sensitivity: tensors of the separate network for coil maps, as DIRECT stores it.
        settings: plain settings of the training, as far as the file has them.

    """

    path: Path
    container: str
    weights: dict[str, Tensor] = field(repr=False)
    sensitivity: dict[str, Tensor] = field(default_factory=dict, repr=False)
    settings: dict[str, Any] = field(default_factory=dict)


class Record:
    """Hold what a pickle says of an object of another program, without creating the object."""

    def __new__(cls, *args: object) -> Record:
        """Create a record; pickles call this with any arguments."""
        return super().__new__(cls)

    def __init__(self, *args: object) -> None:
        self.content: object = args

    def __setstate__(self, state: object) -> None:
        self.content = state

    def __setitem__(self, key: object, value: object) -> None:
        """Ignore items, which pickles of dictionaries set."""


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint: torch's file formats, Lightning's ``.ckpt``, tar archives (``.atommic``, ``.nemo``), and more.

    Raises:
        InputError: not a checkpoint, or one that cannot be read.
        UnsafeContentError: content that could run programs, leave the archive, or expand beyond the file's size.

    """
    path = Path(path)
    if not path.is_file():
        why = "it is a folder" if path.is_dir() else "there is no such file"
        raise InputError("a checkpoint is a file", where=str(path), why=why, fix="name the checkpoint of a toolkit")
    size = path.stat().st_size
    if size > _LARGEST:
        raise UnsafeContentError(
            "the checkpoint is too large", where=str(path), why=f"more than {_LARGEST // _GIB} GiB"
        )
    with path.open("rb") as file:
        return _read(file, path, size)


def _read(file: BinaryIO, path: Path, size: int) -> Checkpoint:
    head = file.read(512)
    file.seek(0)
    if head[257:262] == b"ustar":
        return _read_archive(file, path, size, "a tar archive")
    if head[:2] == b"\x1f\x8b":
        content = _decompress(file, path, size)
        return _read_archive(io.BytesIO(content), path, len(content), "a compressed tar archive")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size:
        try:
            return Checkpoint(path, "safetensors", _checked(load_safetensors(file.read()), path, size))
        except (SafetensorError, ValueError) as error:
            raise InputError("the safetensors file cannot be read", where=str(path), why=str(error)) from None
    return _sections(_load(file, path, size, head), path, size)


def _decompress(file: BinaryIO, path: Path, size: int) -> bytes:
    limit = min(_LARGEST, _GZIP_GROWTH * size + _LARGEST_TEXT)
    try:
        with gzip.GzipFile(fileobj=file) as unpacked:
            content = unpacked.read(limit + 1)
    except (OSError, EOFError) as error:
        raise InputError("the archive cannot be read", where=str(path), why=str(error)) from None
    if len(content) > limit:
        why = f"it expands to more than {_GZIP_GROWTH} times its size, which weights do not"
        raise UnsafeContentError("the archive is a bomb", where=str(path), why=why)
    return content


def _read_archive(file: BinaryIO, path: Path, size: int, kind: str) -> Checkpoint:
    """Read weights and settings of an archive of NeMo's form; its members are not extracted."""
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for number, member in enumerate(archive):
                _check_member(member, number, path, size)
                name = member.name.removeprefix("./")
                if name not in (CONFIG_NAME, WEIGHTS_NAME):
                    continue
                if name in contents:
                    raise UnsafeContentError("the archive has a member twice", where=f"{path}:{name}")
                if name == CONFIG_NAME and member.size > _LARGEST_TEXT:
                    raise UnsafeContentError("the settings are too large", where=f"{path}:{name}")
                stream = archive.extractfile(member)
                assert stream is not None, "it is a file"
                contents[name] = stream.read()
    except (tarfile.TarError, EOFError, OverflowError) as error:
        raise InputError("the archive cannot be read", where=str(path), why=str(error)) from None
    if WEIGHTS_NAME not in contents:
        fix = "give the checkpoint itself"
        raise InputError("the archive has no weights", where=str(path), why=f"there is no {WEIGHTS_NAME}", fix=fix)
    content = contents[WEIGHTS_NAME]
    inner = _sections(_load(io.BytesIO(content), path, len(content), content[:512]), path, len(content))
    settings = parse_settings(contents.get(CONFIG_NAME, b""), f"{path}:{CONFIG_NAME}")
    return Checkpoint(path, f"{kind} with settings and {inner.container}", inner.weights, inner.sensitivity, settings)


def _check_member(member: tarfile.TarInfo, number: int, path: Path, size: int) -> None:
    name = PurePosixPath(member.name)
    what = None
    if name.is_absolute() or ".." in name.parts:
        what = "a member of the archive lies outside of it"
    elif member.issym() or member.islnk():
        what = "the archive has a link"
    elif not (member.isfile() or member.isdir()) or member.issparse():
        what = "the archive has a member that is neither a file nor a folder"
    elif member.size > size:
        what = "a member of the archive is larger than the archive"
    elif number > _MOST_ENTRIES:
        what = "the archive has too many members"
    if what:
        raise UnsafeContentError(what, where=f"{path}:{member.name[:200]}", fix="do not use this file")


def parse_settings(text: bytes, where: str) -> dict[str, Any]:
    """Parse YAML settings of a toolkit; references, tags and documents other than mappings are refused.

    Raises:
        InputError: not such YAML.

    """
    if len(text) > _LARGEST_TEXT:
        raise InputError("the settings are too large", where=where, why=f"more than {_LARGEST_TEXT >> 20} MiB")
    try:
        decoded = text.decode("utf-8")
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(decoded, yaml.SafeLoader)):
            raise ValueError("it has references (*name)")
        content = yaml.safe_load(decoded) or {}
        if not isinstance(content, dict):
            raise ValueError("it is not a mapping")
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError("the settings cannot be read", where=where, why=" ".join(str(error).split())) from None
    plain: dict[str, Any] = _Plain().convert(content)
    return plain


def _load(file: BinaryIO, path: Path, size: int, head: bytes) -> Any:
    """Return the content of a file of torch: tensors, plain data, and records."""
    if head[:2] == b"PK":
        _check_zip(file, path, size)
    elif head[:1] != b"\x80":
        fix = "give a file that torch.save wrote, an .atommic or .nemo archive, or safetensors"
        raise InputError(
            "this is not a checkpoint", where=str(path), why="its first bytes are of no known form", fix=fix
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # on the version of the pickle
            return _load_restricted(file, is_archive=head[:2] == b"PK")
    except pickle.UnpicklingError as error:
        why = next((line.strip() for line in str(error).splitlines() if "GLOBAL" in line or "nsupported" in line), None)
        raise UnsafeContentError(
            "the checkpoint contains more than weights and settings, and could run a program",
            where=str(path),
            why=why or " ".join(str(error).split())[:300],
            fix="get the file from its authors; or where you trust it, save model.state_dict() alone",
        ) from None
    except Exception as error:  # torch raises almost any error on damaged files
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise InputError("the checkpoint cannot be read", where=str(path), why=why, fix="download it again") from None


def _load_restricted(file: BinaryIO, *, is_archive: bool) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        file.seek(0)
        # torch lists the classes of archives without loading them.
        names = torch.serialization.get_unsafe_globals_in_checkpoint(file) if is_archive else []
        if not names or not all(map(_holds_settings, names)):
            raise
    file.seek(0)
    with torch.serialization.safe_globals([(Record, name) for name in names]):
        return torch.load(file, map_location="cpu", weights_only=True)


def _holds_settings(name: str) -> bool:
    """Return whether a class is known to hold settings of training programs."""
    package, _, attribute = name.partition(".")
    return package in _SETTINGS or (package in ("builtins", "__builtin__") and attribute in _BUILTIN_TYPES)


def _check_zip(file: BinaryIO, path: Path, size: int) -> None:
    """Refuse archives that are compressed, larger inside than outside, or programs."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise InputError(
            "the checkpoint cannot be read", where=str(path), why=str(error), fix="download it again"
        ) from None
    file.seek(0)
    names = [entry.filename for entry in entries]
    what = None
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        what = "the checkpoint is compressed, which torch's are not"
    elif sum(entry.file_size for entry in entries) > size or len(entries) > _MOST_ENTRIES:
        what = "the checkpoint claims more content than it has"
    elif len(set(names)) < len(names):
        what = "the checkpoint has an entry twice"
    elif any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        what = "the checkpoint is a TorchScript program"
    elif any(e.file_size > _LARGEST_PICKLE for e in entries if e.filename.endswith(".pkl")):
        what = "the description of the tensors is too large"
    if what:
        raise UnsafeContentError(what, where=str(path), fix="do not use this file, or save model.state_dict() again")


def _sections(content: Any, path: Path, size: int) -> Checkpoint:
    """Find the state dictionaries and settings in the content of a checkpoint."""
    if not isinstance(content, Mapping):
        raise _no_weights(path, f"it contains {type(content).__name__}")
    settings: dict[str, Any] = {}
    for key in ("hyper_parameters", "args"):
        if key in content:
            plain = _Plain().convert(content[key])
            plain = plain.get("cfg", plain) if isinstance(plain, dict) else {}
            settings |= plain if isinstance(plain, dict) else {}
    if isinstance(content.get("state_dict"), Mapping):
        kind = "a Lightning checkpoint" if "pytorch-lightning_version" in content else "a dictionary with a state_dict"
        return Checkpoint(path, kind, _checked(content["state_dict"], path, size), {}, settings)
    if isinstance(content.get("model"), Mapping):
        separate = content.get("sensitivity_model")
        weights = _checked(content["model"], path, size)
        maps = _checked(separate, path, size) if isinstance(separate, Mapping) else {}
        return Checkpoint(path, "a dictionary with the state of the model and of the training", weights, maps, settings)
    return Checkpoint(path, "a state dictionary", _checked(content, path, size))


def _checked(tensors: Mapping[Any, Any], path: Path, size: int) -> dict[str, Tensor]:
    """Return the tensors of a state dictionary; refuse those that lie about their size."""
    weights: dict[str, Tensor] = {}
    total = 0
    for name, value in tensors.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise _no_weights(path, f"{str(name)[:100]!r} is {type(value).__name__}, not a tensor")
        if value.layout != torch.strided or value.is_meta or value.is_quantized or value.is_complex():
            raise _no_weights(path, f"{name[:100]!r} is not an ordinary tensor of numbers")
        count = value.numel() * value.element_size()
        total += count
        if count > value.untyped_storage().nbytes() or total > 2 * size:
            why = f"{name[:100]!r} has the shape {tuple(value.shape)}"
            raise UnsafeContentError("a tensor claims more numbers than the file has", where=str(path), why=why)
        weights[name.removeprefix("module.")] = value.detach()
    if not weights:
        raise _no_weights(path, "it is empty")
    return weights


def _no_weights(path: Path, why: str) -> InputError:
    fix = "give a file with a state dictionary: names with tensors, alone or as `state_dict` or `model`"
    return InputError("the checkpoint has no weights", where=str(path), why=why, fix=fix)


class _Plain:
    """Convert settings to plain data; leave out everything else, and stop at a number of values."""

    def __init__(self) -> None:
        self.left = _MOST_VALUES

    def convert(self, value: Any, depth: int = 0) -> Any:
        """Return plain data, None for other values."""
        self.left -= 1
        if depth > _DEPTH or self.left < 0:
            return None
        if isinstance(value, Record):
            value = value.content
            if isinstance(value, Mapping):  # containers and values of OmegaConf
                value = value.get("_content", value.get("_val", value))
        if isinstance(value, Mapping):
            return {str(k): self.convert(v, depth + 1) for k, v in value.items() if isinstance(k, str | int)}
        if isinstance(value, list | tuple):
            return [self.convert(v, depth + 1) for v in value]
        with suppress(TypeError):
            if isinstance(value, str | bool | int | float):
                return value
        return None
