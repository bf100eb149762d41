"""Test the public names of `mrirecon`: all exist, and each is imported on first use only."""

from __future__ import annotations

import subprocess
import sys

import pytest

import mrirecon

NAMES = ["read", "reconstruct", "Problem", "build", "list_methods", "espirit", "make_mask", "evaluate", "train"]


@pytest.mark.parametrize("name", [*NAMES, "load_model"])
def test_every_public_name_is_there(name):
    assert name in mrirecon.__all__
    assert name in dir(mrirecon)
    assert callable(getattr(mrirecon, name))


def test_no_other_name_is_public():
    assert set(mrirecon.__all__) == {*NAMES, "load_model", "Preprocess", "__version__"}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mrirecon.nothing


def test_the_package_alone_is_light():
    code = "import sys, mrirecon; print({'torch', 'numpy', 'h5py', 'scipy', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
