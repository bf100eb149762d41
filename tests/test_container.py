"""Test the container: its recipes are linted, name existing files, and build where Docker runs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "scripts" / "container"
DOCKER = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
APPTAINER = (FOLDER / "mrirecon.def").read_text(encoding="utf-8")


def test_hadolint_finds_nothing():
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed: the extra test has it")
    done = subprocess.run([hadolint, "--no-color", FOLDER / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_both_recipes_take_the_same_files_and_these_exist():
    copied = {word for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKER, re.M) for word in line.split()[:-1]}
    (files,) = re.findall(r"^%files\n((?:    .*\n)+)", APPTAINER, re.M)
    assert {line.split()[0] for line in files.splitlines()} == copied
    assert all((ROOT / name).exists() for name in copied)
    ignored = (FOLDER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert {line[1:] for line in ignored if line.startswith("!")} == copied, "the build would not see these"
    assert re.findall(r"^From: (\S+)", APPTAINER, re.M) == list(dict.fromkeys(re.findall(r"^FROM (\S+)", DOCKER, re.M)))


def test_it_runs_as_an_ordinary_user():
    last = DOCKER.rpartition("FROM ")[2]
    assert re.findall(r"^USER (\S+)", last, re.M) == ["1000"]
    assert 'ENTRYPOINT ["mrirecon"]' in last


def test_both_run_one_script_with_the_build():
    wrong = subprocess.run(["sh", FOLDER / "install.sh", "gpu"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stderr) == (2, "the build is cpu or cuda, not gpu\n")
    assert 'sh scripts/container/install.sh "$BUILD"' in DOCKER
    assert "sh scripts/container/install.sh {{ BUILD }}" in APPTAINER


@pytest.mark.slow
def test_the_image_builds_and_reconstructs(tmp_path):
    if (
        shutil.which("docker") is None
        or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no Docker daemon is running")
    build = ["docker", "build", "-q", "-f", FOLDER / "Dockerfile", "-t", "mrirecon-test", ROOT]
    subprocess.run(build, check=True)
    shutil.copy(ROOT / "data_samples" / "brain_4x.h5", tmp_path / "scan.h5")
    tmp_path.chmod(0o777)
    run = ["docker", "run", "--rm", "-v", f"{tmp_path}:/data", "mrirecon-test"]
    subprocess.run([*run, "reconstruct", "scan.h5", "-o", "image.h5", "-m", "cirim"], check=True)
    assert (tmp_path / "image.h5").is_file()
