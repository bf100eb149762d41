"""Resumable states: written whole, named by their content, the previous one kept."""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch

from mrirecon.errors import InputError, ModelMismatchError, UnsafeContentError
from mrirecon.io import atomic_path

KEPT = 2
FORMAT = 1  # raised when a state of today could no longer be gone on from as it is meant
_NAME = re.compile(r"step-(\d{8})-([0-9a-f]{16})\.pt$")
State = dict[str, Any]  # tensors and plain data, as torch.load(weights_only=True) takes


def save_state(folder: Path, step: int, state: State) -> Path:
    """Write a state; the one before it stays, older ones go.

    The name holds the first digits of the content's SHA-256, so that a damaged file is known for what it is.

    Raises:
        ResourceError: it cannot be written; those that were there are untouched.

    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    content = buffer.getvalue()
    path = folder / f"step-{step:08d}-{hashlib.sha256(content).hexdigest()[:16]}.pt"
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    for old in states(folder)[KEPT:]:
        old.unlink(missing_ok=True)
    return path


def states(folder: Path) -> list[Path]:
    """Return the states in a folder, the latest first."""
    found = [p for p in folder.glob("step-*.pt") if _NAME.search(p.name)] if folder.is_dir() else []
    return sorted(found, key=lambda p: (p.name[:13], p.stat().st_mtime), reverse=True)


def load_state(folder: Path) -> tuple[State | None, list[str]]:
    """Return the latest state that is whole, or None where there is none, and what was wrong with later ones.

    Nothing in the file is executed.

    Raises:
        InputError: there are states, and all of them are damaged; a file of that name that is no state.
        UnsafeContentError: a file of that name holds more than tensors and plain data, which could run code.
        ModelMismatchError: written in another format.

    """
    notes: list[str] = []
    for path in states(folder):
        match = _NAME.search(path.name)
        assert match is not None, "only such files are listed"
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest()[:16] != match[2]:
            notes.append(f"{path.name} is damaged ({len(content)} bytes): the state before it is taken")
            continue
        loaded = _unpacked(content, path)
        if loaded.get("format") != FORMAT:
            raise ModelMismatchError(
                "the run was begun by another version of mrirecon",
                where=str(path),
                why=f"its state has the format {loaded.get('format')}, and this version writes {FORMAT}",
                fix="go on with the version that card.md names, or start anew elsewhere",
            )
        return loaded, notes
    if notes:
        raise InputError(
            "every state of this run is damaged", where=str(folder), why="; ".join(notes), fix="start anew elsewhere"
        )
    return None, notes


def _unpacked(content: bytes, path: Path) -> State:
    fix = "remove it, to go on from the state before it, and find out who put it there"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what torch then refuses
            found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        why = " ".join(str(error).split("\n\n")[-1].split())[:300] or "it is a pickle of more than plain data"
        raise UnsafeContentError("this is no state of a run", where=str(path), why=f"refused: {why}", fix=fix) from None
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, EOFError, IndexError) as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise InputError("this is no state of a run", where=str(path), why=why, fix=fix) from None
    if not isinstance(found, dict):
        raise InputError("this is no state of a run", where=str(path), why=f"it is a {type(found).__name__}", fix=fix)
    return found
