"""Test plug-ins: a built and installed package, files on the command line, and errors with their location."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = Path(__file__).parents[1] / "plugin_example"
CONFIG = """
method: example-net
model: {features: 4, layers: 2}
data:
  train: ["phantom:0"]
  val: ["phantom:100"]
  crop: [48, 48]
  val_items: 1
  simulation: {coils: 3}
  masks: [{family: cosine, acceleration: 3, calibration: 8}]
loss: {logcosh: 1}
train: {steps: 2, batch: 1, workers: 0, validate_every: 2, validation_images: 0}
"""
STUDY = """
data: {phantoms: {volumes: ["phantom:100"], slices: [2, 3], coils: 3, resolution: 0.4}}
masks: {lines: {family: cosine, acceleration: 3, calibration: 16}}
methods: {zero: {method: zero-filled}, sense: {method: sense, options: {iterations: 3}}}
metrics: [mae, ssim]
"""


def shared_packages() -> str:
    """Return the lines of a .pth file with which another environment finds our packages."""
    return "\n".join([str(ROOT), *(p for p in sys.path if p.endswith("site-packages"))]) + "\n"


def run(python: Path | str, *arguments: object, cwd: Path, code: int = 0) -> str:
    """Run `mrirecon` in another process, far from this folder; return what it printed."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | {"OMP_NUM_THREADS": "1"}
    command = [str(python), "-P", "-m", "mrirecon", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Return the Python of a fresh environment in which the wheel of the example package is installed."""
    pytest.importorskip("hatchling")
    pytest.importorskip("pip")
    folder = tmp_path_factory.mktemp("environment")
    options = ["--no-deps", "--no-index", "--quiet", "--disable-pip-version-check"]
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "wheel", *options, "--no-build-isolation", "-w", folder, EXAMPLE], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (packages / "shared.pth").write_text(shared_packages())
    subprocess.run([*pip, "--python", str(python), "install", *options, wheel], check=True)
    return python


SCAN = """
import sys
from pathlib import Path
from mrirecon.data.phantom import phantom
from mrirecon.data.simulate import simulate_kspace
import mrirecon_example
made = simulate_kspace(phantom((48, 40), 1, 0), 4, 30.0, 0).kspace
mrirecon_example.write_example(Path(sys.argv[1]), made.reshape(4, 48, 40))
"""


def test_an_installed_plugin_runs_through_everything(installed, tmp_path):
    subprocess.run([str(installed), "-c", SCAN, tmp_path / "scan.example"], check=True, cwd=tmp_path)
    told = run(installed, "doctor", "--json", cwd=tmp_path)
    plugins = [f for f in json.loads(told[: told.rindex("}") + 1])["findings"] if f["name"] == "plug-in"]
    assert {f["verdict"] for f in plugins} == {"ok"}
    assert all("mrirecon-example 1.0" in f["message"] for f in plugins)
    assert len(plugins) == 6
    assert "cosine" in run(installed, "masks", "make", "--help", cwd=tmp_path)
    assert "example-net" in run(installed, "methods", cwd=tmp_path)

    (tmp_path / "config.yaml").write_text(CONFIG)
    run(installed, "train", "config.yaml", "-o", "run", cwd=tmp_path)
    run(installed, "masks", "apply", "scan.example", "--family", "cosine", "-R", "2", "--calibration", "16",
        "--set", "power=3", "-o", "undersampled.h5", cwd=tmp_path)  # fmt: skip
    run(installed, "reconstruct", "undersampled.h5", "--model", "run/best", "--maps", "low", "-o", "net.h5",
        cwd=tmp_path)  # fmt: skip
    maps = json.loads((tmp_path / "net.h5.json").read_text())["maps"]["source"]
    assert maps.startswith("low resolution, ")
    run(installed, "reconstruct", ".", "-m", "rss", "-o", "images", cwd=tmp_path)  # found by its suffix
    assert (tmp_path / "images" / "scan_rss.h5").is_file()
    told = run(installed, "evaluate", "net.h5", "scan.example", "--metrics", "mae,psnr", "--json", cwd=tmp_path)
    mean = json.loads(told[told.index("{") : told.rindex("}") + 1])["mean"]
    assert 0 < mean["mae"] < 1
    (tmp_path / "study.yaml").write_text(STUDY)
    run(installed, "study", "study.yaml", "-o", "study", cwd=tmp_path)
    assert "MAE" in (tmp_path / "study" / "report.md").read_text()


def test_without_the_plugin_its_names_are_unknown(tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    told = run(sys.executable, "train", "config.yaml", "--dry-run", cwd=tmp_path, code=2)
    assert "config.yaml" in told
    assert "cosine" in told


def test_a_file_is_a_plugin(tmp_path):
    plugin = EXAMPLE / "mrirecon_example.py"
    told = run(sys.executable, "--plugin", plugin, "masks", "make", "cosine", "--shape", "32x48", "-R", "4", "-o",
               "mask.npy", cwd=tmp_path)  # fmt: skip
    assert told.startswith("cosine, 32×48: acceleration 4 (requested 4)")
    mask = np.load(tmp_path / "mask.npy")
    assert mask.sum() == 32 * 12
    told = run(sys.executable, "--plugin", plugin, "--plugin", plugin, "doctor", cwd=tmp_path)
    assert "mrirecon_example.py" in told


BROKEN = {
    "syntax": ("x = (", "SyntaxError"),
    "import": ("import nothing_of_that_name", "nothing_of_that_name"),
    "taken": (
        "from mrirecon.masks import register_mask\n\n@register_mask()\ndef random(rng, space, count, box):\n"
        '    """Draw nothing."""',
        "there is a mask family 'random' already, from mrirecon.masks.lines",
    ),
    "undocumented": (
        "from mrirecon.metrics import register_metric\n\n@register_metric()\ndef mine(x, r):\n    return 0",
        "has no docstring",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_named_with_its_line(kind, tmp_path):
    text, reason = BROKEN[kind]
    (tmp_path / "bad.py").write_text(text + "\n")
    told = run(sys.executable, "--plugin", "bad.py", "masks", "make", "random", "--shape", "8x8", "-R", "2", "-o",
               "m.npy", cwd=tmp_path, code=2)  # fmt: skip
    assert f"the plug-in {tmp_path / 'bad.py'} cannot be loaded" in told
    assert f"{tmp_path / 'bad.py'}:" in told
    assert reason in told
    assert not (tmp_path / "m.npy").exists()


def test_a_missing_file_is_refused(tmp_path):
    assert "the file does not exist" in run(sys.executable, "--plugin", "no.py", "doctor", cwd=tmp_path, code=2)
    (tmp_path / "a.yaml").write_text("{}")
    assert "does not end in .py" in run(sys.executable, "--plugin", "a.yaml", "doctor", cwd=tmp_path, code=2)


def test_a_broken_package_is_named(tmp_path):
    """An entry point whose module fails: the package, the entry point, the file and the line are named."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    (packages,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (packages / "shared.pth").write_text(shared_packages())
    (packages / "bad_plugin.py").write_text("\nraise RuntimeError('not today')\n")
    about = packages / "bad_plugin-0.1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: bad-plugin\nVersion: 0.1\n")
    (about / "entry_points.txt").write_text("[mrirecon.masks]\nmine = bad_plugin\n")
    python = tmp_path / "venv" / "bin" / "python"
    told = run(python, "masks", "make", "random", "--shape", "8x8", "-R", "2", "-o", "m.npy", cwd=tmp_path, code=2)
    assert "the plug-in bad-plugin 0.1, mrirecon.masks: mine = bad_plugin cannot be loaded" in told
    assert "bad_plugin.py:2" in told
    assert "not today" in told
    assert "pip uninstall bad-plugin" in told
    assert "bad-plugin 0.1" in run(python, "doctor", cwd=tmp_path, code=1)


@pytest.mark.parametrize("key", ["plugin", "plugins"])
def test_no_configuration_names_a_plugin(key, tmp_path):
    (tmp_path / "mine.py").write_text("raise SystemExit('loaded')\n")
    (tmp_path / "config.yaml").write_text(f"method: cirim\n{key}: mine.py\n")
    told = run(sys.executable, "train", "config.yaml", "--dry-run", cwd=tmp_path, code=2)
    assert f"unknown key '{key}'" in told
