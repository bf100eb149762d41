"""Test the README and the site: commands, options, code and files that pages name, and that the site builds."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from typer.main import get_command

from mrirecon.cli import app, main
from mrirecon.data.phantom import phantom
from mrirecon.errors import UsageError
from mrirecon.io import read_image
from tests.problems import random_problem

ROOT = Path(__file__).parents[1]
WRITTEN = {"examples", "generated"}  # folders of pages that are written from the code
PAGES = [
    ROOT / "README.md",
    *(p for p in sorted((ROOT / "docs").rglob("*.md")) if not WRITTEN & set(p.relative_to(ROOT).parts)),
]
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.M | re.S)
# Long, or for another machine; tests of their own run these small.
NOT_RUN = re.compile(r"mrirecon (benchmark|models adapt|train (?!.*--dry-run)|study (?!.*--dry-run))|--model adapted")
COMMAND = get_command(app)
QUICK = ("start.md", "masks.md", "train-on-kspace.md")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT).as_posix())


def page(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def python_block(path: str, number: int = 0) -> str:
    return re.findall(r"^```python\n(.*?)^```", page(path), re.M | re.S)[number]


def lines_of_code(text: str) -> list[str]:
    """Return the lines of indented and of bash blocks, without comments."""
    blocks = "".join(BLOCK.findall(text)) + "".join(re.findall(r"^    (\S.*\n)", text, re.M))
    return [line.split("  #")[0].strip() for line in blocks.splitlines()]


def commands(text: str) -> list[str]:
    return [line for line in lines_of_code(text) if line.startswith("mrirecon ")]


def commands_to_run(text: str) -> list[str]:
    """Return the commands in bash blocks; those in indented blocks need a cluster, a container or other files."""
    return commands("".join(f"```bash\n{block}```\n" for block in BLOCK.findall(text)))


def mentioned(text: str) -> list[str]:
    """Return the commands in blocks, and those in backticks in the text."""
    inline = re.findall(r"`(mrirecon [a-z][^`]*)`", " ".join(text.split()))
    return [*commands(text), *inline]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Change to a folder with the sample scans, also under the names that the pages use for a user's own."""
    shutil.copytree(ROOT / "data_samples", tmp_path / "data_samples")
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    shutil.copy(ROOT / "data_samples" / "brain_4x.h5", tmp_path / "scan.h5")
    shutil.copy(ROOT / "data_samples" / "brain_full.h5", tmp_path / "full.h5")
    shutil.copytree(tmp_path / "data_samples", tmp_path / "scans", ignore=shutil.ignore_patterns("[!b]*"))
    head = phantom((112, 96), 2, 1).transpose(2, 1, 0)
    nibabel.save(nibabel.Nifti1Image(head, np.diag([1.0, 1.0, 4.0, 1.0])), tmp_path / "volume.nii.gz")
    for number, text in enumerate(
        re.findall(r"^```yaml\n(.*?)^```", page("docs/howto/train-on-kspace.md"), re.M | re.S)
    ):
        (tmp_path / ("kspace.yaml" if number == 0 else f"kspace{number}.yaml")).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- what pages name exists ---


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_every_command_and_option_exists(path):
    for text in mentioned(path.read_text(encoding="utf-8")):
        words = shlex.split(text)[1:]
        if words[0] == "--plugin":
            words = words[2:]
        command = COMMAND
        while words and hasattr(command, "commands"):
            word = words.pop(0)
            if word.startswith("-"):
                assert word in ("--help", "--install-completion", "--version"), text
                break
            assert word in command.commands, f"{text}: there is no command {word}"
            command = command.commands[word]
        parameters = list(command.params)
        if command.context_settings.get("ignore_unknown_options"):  # submit passes these on
            parameters += COMMAND.commands[command.name].params
        known = {option for p in parameters for option in (*p.opts, *p.secondary_opts)}
        known |= {"--help", "--traceback", "--quiet"}
        used = {word.split("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)}
        assert used <= known, f"{text}: unknown {used - known}"


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_every_file_and_link_exists(path):
    text = path.read_text(encoding="utf-8")
    places = r"(?:scripts|tests|configs|mrirecon|data_samples|docs)/[\w./-]*\w/?"
    named = re.findall(rf"`({places})`", text) + re.findall(rf"(?:bash|python) ({places})", text)
    if "docs/contributing" not in name(path):  # their examples would be new files
        for place in named:
            assert (ROOT / place).exists(), place
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        target = (path.parent / link).resolve()
        if WRITTEN & set(target.parts):
            continue  # the build checks these
        assert target.exists(), link


def test_the_readme_is_short():
    assert len(page("README.md").splitlines()) <= 150


# --- what pages say works ---


def run_page(path: str) -> None:
    for command in commands_to_run(page(path)):
        if NOT_RUN.search(command):
            continue
        with pytest.raises(SystemExit) as ended:
            main(shlex.split(command)[1:])
        assert ended.value.code == 0, command


RUNNABLE = [name(p) for p in PAGES if commands_to_run(p.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("path", [p for p in RUNNABLE if p.endswith(QUICK)])
def test_commands_of_a_page_run_in_order(path, here):
    run_page(path)


@pytest.mark.slow
@pytest.mark.parametrize("path", [p for p in RUNNABLE if not p.endswith(QUICK)])
def test_commands_of_other_pages_run_in_order(path, here):
    run_page(path)


@pytest.mark.parametrize("path", ["README.md", "docs/start.md"])
def test_python_runs(path, here):
    names: dict[str, object] = {}
    for block in re.findall(r"^```python\n(.*?)^```", page(path), re.M | re.S):
        exec(compile(block, path, "exec"), names)
    assert names["result"].image.shape == (176, 144)
    assert path == "README.md" or read_image(here / "image.h5").shape == (3, 176, 144)


def test_python_of_the_notebook_page_runs(here):
    names: dict[str, object] = {}
    for block in re.findall(r"^```python\n(.*?)^```", page("docs/howto/notebook.md"), re.M | re.S):
        if ".show()" not in block:  # opens a window
            exec(compile(block, "notebook.md", "exec"), names)
    assert names["image"].image.shape == (176, 144)


def test_the_method_of_its_page_works(monkeypatch):
    import mrirecon.methods.registry

    methods = mrirecon.methods.registry.METHODS
    monkeypatch.setattr(methods, "_entries", dict(methods.loaded))
    exec(compile(python_block("docs/contributing/method.md"), "method.md", "exec"), {"__name__": "gradient_net"})
    p = random_problem((16, 18))
    model = mrirecon.methods.registry.build("gradient-net", {"cascades": 3}).double()
    model(p).abs().sum().backward()
    assert all(bool(w.grad.any()) for w in model.parameters())
    with pytest.raises(UsageError, match="unknown option"):
        mrirecon.methods.registry.build("gradient-net", {"cascade": 3})


def test_the_mask_family_of_its_page_works(monkeypatch):
    from mrirecon.masks import FAMILIES, make_mask

    assert "cosine" not in FAMILIES
    monkeypatch.setattr(FAMILIES, "_entries", dict(FAMILIES._entries))
    exec(compile(python_block("docs/contributing/mask.md"), "mask.md", "exec"), {"__name__": "cosine"})
    result = make_mask("cosine", (64, 60), 4.0, calibration=8, seed=1, options={"power": 3.0})
    assert result.mask.sum() == 64 * 15


def test_the_reader_of_its_page_works(monkeypatch, tmp_path):
    from mrirecon import read, reconstruct
    from mrirecon.errors import InputError
    from mrirecon.io.readers.registry import READERS

    monkeypatch.setattr(READERS, "_entries", dict(READERS.loaded))
    exec(compile(python_block("docs/contributing/reader.md"), "reader.md", "exec"), {"__name__": "plain"})
    path = tmp_path / "scan.plain"
    READERS["plain"].sample(path)
    scan = read(path)
    assert scan.format == "plain"
    assert reconstruct(scan, method="rss").images.shape == (1, 32, 24)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InputError, match="is truncated"):
        read(path)


def test_the_metric_and_the_loss_of_their_page_work(monkeypatch):
    from mrirecon.metrics import LOSSES, METRICS

    for registry in (METRICS, LOSSES):
        monkeypatch.setattr(registry, "_entries", dict(registry.loaded))
    exec(compile(python_block("docs/contributing/metric.md"), "metric.md", "exec"), {"__name__": "mae"})
    assert float(METRICS["mae"].build(np.full((8, 8), 3.0), np.full((8, 8), 2.0))) == 0.5
    assert LOSSES["logcosh"].summary == "mean log cosh(x - r)"


def test_the_site_builds_with_all_examples(tmp_path):
    pytest.importorskip("sphinx_gallery")
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("examples", "generated"))
    for other in ("data_samples", "scripts"):
        (tmp_path / other).symlink_to(ROOT / other)
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "--quiet", "docs", "site"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    site = tmp_path / "site"
    assert len(list((site / "examples").glob("0*.html"))) >= 8
    assert "cascades" in (site / "reference" / "generated" / "methods" / "cirim.html").read_text(encoding="utf-8")
    pages = "".join(p.read_text(encoding="utf-8") for p in site.rglob("*.html"))
    loaded = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(https?:[^"]*)"', pages)
    assert loaded == [], "a page must not need a network"
