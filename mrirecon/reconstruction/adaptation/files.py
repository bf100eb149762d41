"""Adapt a model to the scans of files, and write it as a folder."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mrirecon.io.safe.atomic import atomic_folder, refuse_existing
from mrirecon.io.safe.lock import output_lock
from mrirecon.models.checkpoints import CARD, CONFIG, WEIGHTS, save_model
from mrirecon.reconstruction.adaptation.fit import Progress
from mrirecon.reconstruction.adaptation.scans import adapt
from mrirecon.reconstruction.adaptation.settings import Adaptation
from mrirecon.reconstruction.choose import PREFERRED
from mrirecon.reconstruction.file import read_and_prepare
from mrirecon.reconstruction.plan import Request

_OURS = "|".join(map(re.escape, (WEIGHTS, CONFIG, CARD)))


def adapt_files(
    files: Sequence[str | Path],
    output: str | Path,
    request: Request,
    settings: Adaptation | None = None,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, object]:
    """Adapt a model to the undersampled scans of files, and write it as a folder.

    If no weights have a lower validation error than those of the model, the folder holds these, and its card says so.

    Args:
        files: k-space files, see `mrirecon.io.read`.
        output: the folder to write.
        request: the model (or the method of a shipped model; by default the preferred one), coil maps, preprocessing,
            device and precision.
        settings: steps, time, slices and seed.
        overwrite: replace the folder of a model.
        progress: function of (steps done, steps, current work).

    Returns:
        Plain data: ``folder``, the entries ``adapted from``, ``adapted to`` and ``adaptation`` of the card, and
        ``notes``.

    Raises:
        UsageError: a method without weights, or a folder that exists.
        InputError: a scan that is fully sampled, or has too few samples; see `split_measured` and
            `mrirecon.reconstruction.run.reconstruct`.
        BusyError: another process writes this folder.

    """
    begun, output = time.monotonic(), Path(output)
    settings = settings or Adaptation()
    if request.model is None and request.method == "auto":
        request = replace(request, method=PREFERRED)
    refuse_existing([output], overwrite)
    with output_lock(output, wait=False):
        scans = [read_and_prepare(Path(file), request)[0] for file in files]
        adapted = adapt(scans, request, settings, begun=begun, progress=progress)
        model = adapted.model
        with atomic_folder(output, inputs=files, ours=_OURS) as (folder, _):
            save_model(folder, model.method, model.options, model.model, model.card)
    described = {key: model.card[key] for key in ("adapted from", "adapted to", "adaptation")}
    return {"folder": str(output), **described, "notes": list(adapted.notes)}
