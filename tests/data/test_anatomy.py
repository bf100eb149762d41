"""Test the phase of a simulated object against closed forms of the fields."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from mrirecon.data.anatomy import AIR, FAT, GYROMAGNETIC, Anatomy, dipole_fields, shimmed
from mrirecon.data.phantom import phantom
from mrirecon.data.scene import draw_scene
from mrirecon.data.settings import Simulation
from mrirecon.data.simulate import Grid
from mrirecon.data.volumes import Volume, read_volumes

STILL = {
    "bias_field": 0,
    "transpose": 0,
    "flip": False,
    "phase": [0, 0],
    "fine_phase": [0, 0],
    "marrow_fat_share": 0.0,
    "spin_echo_share": 0.0,
}


def sphere(shape, spacing, radius):
    """Return a sphere with soft edges, and positions (z, y, x) and the distance from its centre."""
    axes = np.meshgrid(*((np.arange(n) - n // 2) * d for n, d in zip(shape, spacing, strict=True)), indexing="ij")
    distance = np.sqrt(sum(a**2 for a in axes))
    return np.clip((radius - distance) / min(spacing) + 0.5, 0, 1), axes, distance


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 1.0, 1.0)])
def test_the_field_of_a_sphere_is_the_closed_form(spacing):
    """Check the field of a sphere for each direction of B0: Δχ/3 (a/r)³ (3 cos² θ − 1) outside, 0 inside."""
    shape, radius = (int(64 / spacing[0]), 64, 64), 9.0
    ball, axes, r = sphere(shape, spacing, radius)
    fields = dipole_fields(3 * ball, spacing)
    for field, along in zip(fields, axes, strict=True):
        expected = (radius / np.maximum(r, radius)) ** 3 * (3 * (along / np.maximum(r, 1)) ** 2 - 1)
        near = (r > 1.3 * radius) & (r < 2.2 * radius)
        assert np.abs(field - expected)[near].max() < 0.12
        assert np.corrcoef(field[near], expected[near])[0, 1] > 0.995
        assert np.abs(field[r < 0.7 * radius]).max() < 0.15


def test_shim_coils_take_away_what_is_slow():
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in (8, 40, 32)), indexing="ij")
    slow = (0.3 + z - 2 * y * x + x**2).astype(np.float32)
    bump = np.exp(-((y - 0.4) ** 2 + x**2) / 0.02).astype(np.float32)
    inside = y**2 + x**2 < 0.8
    left = shimmed(slow + bump, inside)
    assert np.abs(shimmed(slow, inside)[inside]).max() < 1e-4
    assert (left[inside].max() - left[inside].min()) > 0.8


def test_air_beside_tissue_changes_the_field_most():
    """Check that wide shallow dark regions are air, thin ones bone, and deep ones fluid."""
    y, x = np.ogrid[-64:64, -60:60]
    body = (np.hypot(y, x) < 50).astype(np.float16)
    holes = {
        "none": np.zeros_like(body),
        "air": (np.hypot(y - 28, x) < 9).astype(np.float16),
        "fluid": (np.hypot(y, x) < 9).astype(np.float16),
        "bone": (np.abs(y - 28) < 2) * (np.abs(x) < 15).astype(np.float16),
    }
    result = {}
    for name, hole in holes.items():
        anatomy = Anatomy(np.stack([body * (1 - hole)] * 3).astype(np.float16), (5.0, 1.5, 1.5))
        field, depth = anatomy.field(1, 1).astype(np.float32), anatomy.depth(1).astype(np.float32)
        assert field.shape == depth.shape == (64, 60)
        assert np.isfinite(field).all()
        inside = (depth > 0.2) & (hole[::2, ::2] == 0)
        result[name] = float(np.abs(field[inside]).max())
    assert result["air"] > 1.0
    assert max(result["fluid"], result["bone"], result["none"]) < 0.6 * result["air"]
    assert depth.max() == pytest.approx(50 / 60, abs=0.05)
    assert not depth[:4].any()


def one(size=(64, 60), **more):
    image = np.full((1, *size), 0.5, np.float16)
    volume = Volume("x", image, (4.0, 2.0, 2.0))
    return draw_scene(volume, 0, Simulation(**STILL | more), np.random.default_rng(0), coils=2)


def phase(scene):
    grid = Grid([scene], torch.device("cpu"))
    grid.magnitude()
    return grid.phase()[0]


def test_the_phase_is_that_of_the_echo():
    """Check 2π γ B0 TE δ: 4.01 radians per ppm at 3 T and 5 ms; fat is shifted by 3.4 ppm."""
    quiet: dict = {"size": (256, 240), "air": [0, 0], "veins": [0, 0], "field_strength": [3.0], "echo_time": [5.0, 5.0]}
    scene = one(**quiet, fat=[1.0, 1.0])
    assert scene.radians == pytest.approx(2 * math.pi * GYROMAGNETIC * 3.0 * 5e-3, rel=1e-6)
    assert scene.radians == pytest.approx(4.01, abs=0.01)
    seen, water = phase(scene), phase(one(**quiet, fat=[0.0, 0.0]))
    # pure fat precesses relative to water
    share, first, last = scene.fat[:3]
    middle = np.abs(scene.depth - (first + last) / 2) < (last - first) / 4
    assert share == 1.0
    assert middle.any()
    turn = (seen * water.conj())[torch.from_numpy(middle)]
    wanted = torch.polar(torch.ones(()), torch.tensor(scene.radians * FAT))
    assert (turn - wanted).abs().median() < 1e-3
    refocused = phase(one(**quiet | {"echo_time": [0, 0]}))
    assert torch.allclose(refocused, torch.ones(256, 240, dtype=torch.complex64))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_sphere_of_air_is_the_closed_form_too(axis):
    scene = one(air=[0, 0], veins=[0, 0], fat=[0, 0], field_strength=[3.0], echo_time=[0.1, 0.1])
    still = replace(scene, change=np.zeros_like(scene.change), axis=axis)
    radius, height = 6.0, 9.0
    seen = phase(replace(still, air=np.array([[0.0, 0.0, height, radius]])))
    y, x = (2.0 * (np.arange(n) - n // 2) for n in scene.image.shape)
    square = y[:, None] ** 2 + x**2 + height**2
    along = (np.full_like(square, height), y[:, None] + 0 * x, x + 0 * y[:, None])[axis]
    expected = AIR / 3 * (radius**2 / square) ** 1.5 * (3 * along**2 / square - 1)
    assert np.abs(seen.angle().numpy() - scene.radians * expected).max() < 1e-4
    assert torch.allclose(seen.abs(), torch.ones(()))
    inside = phase(replace(still, air=np.array([[0.0, 0.0, 0.0, radius]])))
    assert inside[32, 30].abs() == 0, "air has no signal"
    assert inside[0, 0].abs() == pytest.approx(1)


def test_a_vein_is_off_resonance_along_its_arc():
    scene = one(air=[0, 0], veins=[0, 0], fat=[0, 0], field_strength=[3.0], echo_time=[5.0, 5.0])
    vein = np.array([[0.0, -100.0, 100.0, 0.0, 0.0, 10.0, 1.5, 0.2]])  # through the centre pixel, along y
    seen = phase(replace(scene, change=np.zeros_like(scene.change), veins=vein)).angle()
    assert float(seen[32, 30]) == pytest.approx(0.2 * scene.radians, rel=1e-4)
    assert float(seen[32, 38].abs()) < 1e-4
    assert 0.2 < float(seen[32 + 7, 30] / seen[32, 30]) < 0.7


def test_spacing_comes_with_a_packed_volume(tmp_path):
    image = phantom((64, 64), 3, 1)
    np.savez(tmp_path / "pack.npz", a=image, b=image, a_spacing=np.array([3.0, 0.5, 0.5]))
    result = {v.name.split(":")[1]: v.spacing for v in read_volumes(tmp_path / "pack.npz")}
    assert result["a"][0] == 3.0
    assert result["a"][1] == pytest.approx(0.5 * 64 / read_volumes(tmp_path / "pack.npz")[0].slices.shape[1])
    assert result["b"][0] == 4.0
