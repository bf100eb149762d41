"""Convert files with names of earlier versions: folders of models and runs, and YAML files.

    python scripts/convert_old_names.py my_model runs/mine configs/mine.yaml

In a model's folder, the options and the card are rewritten, and the folder is sealed again if its seal was valid. In a
run's folder, ``config.yaml`` and the models are rewritten; states have no names of options and need no conversion.
Comments and layout of YAML files are preserved. Converted files are not changed again.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import yaml

from mrirecon.io import atomic_path, write_json
from mrirecon.models.checkpoints import CONFIG, SEAL, describe_model, seal_model
from mrirecon.registries.renames import CARD_KEYS, KEYS, STUDY_KEYS, VALUES, new_option


def main() -> None:
    """Convert the files of the command line, and print the changes."""
    for name in sys.argv[1:]:
        path = Path(name)
        files = [path] if path.is_file() else [*sorted(path.rglob("*.yaml")), *sorted(path.rglob(CONFIG))]
        for one in files:
            changed = _convert_model(one.parent) if one.name == CONFIG else _convert_yaml(one)
            print(f"{one}: {'converted' if changed else 'nothing to do'}")


def _convert_model(folder: Path) -> bool:
    """Rewrite a model's options and card, and seal it again."""
    about = describe_model(folder)  # raises an error if the folder was changed after it was sealed
    old = json.dumps(about)
    options = about["options"]
    assert isinstance(options, dict), "describe_model checks it"
    about["options"] = dict(new_option(str(about["method"]), key, value) for key, value in options.items())
    card = about["card"]
    assert isinstance(card, dict), "describe_model checks it"
    if "weigh" in card:
        card = {("blend" if key == "weigh" else key): value for key, value in card.items()}
        card["blend"] = str(card["blend"]).replace("held-out", "cross_validated", 1)
    about["card"] = _card(card)
    if json.dumps(about) == old:
        return False
    write_json(folder / CONFIG, {key: value for key, value in about.items() if key != SEAL})
    seal_model(folder)
    return True


def _card(value: object) -> object:
    if isinstance(value, dict):
        return {CARD_KEYS.get(key, key): _card(v) for key, v in value.items()}
    return [_card(v) for v in value] if isinstance(value, list) else value


def _convert_yaml(path: Path) -> bool:
    """Rewrite keys and values in place, from the last to the first."""
    text = path.read_text(encoding="utf-8")
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    edits: list[tuple[int, int, str]] = []
    if root is not None:
        _find(root, (), _method(root), edits)
    out = text
    for start, stop, new in sorted(edits, reverse=True):
        out = out[:start] + new + out[stop:]
    if out == text:
        return False
    with atomic_path(path) as temporary:
        temporary.write_text(out, encoding="utf-8")
    return True


def _method(root: yaml.Node) -> str:
    """Return the method at the top level of a configuration, or an empty string."""
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    return next((str(value.value) for key, value in pairs if key.value == "method"), "")


def _find(node: yaml.Node, path: tuple[str, ...], method: str, edits: list[tuple[int, int, str]]) -> None:
    if isinstance(node, yaml.SequenceNode):
        for inner in node.value:
            _override(inner, path, edits) if isinstance(inner, yaml.ScalarNode) else _find(inner, path, method, edits)
        return
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        here = (*path, str(key.value))
        scalar = isinstance(value, yaml.ScalarNode)
        given = yaml.safe_load(value.value) if scalar and value.style is None else value.value
        name, present = _renamed(here, method, given)
        if name != here[-1]:
            edits.append((key.start_mark.index, key.end_mark.index, name))
        if scalar:
            if present is not given:
                edits.append((value.start_mark.index, value.end_mark.index, str(present)))
            _override(value, here, edits)
        else:
            _find(value, here, method, edits)


def _override(node: yaml.ScalarNode, path: tuple[str, ...], edits: list[tuple[int, int, str]]) -> None:
    """Rewrite an override of a study's method, such as ``model.weigh=none``."""
    match = re.fullmatch(r"([\w.]+)=(.*)", str(node.value), re.DOTALL)
    if match is None or path[-1] not in ("set", "overrides"):
        return
    parts = match[1].split(".")
    given = yaml.safe_load(match[2])
    name, present = _renamed(tuple(parts), "", given)
    if name != parts[-1] or present is not given:
        value = match[2] if present is given else present
        edits.append((node.start_mark.index, node.end_mark.index, f"{'.'.join([*parts[:-1], name])}={value}"))


def _renamed(path: tuple[str, ...], method: str, value: object) -> tuple[str, object]:
    """Return the present name and value of a key; an unchanged value is returned as given."""
    if path[:-1] == ("model",):
        return new_option(method, path[-1], value)
    if len(path) == 4 and path[0] == "methods" and path[2] == "options":
        return new_option(path[1], path[-1], value)
    key = ".".join(path)
    study = ".".join((path[0], "*", *path[2:])) if path[0] == "methods" else key
    new = KEYS.get(key) or STUDY_KEYS.get(study) or key
    choices = VALUES.get(new, {}) if isinstance(value, str | bool) else {}
    return new.rpartition(".")[2] if new != key else path[-1], choices.get(value, value) if choices else value


if __name__ == "__main__":
    main()
