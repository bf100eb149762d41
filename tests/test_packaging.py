"""Test the pinned versions of all dependencies, and the licence of the archive."""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pins():
    lines = (line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines())
    requirements = [Requirement(line) for line in lines if line]
    assert all(str(r.specifier).startswith("==") for r in requirements), "a constraint must name one version"
    return {canonicalize_name(r.name): r.specifier for r in requirements}


def test_everything_installed_is_pinned_by_name():
    found, left = set(), [Requirement(r) for r in PROJECT["dependencies"]]
    left += [Requirement(r) for extra in PROJECT["optional-dependencies"].values() for r in extra]
    left += [Requirement("hatchling"), Requirement("editables")]
    pinned = pins()
    while left:
        wanted = left.pop()
        name = canonicalize_name(wanted.name)
        # a CUDA build of torch pins these itself; an extra may name other extras of this project
        if name in found or name == "mrirecon" or name.startswith(("nvidia", "cuda", "triton")):
            continue
        found.add(name)
        try:
            needs = [Requirement(r) for r in metadata.requires(wanted.name) or []]
        except metadata.PackageNotFoundError:
            needs = []  # nothing to follow; its own pin is checked all the same
        extras = wanted.extras or {""}
        left += [r for r in needs if r.marker is None or any(r.marker.evaluate({"extra": e}) for e in extras)]
    assert sorted(found - set(pinned)) == []
    assert "llvmlite" in found, "what dependencies need must be followed too"


def test_pins_lie_within_what_the_project_allows():
    pinned = pins()
    for text in PROJECT["dependencies"]:
        wanted = Requirement(text)
        version = str(pinned[canonicalize_name(wanted.name)]).removeprefix("==")
        assert wanted.specifier.contains(version), text
    assert str(pinned["torch"]) == "==2.13.0"


def test_licence_and_citation_name_the_same_project():
    assert "MIT License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert "license: MIT" in citation
    version = (ROOT / "mrirecon" / "__init__.py").read_text(encoding="utf-8").split('__version__ = "')[1].split('"')[0]
    assert f"version: {version}" in citation
