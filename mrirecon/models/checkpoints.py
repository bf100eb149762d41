"""Save and load trained models as folders with weights (safetensors), configuration and card.

Loading never executes code from the folder. Weights that do not match are refused; the message has the first names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mrirecon import __version__
from mrirecon.engine import Reconstructor
from mrirecon.errors import InputError, ModelMismatchError, UsageError
from mrirecon.io.safe.atomic import atomic_path, sha256
from mrirecon.io.safe.text import json_text, parse_json, utf8
from mrirecon.io.writers.write import write_json
from mrirecon.methods.registry import build, find_method, resolve
from mrirecon.networks import channels_last

WEIGHTS, CONFIG, CARD = "weights.safetensors", "config.json", "card.md"
FORMAT = 1  # to be increased when older folders can no longer be read correctly
CARD_HASH = "card_sha256"  # key of the SHA-256 of the card
SEAL = "seal"  # key of the hash of all other entries of the configuration
UNSEALED = "it has no seal, like folders of earlier versions: its options and its card may have been changed"
_LARGEST = 16 << 20  # largest size of a configuration in bytes
_AGAIN = "copy the folder again, and check it with `mrirecon models verify FOLDER`"


@dataclass(frozen=True)
class TrainedModel:
    """Hold a model with its weights and its description.

    Attributes:
        folder: path of the folder.
        method: name of the registered method.
        options: all options of the method.
        model: the model, ready to reconstruct.
        sha256: SHA-256 of the weights file.
        card: plain data that describe the training.
        seal: hash of weights, options and card; None for a folder of an earlier version.

    """

    folder: Path
    method: str
    options: dict[str, object]
    model: Reconstructor = field(repr=False)
    sha256: str
    card: dict[str, object]
    seal: str | None = None


def shipped_models() -> dict[str, Path]:
    """Return the folders of the models shipped with mrirecon, by method."""
    return {path.parent.name: path.parent for path in sorted((Path(__file__).parent / "weights").glob(f"*/{CONFIG}"))}


def save_model(
    folder: str | Path,
    method: str,
    options: Mapping[str, object],
    model: Reconstructor,
    card: Mapping[str, object] | None = None,
) -> Path:
    """Save a model as a folder; the configuration is written last, so that a folder with one is complete.

    Args:
        folder: created if missing.
        method: name of the registered method that built the model.
        options: options that differ from the defaults; all are written, so that later defaults have no effect.
        model: the model whose weights are saved.
        card: plain data on training data, acceleration, scores, licence.

    Raises:
        UsageError: the method and options do not build this model.
        ModelMismatchError: NaN or infinite weights.

    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    resolved = resolve(method, options)
    # Shared weights are stored once, under their first name.
    weights = {name: w.detach().cpu().contiguous() for name, w in model.named_parameters()}
    _check_weights(weights, build(method, resolved), str(folder))
    with atomic_path(folder / WEIGHTS) as temporary:
        save_file(weights, temporary)
    count = sum(w.numel() for w in weights.values())
    config: dict[str, Any] = {"format": FORMAT, "method": method, "options": resolved, "parameters": count}
    config |= {"sha256": sha256(folder / WEIGHTS), "mrirecon": __version__, "torch": torch.__version__}
    _write_config(folder, config | {"card": dict(card or {})})
    return folder


def seal_model(folder: str | Path) -> Path:
    """Write a new seal and card for the present configuration and weights of a folder.

    Use it for a folder of an earlier version, or after an intended change of the configuration.

    Raises:
        InputError, ModelMismatchError: see `describe_model`; weights that do not match the hash in the configuration.

    """
    folder = Path(folder)
    config = describe_model(folder, sealed=False)
    _check_hash(folder, config)
    _write_config(folder, config)
    load_model(folder)
    return folder


