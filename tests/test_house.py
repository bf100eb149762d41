"""Test the order of folders, and rules that a program can check."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mrirecon"
# A folder imports only from folders above it, and from itself. Where two names fit a file, the longer one counts.
ORDER = [
    *("errors", "renames", "registries", "io.drawing", "physics", "engine", "networks", "coils", "masks", "methods"),
    *("io", "metrics", "models", "data", "reconstruction"),
    *("training.config", "training", "evaluation", "evaluation.report", "evaluation.study", "tools", "cli"),
]
FILES = sorted(PACKAGE.rglob("*.py"))


def room(module: str) -> str | None:
    """Return the entry of `ORDER` that a dotted name below mrirecon belongs to."""
    fitting = [name for name in ORDER if f"{module}.".startswith(f"{name}.")]
    return max(fitting, key=len, default=None)


def imports(tree: ast.AST):
    """Yield the modules that are imported when the file runs, not those that only annotations name."""
    annotations = [n for n in ast.walk(tree) if isinstance(n, ast.If) and getattr(n.test, "id", "") == "TYPE_CHECKING"]
    ignored = {id(node) for branch in annotations for node in ast.walk(branch)}
    for node in ast.walk(tree):
        if id(node) in ignored:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mrirecon":
            yield from (f"{node.module}.{alias.name}".removeprefix("mrirecon.") for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (a.name.removeprefix("mrirecon.") for a in node.names if a.name.startswith("mrirecon."))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_imports_only_from_above(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if parts[0] in ("__init__", "__main__"):
        return
    here = room(".".join(parts))
    assert here is not None, f"{parts[0]} has no place in the order"
    for target in imports(ast.parse(path.read_text())):
        if target not in ("__version__", "import_on_use"):
            above = room(target)
            assert above is not None, f"{target} has no place in the order"
            assert ORDER.index(above) <= ORDER.index(here), f"{here} is above {above}"


def test_the_package_has_few_entries():
    entries = [p.name for p in PACKAGE.iterdir() if p.name != "__pycache__"]
    assert len(entries) <= 20, sorted(entries)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_is_a_room(path):
    text = path.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "what is this file for?"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            inner = any(node in ast.walk(f) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) and f is not node)
            override = path.name in ("operators.py", "regularizers.py", "wavelets.py")
            assert inner or override or ast.get_docstring(node), f"{node.name} has no docstring"


def test_nothing_tracked_names_a_machine():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    words = ["/wo" + "rk/", "/root" + "/", "far" + "m-"]
    for name in listed.stdout.split():
        path = ROOT / name
        if path.suffix in (".py", ".md", ".toml", ".sh", ".txt", ".cff", ""):
            text = path.read_text(errors="ignore")
            assert not [w for w in words if w in text], name


def test_json_from_elsewhere_is_read_in_one_place():
    """`mrirecon.io.safe.text.parse_json` bounds its depth; what our own processes say to each other is no file."""
    own = {"text.py", "sandbox.py", "packing.py"}
    assert [str(p) for p in FILES if p.name not in own and "json.load" in p.read_text()] == []
