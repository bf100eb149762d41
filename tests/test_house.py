"""The order of the house, and habits that a program can check."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mrirecon"
# A file imports only from rooms above it, and from its own.
ORDER = [
    *(
        "errors",
        "plugins",
        "registries",
        "text",
        "threads",
        "precision",
        "operators",
        "wavelets",
        "sparsity",
        "problem",
        "physics",
        "scale",
        "solvers",
    ),
    *("networks", "reversible", "engine", "hardware"),
    *(
        "updates",
        "steps",
        "coils",
        "preprocess",
        "heldout",
        "masks",
        "registry",
        "regularization",
        "methods",
        "costs",
        "metrics",
    ),
    "lesions",
    *(
        "io",
        "pictures",
        "data",
        "config",
        "checkpoints",
        "training",
        "calibrate",
    ),
    *("reconstruction", "trust", "evaluate"),
    *("selftest", "doctor", "benchmark", "report", "study", "cli"),
]
FILES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0].removesuffix(".py")


def imports(tree: ast.AST):
    """Yield the rooms that are imported when the file runs, not those that only annotations name."""
    annotations = [n for n in ast.walk(tree) if isinstance(n, ast.If) and getattr(n.test, "id", "") == "TYPE_CHECKING"]
    ignored = {id(node) for branch in annotations for node in ast.walk(branch)}
    for node in ast.walk(tree):
        if id(node) in ignored:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mrirecon"):
            if node.module == "mrirecon":
                yield from (alias.name for alias in node.names)
            else:
                yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("mrirecon."))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_imports_only_from_above(path):
    here = room(path)
    if here in ("__init__", "__main__"):
        return
    assert here in ORDER, f"{here} has no place in the order"
    for target in imports(ast.parse(path.read_text())):
        if target == "__version__" or (here == "registry" and target == "methods"):
            continue  # the registry fetches the methods when first asked for them
        if (here, target) == ("reconstruction", "evaluate"):
            continue  # until scores have a folder of their own above both
        assert ORDER.index(target) <= ORDER.index(here), f"{here} is above {target}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_is_a_room(path):
    text = path.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "what is this file for?"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            inner = any(node in ast.walk(f) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) and f is not node)
            override = path.name in ("operators.py", "sparsity.py", "wavelets.py")
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
    """`mrirecon.text.parse_json` bounds its depth; what our own processes say to each other is no file."""
    own = {"text.py", "isolated.py", "apart.py", "packing.py"}
    assert [str(p) for p in FILES if p.name not in own and "json.load" in p.read_text()] == []
