"""Import the weights of a checkpoint as the folder of a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mrirecon.engine import Reconstructor
from mrirecon.errors import InputError, ModelMismatchError, UsageError
from mrirecon.io.safe.atomic import sha256
from mrirecon.methods.registry import build, resolve
from mrirecon.models.checkpoints import CONFIG, save_model
from mrirecon.models.importing.containers import parse_settings, read_checkpoint
from mrirecon.models.importing.layouts import LAYOUTS, Conversion, Layout, Source, recognise, rename
from mrirecon.registries import nearest

_SHOWN = 20


def import_model(
    file: str | Path,
    folder: str | Path,
    *,
    layout: str | None = None,
    config: str | Path | None = None,
    options: Mapping[str, object] | None = None,
    source: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Convert a checkpoint of another toolkit to a folder of a model, without executing anything from it.

    Args:
        file: the checkpoint.
        folder: folder to write; it must not contain a model.
        layout: name of `LAYOUTS`; by default, recognised by the names of the weights.
        config: settings of the training (YAML), where the checkpoint has none.
        options: options of the method that override what weights and settings state, and ``crop`` of fastMRI's U-Net.
        source: where the file comes from, for the card.
        overwrite: replace a model in the folder.

    Raises:
        InputError, UnsafeContentError: see `read_checkpoint`.
        ModelMismatchError: missing, unknown, misshapen or non-finite weights; the message lists them.
        UsageError: an unknown layout or option, or a setting that cannot be imported.

    """
    folder = Path(folder)
    if (folder / CONFIG).exists() and not overwrite:
        fix = "choose another folder, or pass --overwrite"
        raise UsageError("there is a model in the folder already", where=str(folder), fix=fix)
    checkpoint = read_checkpoint(file)
    settings = checkpoint.settings | (_read_settings(Path(config)) if config is not None else {})
    given = Source(checkpoint, settings)
    chosen = _find(layout, given)
    try:
        conversion = chosen.convert(given)
    except (TypeError, AttributeError, KeyError) as error:  # settings of another structure
        why, fix = f"{type(error).__name__}: {error}", "check the settings in the file, or give them with --config"
        raise InputError("the settings are not those of this toolkit", where=str(file), why=why, fix=fix) from None
    conversion.options |= dict(options or {})
    resolved = resolve(conversion.method, conversion.options)
    model, left_out = _fill(conversion, given)
    assumed = {key: value for key, value in given.assumed.items() if not _covered(key, options or {})}
    card: dict[str, object] = {
        "data": "not stated: see the source",
        "licence": "as the source states",
        "source": source or "not stated",
        "file": f"{Path(file).name}, SHA-256 {sha256(file)}",
        "imported as": f"{chosen.name} ({chosen.toolkit})",
        "container": checkpoint.container,
        **conversion.facts,
        "assumed, because neither weights nor settings state it": assumed or "nothing",
        "stored but not used": left_out[:_SHOWN] or "nothing",
        "does not apply": "to data outside of its training data, which mrirecon does not know; scores are not checked",
    }
    return save_model(folder, conversion.method, resolved, model, card)


def _find(layout: str | None, source: Source) -> Layout:
    if layout is None:
        return recognise(source)
    if layout not in LAYOUTS:
        raise UsageError(f"unknown layout {layout!r}", where="--as", fix=nearest(layout, list(LAYOUTS)))
    if not LAYOUTS[layout].fits(source):
        why = f"its weights are named {', '.join(list(source.weights)[:3])} ..."
        raise ModelMismatchError(f"this is not {layout}", where=source.where, why=why, fix="omit --as")
    return LAYOUTS[layout]


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        return parse_settings(path.read_bytes(), str(path))
    except OSError as error:
        raise InputError(
            "the settings cannot be read", where=str(path), why=error.strerror, fix="check --config"
        ) from None


def _covered(key: str, options: Mapping[str, object]) -> bool:
    """Return whether the user has given an option in place of a setting."""
    names = {"time_steps": "steps", "length": "steps", "fft_centered": "fourier", "backward_operator": "fourier"}
    names |= {"normalization_type": "scale", "normalize_inputs": "scale", "scaling_key": "scale"}
    last = key.rsplit(".", 1)[-1]
    return names.get(last, last) in options


@torch.no_grad()
def _fill(conversion: Conversion, source: Source) -> tuple[Reconstructor, list[str]]:
    """Return the model with the weights of the checkpoint, and the names that were left out."""
    weights, left_out, unknown = rename(conversion, source.weights)
    with torch.device("meta"):
        template = build(conversion.method, conversion.options)
    wanted = dict(template.named_parameters())  # a shared weight once
    expected = dict(template.named_parameters(remove_duplicate=False))
    _check_shared(weights, conversion, source.where)
    wrong = [f"{name} has no place" for name in unknown]
    wrong += [f"{name} has no place" for name in weights if name not in expected]
    wrong += [f"{name} is missing" for name in wanted if name not in weights]
    wrong += [
        f"{name} is {tuple(weights[name].shape)}, not {tuple(w.shape)}"
        for name, w in wanted.items()
        if name in weights and weights[name].shape != w.shape
    ]
    if wrong:
        why = "; ".join(wrong[:_SHOWN] + ([f"and {len(wrong) - _SHOWN} more"] if len(wrong) > _SHOWN else []))
        fix = "check --as and the settings: every weight must have its place"
        raise ModelMismatchError("the weights do not fit the network", where=source.where, why=why, fix=fix)
    bad = [name for name, w in weights.items() if not (w.is_floating_point() and bool(torch.isfinite(w).all()))]
    if bad:
        why = f"{len(bad)} of {len(weights)} tensors, such as {bad[0]}"
        raise ModelMismatchError(
            "the weights hold NaN, infinite values or no real numbers",
            where=source.where,
            why=why,
            fix="get the file again",
        )
    model = build(conversion.method, conversion.options)
    for name, parameter in model.named_parameters():
        parameter.copy_(weights[name])
    return model.eval(), left_out


def _check_shared(weights: Mapping[str, Tensor], conversion: Conversion, where: str) -> None:
    """Refuse different values where the network has one shared weight, as the PReLU of a CascadeNet."""
    if not conversion.options.get("shared_prelu"):
        return
    activations = [w for name, w in weights.items() if w.ndim == 1 and w.numel() == 1 and "conv" in name]
    if any(not torch.equal(w, activations[0]) for w in activations):
        why = "ATOMMIC shares one PReLU in all layers, and these differ"
        raise ModelMismatchError("the weights do not fit the network", where=where, why=why, fix="check --as")