def compute_seal(config: Mapping[str, object]) -> str:
    """Compute the seal of a configuration: SHA-256 of all entries except the seal, with the hash of the weights.

    It detects accidental changes. It does not protect from intended changes, because anybody can compute it.
    """
    unsealed = {key: value for key, value in config.items() if key != SEAL}
    text = json.dumps(unsealed, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def load_model(folder: str | Path) -> TrainedModel:
    """Load the model of a folder on the CPU, in evaluation mode.

    Raises:
        InputError: no such folder, or files that are missing or cannot be read.
        ModelMismatchError: weights, options or card were changed; weights do not match the configuration, or are NaN or
            infinite; a folder of a later version.

    """
    folder = Path(folder)
    config = describe_model(folder)
    _check_hash(folder, config)
    try:
        weights = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        fix = f"the checkpoint is corrupt: {_AGAIN}"
        raise InputError("the weights cannot be read", where=str(folder / WEIGHTS), why=str(error), fix=fix) from None
    try:
        model = build(config["method"], config["options"])
    except UsageError as error:
        what, where = "the configuration does not build a model", str(folder / CONFIG)
        raise ModelMismatchError(what, where=where, why=str(error), fix=error.fix) from None
    _check_weights(weights, model, str(folder))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
    channels_last(model)
    method, options, digest, card = (config[key] for key in ("method", "options", "sha256", "card"))
    return TrainedModel(folder, method, options, model.eval(), digest, card, config.get(SEAL))


# Options of a model that change how its weights are used, not which weights it needs.
INFERENCE_OPTIONS = ("symmetries", "passes", "blend", "memory", "segment")


def with_options(trained: TrainedModel, options: Mapping[str, object]) -> TrainedModel:
    """Return a model with the same weights and other options of inference.

    Args:
        trained: the model; it is not changed.
        options: values of `INFERENCE_OPTIONS`, as far as the method has them.

    Raises:
        UsageError: an option that needs other weights, or that the method does not have; a value that is not possible.

    """
    if not options:
        return trained
    resolved = resolve(trained.method, {**trained.options, **options})
    possible = [name for name in INFERENCE_OPTIONS if name in resolved]
    for name in options:
        if name not in possible:
            raise UsageError(
                f"{name} cannot be changed in a trained model",
                where=name,
                why=f"its weights were trained with {name}={trained.options.get(name, resolved[name])}",
                fix=f"change {', '.join(possible)}, or train a model with {name}={options[name]}",
            )
    model = build(trained.method, resolved)
    weights = dict(trained.model.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
    channels_last(model)
    return replace(trained, options=resolved, model=model.eval())


def verify_model(folder: str | Path) -> TrainedModel:
    """Load a model, and also check that its card is unchanged.

    Raises:
        InputError, ModelMismatchError: see `load_model`; a card that was changed.

    """
    model = load_model(folder)
    card, digest = model.folder / CARD, describe_model(folder).get(CARD_HASH)
    if digest is not None and not card.is_file():
        raise ModelMismatchError("the card is missing", where=str(card), fix=_AGAIN)
    if digest is not None and sha256(card) != digest:
        raise ModelMismatchError("the card was changed", where=str(card), fix=_AGAIN)
    return model


def describe_model(folder: str | Path, *, sealed: bool = True) -> dict[str, Any]:
    """Return the configuration of a model (plain data from JSON) without building the model.

    Args:
        folder: folder of the model.
        sealed: whether a seal, if present, must match.

    Raises:
        InputError: not the folder of a model.
        ModelMismatchError: the folder was written by a later version, or changed since it was sealed.

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
    where = str(folder / CONFIG)
    try:
        if (folder / CONFIG).stat().st_size > _LARGEST:
            raise ValueError(f"it is larger than {_LARGEST >> 20} MiB")
        config = dict(parse_json((folder / CONFIG).read_bytes()))
    except (ValueError, TypeError) as error:
        raise InputError("the configuration cannot be read", where=where, why=str(error)) from None
    missing = {"format", "method", "options", "sha256", "card"} - set(config)
    if missing or not all(isinstance(config[key], dict) for key in ("options", "card")):
        why = f"it lacks {', '.join(sorted(missing))}" if missing else "options and card must be mappings"
        raise InputError("the configuration is not complete", where=where, why=why)
    if config["format"] != FORMAT:
        raise ModelMismatchError(
            "the model was written in another format",
            where=where,
            why=f"format {config['format']}; this is mrirecon {__version__}, which reads {FORMAT}",
            fix="use the version of mrirecon that wrote it, which the configuration names",
        )
    seal = compute_seal(config)
    if sealed and config.get(SEAL, seal) != seal:
        what = "the options or the card were changed"
        why = f"its seal is {str(config[SEAL])[:16]}…, and its content makes {seal[:16]}…"
        raise ModelMismatchError(what, where=where, why=why, fix=_AGAIN)
    return config


def _write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write the card, and the configuration with the hash of the card and the seal."""
    training = "\n".join(f"- {key}: {value}" for key, value in config["card"].items()) or "- nothing is recorded"
    card = (
        f"# {config['method']}\n\n{find_method(config['method']).summary}\n\n"
        f"{config['parameters']} parameters. SHA-256 of the weights: {config['sha256']}.\n\n"
        f"## How it was trained\n\n{training}\n\nFor research, not for diagnosis.\n"
    )
    with atomic_path(folder / CARD) as temporary:
        temporary.write_bytes(utf8(card))
    config = {**config, CARD_HASH: sha256(folder / CARD)}
    as_read = parse_json(json_text(config))  # with lists instead of tuples
    write_json(folder / CONFIG, {**config, SEAL: compute_seal(as_read)})


def _check_hash(folder: Path, config: Mapping[str, Any]) -> None:
    digest = sha256(folder / WEIGHTS)
    if digest != config["sha256"]:
        why = f"SHA-256 {digest[:16]}…, but {CONFIG} states {str(config['sha256'])[:16]}…"
        what = "the weights were changed"
        raise ModelMismatchError(what, where=str(folder / WEIGHTS), why=why, fix=_AGAIN)


def _check_weights(weights: Mapping[str, Tensor], model: Reconstructor, where: str) -> None:
    """Refuse weights with other names and shapes than the model, or with NaN or infinite values."""
    expected = {name: tuple(w.shape) for name, w in model.named_parameters()}
    shapes = {name: tuple(w.shape) for name, w in weights.items()}
    wrong = [f"{n} is missing" for n in expected if n not in shapes]
    wrong += [f"{n} is not part of the model" for n in shapes if n not in expected]
    wrong += [f"{n} is {shapes[n]}, not {expected[n]}" for n in expected if shapes.get(n, expected[n]) != expected[n]]
    if wrong:
        why = "; ".join(wrong[:5] + ([f"and {len(wrong) - 5} more"] if len(wrong) > 5 else []))
        fix = f"use the {CONFIG} of these weights"
        raise ModelMismatchError("the weights do not match the model", where=where, why=why, fix=fix)
    bad = [name for name, w in weights.items() if not bool(torch.isfinite(w).all())]
    if bad:
        why = f"{len(bad)} of {len(weights)} tensors, such as {bad[0]}"
        raise ModelMismatchError(
            "the weights hold NaN or infinite values", where=where, why=why, fix="train the model again"
        )
