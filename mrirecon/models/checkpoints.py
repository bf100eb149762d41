"""Trained models as folders: weights as safetensors, the configuration that rebuilds the model, and a card.

Nothing is executed on loading. What does not fit is refused with the first names that differ, never skipped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mrirecon import __version__
from mrirecon.engine import Reconstructor
from mrirecon.errors import InputError, ModelMismatchError, UsageError
from mrirecon.io import atomic_path, sha256, write_json
from mrirecon.io.safe.text import parse_json, utf8
from mrirecon.io.writers.write import json_text
from mrirecon.methods.registry import build, find, resolve
from mrirecon.networks import channels_last

WEIGHTS, CONFIG, CARD = "weights.safetensors", "config.json", "card.md"
FORMAT = 1  # raised when a folder of today could no longer be read as it is meant
_LARGEST = 16 << 20  # bytes of a configuration
CARD_HASH = "card_sha256"  # key of the SHA-256 of the card for people
SEAL = "seal"  # key of the hash over all else that the configuration holds
UNSEALED = "it has no seal, as folders of earlier versions: its options and its card may have been changed"


@dataclass(frozen=True)
class Trained:
    """A model with its weights, and what it is.

    Attributes:
        folder: where it lies.
        method: the registered method.
        options: all its options.
        model: ready to reconstruct.
        sha256: of the weights file.
        card: plain data on how it was trained.
        seal: hash over weights, options and card; None where an earlier version wrote the folder.

    """

    folder: Path
    method: str
    options: dict[str, object]
    model: Reconstructor = field(repr=False)
    sha256: str
    card: dict[str, object]
    seal: str | None = None


def shipped() -> dict[str, Path]:
    """Return the folders of the models that come with mrirecon, by method."""
    found = sorted((Path(__file__).parent / "weights").glob(f"*/{CONFIG}"))
    return {path.parent.name: path.parent for path in found}


def save_model(
    folder: str | Path,
    method: str,
    options: Mapping[str, object],
    model: Reconstructor,
    card: Mapping[str, object] | None = None,
) -> Path:
    """Write a model's folder; files appear whole, the configuration last, so that a folder with one is complete.

    Args:
        folder: made where it does not exist.
        method: name of the registered method that built the model.
        options: those that differ from the defaults; all are written, so that a later default changes nothing.
        model: its weights are saved.
        card: plain data on training data, acceleration, scores, licence.

    Raises:
        UsageError: the method and options do not build this model.
        ModelMismatchError: weights that are not finite.

    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    resolved = resolve(method, options)
    # Shared weights are stored once, under the first of their names.
    weights = {name: w.detach().cpu().contiguous() for name, w in model.named_parameters()}
    _check_fit(weights, build(method, resolved), str(folder))
    _check_finite(weights, str(folder))
    with atomic_path(folder / WEIGHTS) as temporary:
        save_file(weights, temporary)
    digest = sha256(folder / WEIGHTS)
    count = sum(w.numel() for w in weights.values())
    about: dict[str, object] = {"format": FORMAT, "method": method, "options": resolved, "parameters": count}
    about |= {"sha256": digest, "mrirecon": __version__, "torch": torch.__version__, "card": dict(card or {})}
    _write_about(folder, about)
    return folder


def seal_model(folder: str | Path) -> Path:
    """Seal a folder anew: write the seal, and the card for people, of what its configuration and weights are now.

    For a folder that an earlier version wrote, or whose configuration was changed on purpose.

    Raises:
        InputError, ModelMismatchError: see `describe_model`; weights that are not those that the configuration names.

    """
    folder = Path(folder)
    about = describe_model(folder, sealed=False)
    _check_weights(folder, about)
    _write_about(folder, about)
    load_model(folder)
    return folder


