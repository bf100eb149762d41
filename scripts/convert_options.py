"""Write the options of methods in folders of trained models and of runs by their present names, and seal the models.

    python scripts/convert_options.py runs/cirim my_model

A folder is searched with all that is in it for `config.json` (a model) and `config.yaml` (a run that can be resumed).
Weights and training states stay as they are. What is there already by the present names is left alone.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from mrirecon.methods.registry import MOVED, RENAMED
from mrirecon.models.checkpoints import seal_model

_WORDS: dict[str, object] = {"true": True, "false": False}


def renamed(method: str, key: str, value: object) -> tuple[str, object]:
    """Return the present name and value of an option."""
    if key in RENAMED:
        new, values = RENAMED[key]
        return new, values.get(value, value)
    new, moved = MOVED.get((method, key), ("", ()))
    return (new, value) if value in moved else (key, value)


def convert_model(path: Path) -> bool:
    """Convert a model's `config.json`; return whether it changed."""
    about = json.loads(path.read_text(encoding="utf-8"))
    old = about["options"]
    about["options"] = dict(renamed(about["method"], key, value) for key, value in old.items())
    if about["options"] == old:
        return False
    path.write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    seal_model(path.parent)
    return True


def convert_run(path: Path) -> bool:
    """Convert the section `model` of a run's `config.yaml`, line by line; return whether it changed."""
    text = path.read_text(encoding="utf-8")
    named = re.search(r"^method: *(\S+)", text, re.MULTILINE)
    method = named[1] if named else ""

    def option(match: re.Match[str]) -> str:
        key, value = match[1], match[2]
        new, word = renamed(method, key, _WORDS.get(value, value))
        return match[0] if new == key else f"{new}: {word}"

    section = re.search(r"^model:.*\n?(?:[ #].*\n?)*", text, re.MULTILINE)
    if section is None:
        return False
    converted = re.sub(r"\b(\w+): *([\w.-]+)", option, section[0])
    if converted == section[0]:
        return False
    path.write_text(text[: section.start()] + converted + text[section.end() :], encoding="utf-8")
    return True


if __name__ == "__main__":
    for folder in map(Path, sys.argv[1:]):
        models = [path for path in sorted(folder.rglob("config.json")) if convert_model(path)]
        for path in [*models, *(p for p in sorted(folder.rglob("config.yaml")) if convert_run(p))]:
            print(path)
