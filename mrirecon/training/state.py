"""Save and load resumable states: written atomically, named by their hash, with the previous state retained."""

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
from mrirecon.io.safe.atomic import atomic_path

RETAINED = 2  # number of states
FORMAT = 1  # incremented when this version cannot resume the states of earlier versions
_NAME = re.compile(r"step-(\d{8})-([0-9a-f]{16})\.pt$")
State = dict[str, Any]  # tensors and plain data that torch.load(weights_only=True) accepts


def save_state(folder: Path, step: int, state: State) -> Path:
    """Write a state, retain the previous one, and delete older ones.

    The file name contains the first digits of the content's SHA-256, so that damage is detected.

    Raises:
        ResourceError: the state cannot be written; earlier states are unchanged.

    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    content = buffer.getvalue()
    path = folder / f"step-{step:08d}-{_short_hash(content)}.pt"
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    for old in states(folder)[RETAINED:]:
        old.unlink(missing_ok=True)
    return path


def states(folder: Path) -> list[Path]:
    """Return the state files in a folder, latest first."""
    paths = [p for p in folder.glob("step-*.pt") if _NAME.search(p.name)] if folder.is_dir() else []
    return sorted(paths, key=lambda p: (p.name[:13], p.stat().st_mtime), reverse=True)


def load_state(folder: Path) -> tuple[State | None, list[str]]:
    """Return the latest intact state, or None, and notes on damaged later states.

    Nothing in the file is executed.

    Raises:
        InputError: all states are damaged, or a file with such a name is not a state.
        UnsafeContentError: a file contains more than tensors and plain data, and could run code.
        ModelMismatchError: the state has another format.

    """
    notes: list[str] = []
    for path in states(folder):
        content = path.read_bytes()
        if _short_hash(content) != path.stem.rpartition("-")[2]:
            notes.append(f"{path.name} is damaged ({len(content)} bytes): using the previous state")
            continue
        state = _unpickled(content, path)
        if state.get("format") != FORMAT:
            raise ModelMismatchError(
                "the run was started with another version of mrirecon",
                where=str(path),
                why=f"its state has format {state.get('format')}; this version uses {FORMAT}",
                fix="resume with the version in card.md, or start a new run with another --output",
            )
        return state, notes
    if notes:
        raise InputError(
            "every state of this run is damaged",
            where=str(folder),
            why="; ".join(notes),
            fix="start a new run with another --output",
        )
    return None, notes


def _short_hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _unpickled(content: bytes, path: Path) -> State:
    error_class: type[InputError | UnsafeContentError] = InputError
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about some content before rejecting it
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        if isinstance(state, dict):
            return state
        why = f"the content is a {type(state).__name__}"
    except pickle.UnpicklingError as error:
        text = " ".join(str(error).split("\n\n")[-1].split())[:300] or "the pickle contains more than plain data"
        why, error_class = f"rejected: {text}", UnsafeContentError
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, EOFError, IndexError) as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    raise error_class(
        "not a state of a run",
        where=str(path),
        why=why,
        fix="remove it to resume from the previous state, and find out where it came from",
    )