def seal_of(about: Mapping[str, object]) -> str:
    """Return the seal of a configuration: SHA-256 over all that it holds but the seal itself, the weights' hash too.

    Whoever changes a folder can make it again: it shows a change by mistake, or by a program that does not know it.
    """
    told = {key: value for key, value in about.items() if key != SEAL}
    text = json.dumps(told, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _write_about(folder: Path, about: dict[str, object]) -> None:
    with atomic_path(folder / CARD) as temporary:
        temporary.write_bytes(utf8(_card(about)))
    about = {**about, CARD_HASH: sha256(folder / CARD)}
    written = parse_json(json_text(about))  # as it will be read: tuples are lists then
    write_json(folder / CONFIG, about | {SEAL: seal_of(written)})


def load_model(folder: str | Path) -> Trained:
    """Return the model of a folder, on the CPU, in evaluation mode.

    Raises:
        InputError: no such folder, or files that are missing or cannot be read.
        ModelMismatchError: weights, options or a card that are not those that were saved; weights that do not fit the
            configuration, or are not finite; a folder of a later version.

    """
    folder = Path(folder)
    about = describe_model(folder)
    found = _check_weights(folder, about)
    try:
        weights = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        fix = "the checkpoint is corrupt: copy the folder again, and look with `mrirecon models verify FOLDER`"
        raise InputError("the weights cannot be read", where=str(folder / WEIGHTS), why=str(error), fix=fix) from None
    method, options = str(about["method"]), about["options"]
    assert isinstance(options, dict)
    try:
        model = build(method, options)
    except UsageError as error:
        raise ModelMismatchError(
            "the configuration does not build a model here", where=str(folder / CONFIG), why=str(error), fix=error.fix
        ) from None
    _check_fit(weights, model, str(folder))
    _check_finite(weights, str(folder))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
    card = about["card"]
    assert isinstance(card, dict)
    channels_last(model)
    seal = about.get(SEAL)
    return Trained(folder, method, options, model.eval(), found, card, None if seal is None else str(seal))


def verify_model(folder: str | Path) -> Trained:
    """Load a model, and check also that the card for people is the one that was saved.

    Raises:
        InputError, ModelMismatchError: see `load_model`; a card that was changed.

    """
    found = load_model(folder)
    wanted = describe_model(folder).get(CARD_HASH)
    if wanted is not None and not (found.folder / CARD).is_file():
        raise ModelMismatchError("the card is missing", where=str(found.folder / CARD), fix=_AGAIN)
    if wanted is not None and sha256(found.folder / CARD) != wanted:
        raise ModelMismatchError("the card is not the one that was saved", where=str(found.folder / CARD), fix=_AGAIN)
    return found


def describe_model(folder: str | Path, *, sealed: bool = True) -> dict[str, object]:
    """Return what a model's configuration says, without building it.

    Args:
        folder: the model.
        sealed: whether a seal that is there must fit.

    Raises:
        InputError: not a model's folder.
        ModelMismatchError: written by a later version, or changed since it was sealed.

    """
    folder = Path(folder)
    if folder.is_file():
        fix = f"give a folder with {CONFIG} and {WEIGHTS}, as `mrirecon train` leaves; pickles can run code when opened"
        why = "checkpoints in one file (.pt, .pth, .ckpt, archives) are never opened"
        raise InputError("a model is a folder, and this is a file", where=str(folder), why=why, fix=fix)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            fix = f"give a folder that `save_model` wrote, with {CONFIG} and {WEIGHTS}"
            raise InputError("this is not a model", where=str(folder), why=f"there is no {name} in it", fix=fix)
    try:
        if (folder / CONFIG).stat().st_size > _LARGEST:
            raise ValueError(f"it is larger than {_LARGEST >> 20} MiB")
        about = parse_json((folder / CONFIG).read_bytes())
        missing = {"format", "method", "options", "sha256", "card"} - set(about)
    except (ValueError, TypeError) as error:
        raise InputError("the configuration cannot be read", where=str(folder / CONFIG), why=str(error)) from None
    if missing or not (isinstance(about["options"], dict) and isinstance(about["card"], dict)):
        why = f"it lacks {', '.join(sorted(missing))}" if missing else "options and card must be mappings"
        raise InputError("the configuration is not complete", where=str(folder / CONFIG), why=why)
    if about["format"] != FORMAT:
        raise ModelMismatchError(
            "the model was written in another format",
            where=str(folder / CONFIG),
            why=f"format {about['format']}; this is mrirecon {__version__}, which reads {FORMAT}",
            fix="use the version of mrirecon that wrote it, which the configuration names",
        )
    if sealed and SEAL in about and about[SEAL] != seal_of(about):
        raise ModelMismatchError(
            "the options or the card are not those that were saved",
            where=str(folder / CONFIG),
            why=f"its seal is {str(about[SEAL])[:16]}…, and its content makes {seal_of(about)[:16]}…",
            fix=_AGAIN,
        )
    return dict(about)


def _check_weights(folder: Path, about: Mapping[str, object]) -> str:
    found = sha256(folder / WEIGHTS)
    if found != about["sha256"]:
        raise ModelMismatchError(
            "the weights are not those that were saved",
            where=str(folder / WEIGHTS),
            why=f"SHA-256 {found[:16]}…, and {CONFIG} says {str(about['sha256'])[:16]}…",
            fix=_AGAIN,
        )
    return found


_AGAIN = "copy the folder again, and look with `mrirecon models verify FOLDER`"


def _check_fit(weights: Mapping[str, Tensor], model: Reconstructor, where: str) -> None:
    wanted = {name: tuple(w.shape) for name, w in model.named_parameters()}
    have = {name: tuple(w.shape) for name, w in weights.items()}
    wrong = [f"{n} is missing" for n in wanted if n not in have]
    wrong += [f"{n} is not part of the model" for n in have if n not in wanted]
    wrong += [f"{n} is {have[n]}, not {wanted[n]}" for n in wanted if n in have and have[n] != wanted[n]]
    if wrong:
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        why = "; ".join(wrong[:5]) + more
        fix = f"use the {CONFIG} that belongs to them"
        raise ModelMismatchError("the weights do not fit the model", where=where, why=why, fix=fix)


def _check_finite(weights: Mapping[str, Tensor], where: str) -> None:
    bad = [name for name, w in weights.items() if not bool(torch.isfinite(w).all())]
    if bad:
        why = f"{len(bad)} of {len(weights)} tensors, such as {bad[0]}"
        raise ModelMismatchError("the weights hold NaN or infinite values", where=where, why=why, fix="train it again")


def _card(about: Mapping[str, object]) -> str:
    card = about["card"]
    assert isinstance(card, dict)
    told = "\n".join(f"- {key}: {value}" for key, value in card.items()) or "- nothing is recorded"
    return (
        f"# {about['method']}\n\n{find(str(about['method'])).summary}\n\n"
        f"{about['parameters']} parameters. SHA-256 of the weights: {about['sha256']}.\n\n"
        f"## How it was trained\n\n{told}\n\nFor research, not for diagnosis.\n"
    )
