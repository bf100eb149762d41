"""Test the shipped models on measured scans outside their training data: never much worse than compressed sensing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mrirecon.models.checkpoints import shipped_models

ROOT = Path(__file__).parents[2]
SCANS = Path(os.environ.get("MRIRECON_DATA", ROOT.parent / "shared" / "data")) / "kspace"
FULL = [SCANS / "brain_flash_16ch.npz", SCANS / "brain_t1_7ch.npz"]
PROSPECTIVE = SCANS / "brain_8ch_poisson8x.npz"


def test_they_come_along():
    assert {"cirim", "rim", "e2evn", "unet"} <= set(shipped_models())
    assert sum(p.stat().st_size for folder in shipped_models().values() for p in folder.iterdir()) < 25e6


def compared(*arguments):
    command = [sys.executable, ROOT / "scripts/compare_methods.py", *arguments]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("seed", [5, 6])
def test_cirim_against_compressed_sensing_on_measured_scans(seed):
    if not all(scan.exists() for scan in FULL):
        pytest.skip(f"no measured scans in {SCANS}: set MRIRECON_DATA")
    table = compared(*FULL, "--models", shipped_models()["cirim"], "--seed", seed)
    last = {line.split()[0]: line.split()[1:] for line in table.splitlines()[-3:]}
    (cs, *_), (mean, worst, won) = last["cs"], last["cirim"]
    (cs_ssim, cs_psnr), (ssim, psnr), (low_ssim, low_psnr) = (
        [float(v) for v in x.split("/")] for x in (cs, mean, worst)
    )
    assert ssim > cs_ssim + 0.003
    assert psnr > cs_psnr + 0.1
    assert low_ssim > -0.005
    assert low_psnr > -0.3
    assert min(int(v.rstrip("%")) for v in won.split("/")) >= 80


@pytest.mark.slow
def test_cirim_predicts_held_out_samples_of_a_prospective_scan():
    if not PROSPECTIVE.exists():
        pytest.skip(f"no measured scan in {SCANS}: set MRIRECON_DATA")
    table = compared(PROSPECTIVE, "--models", shipped_models()["cirim"])
    error = {
        line.split(": ")[1].split()[0]: float(line.split()[-1]) for line in table.splitlines() if "held-out" in line
    }
    assert error["cirim"] < error["cs"] < error["zero-filled"]
