"""Test `mrirecon masks make|show|apply` from the command line on real files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from mrirecon.cli.masks import app
from mrirecon.errors import InputError, MriReconError, UsageError
from mrirecon.io import read, write_kspace
from mrirecon.masks import load_mask, make_mask
from mrirecon.masks.picture import mask_panels


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if isinstance(result.exception, MriReconError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def full(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    kspace = rng.normal(size=(2, 3, 20, 32)) + 1j * rng.normal(size=(2, 3, 20, 32))
    reference = rng.random((2, 20, 32))
    path = tmp_path / "full.h5"
    write_kspace(path, kspace, reference=reference, attributes={"acquisition": "AXT1"})
    return path


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".png", ".txt"])
def test_make_writes_the_mask_that_the_library_makes(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "new" / f"mask{suffix}"
    said = run(
        *("make", "poisson", "--shape", "64x48", "--acceleration", 4, "--calibration", "12x8", "--seed", 5, "-o", path)
    )
    expected = make_mask("poisson", (64, 48), 4, calibration=(12, 8), seed=5)
    assert (load_mask(path).mask == expected.mask).all()
    assert expected.describe() in said
    assert "acceleration 4 (requested 4)" in said


def test_make_in_json(tmp_path: Path) -> None:
    arguments = ("make", "equispaced", "--shape", "8,300", "-R", 4, "--compat", "fastmri", "--json", "-o")
    said = json.loads(run(*arguments, tmp_path / "m.npy"))
    assert said["compat"] == "fastmri"
    assert said["acceleration"] == pytest.approx(300 / np.load(tmp_path / "m.npy")[0].sum())


@pytest.mark.parametrize(
    ("shape", "family", "words"),
    [
        ("64x48", "gaussian2d", "highest sidelobe"),
        ("30x64", "random", "calibration region 30×"),
        ("8x40x30", "poisson", "×"),
    ],
)
def test_show_draws_the_mask_beside_its_point_spread(tmp_path: Path, shape: str, family: str, words: str) -> None:
    run("make", family, "--shape", shape, "-R", 3, "--readout", 0, "-o", tmp_path / "m.npz")
    said = run("show", tmp_path / "m.npz", "-o", tmp_path / "m.png")
    assert words in said
    with Image.open(tmp_path / "m.png") as picture:
        pixels = np.asarray(picture.convert("L"))
    middle = pixels.shape[1] // 2
    assert pixels[:, :middle].max() == 255
    # the peak of the point spread function is white and in the centre of its panel
    assert pixels[60:-30, middle:].max() == 255


def test_show_takes_lines_alone(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("1 0 0 1 0 1 1 1 0 0 1 0\n")
    assert "file, 1×12" in run("show", tmp_path / "lines.txt", "-o", tmp_path / "m.png")
    np.save(tmp_path / "lines.npy", make_mask("random", (1, 40), 4).mask[0])
    run("show", tmp_path / "lines.npy", "-o", tmp_path / "m.png")


def test_a_full_mask_has_no_sidelobe(tmp_path: Path) -> None:
    assert mask_panels(make_mask("random", (16, 16), 1))[1] < 1e-12


def test_apply_by_family(full: Path, tmp_path: Path) -> None:
    out = tmp_path / "under.h5"
    said = run("apply", full, "--family", "random", "-R", 4, "--calibration", 4, "--seed", 3, "-o", out)
    expected = make_mask("random", (20, 32), 4, calibration=4, seed=3, name="full.h5")
    assert "kept acceleration: 4" in said
    before, after = read(full), read(out)
    assert after.shape == before.shape
    assert after.has_mask
    assert after.reference is None
    assert after.attributes["acquisition"] == "AXT1"
    for item in range(2):
        assert (after.mask(item) == expected.mask).all()
        assert (after.kspace(item) == before.kspace(item) * expected.mask).all()
    sidecar = json.loads((tmp_path / "under.h5.json").read_text())
    assert sidecar["mask"]["seed"] == 3
    assert sidecar["sha256"] == before.sha256()


def test_apply_a_mask_for_every_slice_and_keep_the_reference(full: Path, tmp_path: Path) -> None:
    arguments = ("apply", full, "--family", "gaussian2d", "-R", 4, "--calibration", 4, "--per-slice")
    run(*arguments, "--keep-reference", "-o", tmp_path / "under.h5")
    after = read(tmp_path / "under.h5")
    for item in range(2):
        expected = make_mask("gaussian2d", (20, 32), 4, calibration=4, name="full.h5", slice=item)
        assert (after.mask(item) == expected.mask).all()
    assert not (after.mask(0) == after.mask(1)).all()
    assert after.reference is not None
    assert (after.reference == read(full).reference).all()


def test_apply_a_file_across_the_first_axis(full: Path, tmp_path: Path) -> None:
    lines = make_mask("equispaced", (1, 20), 2, calibration=4).mask[0]
    np.save(tmp_path / "lines.npy", lines)
    run("apply", full, "--mask", tmp_path / "lines.npy", "--axis", 0, "-o", tmp_path / "under.npz")
    assert (read(tmp_path / "under.npz").mask(0) == lines[:, None]).all()


def test_apply_to_what_is_undersampled_already_says_so(full: Path, tmp_path: Path) -> None:
    run("apply", full, "--family", "random", "-R", 2, "-o", tmp_path / "half.h5")
    said = run("apply", tmp_path / "half.h5", "--family", "poisson", "-R", 2, "-o", tmp_path / "less.h5")
    assert "not acquired" in said
    mask = read(tmp_path / "less.h5").mask(0)
    assert f"kept acceleration: {mask.size / mask.sum():.4g}" in said


def test_apply_as_fastmri_seeds(full: Path, tmp_path: Path) -> None:
    arguments = ("apply", full, "--family", "random", "-R", 4, "--compat", "fastmri")
    run(*arguments, "-o", tmp_path / "name.h5")
    run(*arguments, "--seed", 7, "-o", tmp_path / "seed.h5")
    by_name = make_mask("random", (20, 32), 4, name="full.h5", compat="fastmri").mask
    assert (read(tmp_path / "name.h5").mask(0) == by_name).all()
    assert (read(tmp_path / "seed.h5").mask(0) == make_mask("random", (20, 32), 4, seed=7, compat="fastmri").mask).all()


def test_errors_keep_their_type_and_write_nothing(full: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.npy"
    for error, arguments in (
        (UsageError, ("make", "spiral", "--shape", "8x8", "-R", 2, "-o", out)),
        (UsageError, ("make", "random", "--shape", "8 by 8", "-R", 2, "-o", out)),
        (UsageError, ("make", "random", "--shape", "8x8", "-R", 2, "-o", tmp_path / "m.mat")),
        (UsageError, ("make", "random", "--shape", "8x8", "-R", 2, "--calibration", "many", "-o", out)),
        (UsageError, ("apply", full, "-o", out.with_suffix(".h5"))),
        (UsageError, ("apply", full, "--family", "random", "--mask", out, "-o", out.with_suffix(".h5"))),
        (UsageError, ("apply", full, "--family", "random", "-R", 2, "-o", full)),
        (InputError, ("apply", full, "--mask", out, "-o", out.with_suffix(".h5"))),
        (InputError, ("show", out, "-o", out.with_suffix(".png"))),
    ):
        with pytest.raises(error):
            run(*arguments)
    np.save(out, make_mask("random", (8, 8), 2).mask)
    with pytest.raises(UsageError, match=r"must be a \.png"):
        run("show", out, "-o", tmp_path / "picture.jpg")
    run("make", "random", "--shape", "8x8", "-R", 2, "-o", tmp_path / "same.png")
    with pytest.raises(UsageError, match="is an input"):
        run("show", tmp_path / "same.png", "-o", tmp_path / "same.png")
    with pytest.raises(InputError, match="does not match"):
        run("apply", full, "--mask", out, "-o", out.with_suffix(".h5"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full.h5", "m.npy", "same.png"]


def test_the_commands_load_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "h5py", "scipy", "PIL")
    code = f"import sys, mrirecon.cli.masks; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_masks_need_no_torch() -> None:
    code = "import sys, mrirecon.masks as m; m.make_mask('poisson', (32, 32), 4); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
