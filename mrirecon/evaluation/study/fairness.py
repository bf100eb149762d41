"""What a comparison must not hide: methods that learn under other conditions, or from what they are tested on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mrirecon.data.sources import expand, person_of
from mrirecon.data.volumes import PHANTOM
from mrirecon.errors import UsageError
from mrirecon.evaluation.study.parts import PlannedMethod, PlannedScan
from mrirecon.models.checkpoints import describe_model
from mrirecon.training.config import differences

_SHOWN = 4


def unequal(methods: Sequence[PlannedMethod]) -> list[str]:
    """Say where methods that are trained here do not learn under the same conditions."""
    trained = [(m.name, m.config.plain()) for m in methods if m.config is not None]
    out = []
    for what, part in (("from the same data", "data"), ("with the same loss", "loss")):
        changed = [d for _, plain in trained[1:] for d in differences(trained[0][1][part], plain[part])]
        if changed:
            told = "; ".join(f"{part}.{d}" for d in dict.fromkeys(changed[:_SHOWN]))
            out.append(f"the methods that are trained here do not all learn {what}: {told}")
    lengths = dict.fromkeys(m.what.rpartition(" for ")[2] for m in methods if m.config is not None)
    if len(lengths) > 1:
        out.append(f"the methods that are trained here are not trained equally long: {', '.join(sorted(lengths))}")
    return out


def seen_before(methods: Sequence[PlannedMethod], scans: Sequence[PlannedScan]) -> list[str]:
    """Say where a model may know a person that it is tested on, as far as names tell.

    Raises:
        UsageError: a method would be trained, or its best weights chosen, on a file that the study tests on.

    """
    tested = {_identity(s.source): s for s in scans}
    people = {s.person for s in scans}
    out = []
    for m in methods:
        if m.config is not None:
            data = m.config.settings.data
            given = [*data.train, *(data.val if isinstance(data.val, list) else [])]
            files = expand(given, data.exclude, m.config.path.parent, f"data of {m.config.path}")
            both = [f for f in files if _identity(f) in tested]
            if both:
                raise UsageError(
                    f"{m.name} would learn from what it is tested on",
                    where=str(m.config.path),
                    why=", ".join(both[:_SHOWN]),
                    fix="test on other scans: take them out of the study's data, or of the training's",
                )
            known = {person_of(Path(f.partition("#")[0]).name, data.person) for f in files}
        elif m.model is not None:
            card = describe_model(m.model)["card"]
            listed = card.get("people") if isinstance(card, dict) else None
            known = {str(p) for group in listed.values() for p in group} if isinstance(listed, dict) else set()
        else:
            continue
        both = sorted(known & people)
        if both:
            out.append(f"{m.name} has learned from people of the same name: {', '.join(both[:_SHOWN])}")
    return out


def _identity(text: str) -> str:
    file, sign, part = text.partition("#")
    return text if file.split(":")[0] == PHANTOM else f"{Path(file).resolve()}{sign}{part}"
