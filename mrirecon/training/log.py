"""Write the log of a run: one JSON object per line, and optionally TensorBoard files."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mrirecon.errors import UsageError
from mrirecon.io.safe.atomic import atomic_path
from mrirecon.io.safe.text import parse_json

NAME = "log.jsonl"


class Log:
    """Write the log lines of a run.

    Args:
        folder: folder of the run.
        tensorboard: write TensorBoard files.
        writes: whether this process writes the log.

    Raises:
        UsageError: TensorBoard is not installed.

    """

    def __init__(self, folder: Path, tensorboard: bool, writes: bool) -> None:
        self.path, self.writes = folder / NAME, writes
        self.board: Any = None  # an untyped class of an optional package
        if tensorboard and writes:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                fix = "pip install tensorboard, or set train.tensorboard to false"
                raise UsageError("TensorBoard is not installed", where="train.tensorboard", fix=fix) from None
            self.board = SummaryWriter(str(folder / "tensorboard"))

    def begin(self, step: int, command: Sequence[str] | None, *, new: bool, validated: bool) -> None:
        """Remove the lines after the state from which the run resumes, and log the start.

        Args:
            step: step of that state.
            command: command line.
            new: whether the run is new, without a state.
            validated: whether the state was validated.

        """
        if not self.writes:
            return
        if self.path.is_file():
            lines = [] if new else self.path.read_text(encoding="utf-8").splitlines()
            retained = [
                x for x in lines if _step(x) < step or (_step(x) == step and (validated or "validation" not in x))
            ]
            with atomic_path(self.path) as temporary:
                temporary.write_text("".join(line + "\n" for line in retained), encoding="utf-8")
        self.write({"step": step, "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "command": command})

    def write(self, line: Mapping[str, object]) -> None:
        """Append a line; NaN and infinite values become null."""
        if not self.writes:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_plain(line)) + "\n")
        if self.board is not None:
            scores = line.get("validation")
            named = {f"validation/{k}": v for k, v in scores.items()} if isinstance(scores, Mapping) else line
            for name, value in named.items():
                if isinstance(value, int | float) and name != "step":
                    self.board.add_scalar(name, value, line["step"])

    def close(self) -> None:
        """Close the TensorBoard files."""
        if self.board is not None:
            self.board.close()


def _step(line: str) -> float:
    """Return the step of a line; infinity for an incomplete line."""
    try:
        return float(parse_json(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
