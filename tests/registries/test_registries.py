"""Test all registered masks, metrics, losses, readers and coil calibrations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
import torch
from pydantic import Field

from mrirecon import io
from mrirecon.cli.options import LISTS, list_text
from mrirecon.coils.registry import CALIBRATIONS
from mrirecon.errors import CalibrationError, InputError, MriReconError, UsageError
from mrirecon.io.readers.images import read_images
from mrirecon.io.readers.registry import READERS, Reader, Source, image_reader, reader_of, suffixes
from mrirecon.masks import FAMILIES, make_mask
from mrirecon.masks.registry import compats, drawn_families, seeded_families
from mrirecon.metrics import LOSSES, METRICS, object_mask, register_metric, score_metrics
from mrirecon.metrics.scoring import Score
from mrirecon.physics.operators import Fourier, root_sum_of_squares
from mrirecon.physics.scale import percentile_scale
from mrirecon.registries import Entry, Registry
from mrirecon.training.config.settings import LossSettings
from mrirecon.training.objective import Loss
from tests.io.reader_files import make
from tests.problems import known_problem, random_problem

REGISTRIES = {"masks": FAMILIES, "metrics": METRICS, "losses": LOSSES, "readers": READERS, "maps": CALIBRATIONS}


# --- the registry itself ---


def small() -> Registry[Entry]:
    made = Registry("toy", Entry, package="mrirecon.networks", group="masks")  # registers nothing of this kind

    @made.register()
    def ball(x: int, *, size: Annotated[float, Field(gt=0)] = 1.0, colour: str = "red") -> float:
        """Return a ball."""
        return x * size

    return made


def test_a_signature_is_a_schema():
    toys = small()
    assert list(toys) == ["ball"]
    assert toys["ball"].summary == "Return a ball."
    assert toys["ball"].options == ("size", "colour")
    assert toys["ball"].resolve() == {"size": 1.0, "colour": "red"}
    with pytest.raises(UsageError, match="unknown option 'sise' of 'ball'") as caught:
        toys["ball"].resolve({"sise": 2.0})
    assert "did you mean 'size'?" in str(caught.value)
    for wrong in ({"size": -1.0}, {"size": "large"}, {"colour": 3}):
        with pytest.raises(UsageError, match="cannot be"):
            toys["ball"].resolve(wrong)
    with pytest.raises(UsageError, match="unknown toy 'bal'") as caught:
        toys.find("bal")
    assert "did you mean 'ball'?" in str(caught.value)
    assert toys.get("bal") is None


def test_what_cannot_be_registered_is_refused():
    toys = small()
    with pytest.raises(ValueError, match="there is a toy 'ball' already, from tests"):

        @toys.register("ball")
        def other() -> None:
            """Return nothing."""

    with pytest.raises(ValueError, match="no docstring"):
        toys.register()(lambda x: x)
    with pytest.raises(ValueError, match="size has no type"):

        @toys.register()
        def untyped(*, size=1):
            """Return nothing."""


def test_a_name_that_comes_along_cannot_be_taken():
    with pytest.raises(ValueError, match=r"there is a metric 'hfen' already, from mrirecon\.metrics\.sharpness"):

        @register_metric("hfen")
        def mine(x, r):
            """Return nothing."""


@pytest.mark.parametrize("kind", REGISTRIES)
def test_every_entry_describes_itself(kind):
    for name, entry in REGISTRIES[kind].items():
        assert entry.name == name
        assert len(entry.summary) > 8, name
        if kind == "masks" and entry.over != "file":
            assert set(entry.schema.model_json_schema()["properties"]) == set(entry.options)


def test_help_texts_list_what_is_registered():
    told = {name: list_text(name) for name in LISTS}
    assert all(name in told["families"] for name in seeded_families())
    assert told["metrics"].split(",") == list(METRICS)
    assert told["score"].split(",") == list(score_metrics())
    assert told["calibrations"].split(", ") == list(CALIBRATIONS)


# --- masks ---


@pytest.mark.parametrize("shape", [(32, 48), (31, 47), (20, 30, 26)])
@pytest.mark.parametrize("family", drawn_families())
def test_a_mask_is_exact_and_a_function_of_seed_file_and_slice(family, shape):
    result = make_mask(family, shape, 4, calibration=4, seed=3, name="a.h5", slice=2)
    space = [shape[a] for a in result.axes]
    count = int(result.mask.sum()) * int(np.prod(space)) // result.mask.size
    assert count == round(np.prod(space) / 4)
    box = tuple(slice(n // 2 - 2, n // 2 + 2) if a in result.axes else slice(None) for a, n in enumerate(shape))
    assert result.mask[box].all()
    assert (make_mask(family, shape, 4, calibration=4, seed=3, name="a.h5", slice=2).mask == result.mask).all()
    others = [{"seed": 4}, {"name": "b.h5"}, {"slice": 1}, *({"seed": seed} for seed in range(5, 40))]
    given = {"seed": 3, "name": "a.h5", "slice": 2}
    assert any((make_mask(family, shape, 4, calibration=4, **given | o).mask != result.mask).any() for o in others)
    whole = tuple(a for a in range(len(shape)) if a not in result.axes)
    assert all((result.mask == result.mask.take([0], axis=a)).all() for a in whole)


@pytest.mark.parametrize(("family", "compat"), [(n, c) for n, f in FAMILIES.items() for c in f.compat])
def test_a_mask_in_the_manner_of_others_is_drawn(family, compat):
    first, second = (make_mask(family, (64, 96), 4, compat=compat, seed=3) for _ in range(2))
    assert (first.mask == second.mask).all()
    assert 2 < first.acceleration < 6
    assert compat in compats()


@pytest.mark.parametrize("family", seeded_families())
def test_an_unknown_option_of_a_family_is_refused(family):
    compat = "none" if FAMILIES[family].own else FAMILIES[family].compat[0]
    with pytest.raises(UsageError, match=r"unknown option|options is only valid"):
        make_mask(family, (64, 96), 4, compat=compat, options={"nothing": 1})


# --- metrics ---


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:48, :40]
    reference = np.where(np.hypot(y - 24, x - 20) < 16, 1 + 0.3 * np.sin(x / 2) * np.cos(y / 3), 0.02)
    return [np.abs(reference + level * rng.standard_normal(reference.shape)) for level in (0, 0.02, 0.2)]


def value(name: str, image: np.ndarray, reference: np.ndarray) -> float:
    return float(METRICS[name].build(torch.from_numpy(image), torch.from_numpy(reference)))


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_best_at_equality_and_orders_noise(name, pictures):
    reference, little, much = pictures
    equal, near, far = (value(name, image, reference) for image in (reference, little, much))
    if METRICS[name].higher:
        assert equal > near > far
    else:
        assert equal == pytest.approx(0, abs=1e-12)
        assert equal < near < far


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_one_number_an_image(name, pictures):
    reference, little, much = pictures
    both = METRICS[name].build(torch.from_numpy(np.stack([little, much])), torch.from_numpy(np.stack([reference] * 2)))
    assert both.shape == (2,)
    assert both.tolist() == pytest.approx([value(name, image, reference) for image in (little, much)], rel=1e-9)


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if "region" in metric.options])
def test_what_lies_outside_of_a_region_does_not_count(name, pictures):
    reference, little, _ = (torch.from_numpy(image) for image in pictures)
    region = object_mask(reference)
    region[:, :12] = False
    spoilt = little.clone()
    spoilt[:, :8] = 3  # SSIM's windows reach 3 pixels
    one, other = (METRICS[name].build(image, reference, region=region) for image in (little, spoilt))
    assert float(one) == pytest.approx(float(other), rel=1e-12)


def test_the_score_is_made_of_the_metrics_that_say_so():
    assert score_metrics() == tuple(Score.__dataclass_fields__)[: len(score_metrics())]


# --- losses ---


def compared(name: str):
    p = random_problem((24, 28), batch=2).prepared()
    target = torch.randn(p.adjoint.shape, dtype=p.y.dtype, generator=torch.Generator().manual_seed(3)) + 2
    full, held = p.encode(target), torch.ones_like(p.mask).expand(2, -1, -1, -1)
    settings = LossSettings.model_validate({name: 1.0, "compare": "complex"})
    return Loss(settings, p, target if LOSSES[name].supervised else None, full, held), target


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_zero_at_equality_and_has_a_gradient_elsewhere(name):
    loss, target = compared(name)
    assert loss(target).shape == (2,)
    assert loss(target).tolist() == pytest.approx([0, 0], abs=1e-9)
    image = (target * (1.5 + 0.2j)).requires_grad_()
    found = loss(image)
    assert (found > 1e-6).all()
    found.sum().backward()
    assert torch.isfinite(torch.view_as_real(image.grad)).all()
    assert (image.grad.abs().flatten(1).amax(1) > 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_one_number_an_item(name):
    loss, target = compared(name)
    image = target.clone()
    image[1] *= 1.5
    assert float(loss(image)[0]) == pytest.approx(0, abs=1e-9)
    assert float(loss(image)[1]) > 1e-6


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_has_a_weight_in_configurations(name):
    assert LossSettings.model_fields[name].description == LOSSES[name].summary
    assert LossSettings.model_validate({name: 0.5}).active == {name: 0.5}
    assert LossSettings.model_validate({name: 0.5}).supervised == LOSSES[name].supervised


# --- readers ---


def recognised(path: Path) -> Reader:
    with Source(path) as source:
        return reader_of(source)


@pytest.mark.parametrize("name", READERS)
def test_a_file_is_told_from_its_content_and_read(name, tmp_path):
    reader = READERS[name]
    for package in reader.needs:
        pytest.importorskip(package)
    path = make(reader, tmp_path)
    if "kspace" not in reader.holds:
        assert image_reader(path) is reader
        assert read_images(path).values.shape[-2:] == (20, 24)
        return
    assert recognised(path) is reader
    assert image_reader(path) is None
    scan = io.read(path)
    assert np.isfinite(scan.kspace(0)).all()
    assert scan.kspace(0).shape == (scan.coils, *scan.space_shape)
    if not reader.suffixes or name == "cfl":  # a pair is told from its names
        return
    other = path.rename(path.with_name("nameless"))
    assert recognised(other) is reader


def values(path: Path, reader: Reader) -> None:
    """Read every value of a file."""
    if "kspace" not in reader.holds:
        read_images(path)
        return
    scan = io.read(path)
    for item in range(len(scan)):
        scan.kspace(item)


@pytest.mark.parametrize("share", [0.3, 0.9])
@pytest.mark.parametrize("name", READERS)
def test_a_file_that_ends_too_early_is_refused_in_words(name, share, tmp_path):
    reader = READERS[name]
    for package in reader.needs:
        pytest.importorskip(package)
    path = make(reader, tmp_path)
    victim = sorted(path.iterdir())[0] if path.is_dir() else path
    victim.write_bytes(victim.read_bytes()[: int(share * victim.stat().st_size)])
    with pytest.raises(MriReconError) as caught:
        values(path, reader)
    assert isinstance(caught.value, InputError)
    assert len(caught.value.what) > 10


def test_suffixes_follow_from_the_readers():
    assert set(suffixes("kspace")) >= {".h5", ".hdf5", ".npz", ".npy", ".cfl", ".dat", ".mat", ".mrd"}
    assert set(suffixes("images")) >= {".h5", ".hdf5", ".npz", ".npy", ".cfl", ".nii", ".nii.gz", ".img"}


# --- coil calibrations ---


@pytest.mark.parametrize("name", [n for n, c in CALIBRATIONS.items() if c.reads == "calibration"])
def test_maps_combine_the_coils_of_a_known_object(name):
    problem, full = known_problem()
    region = full[:, :, 12:36, 8:32]
    found = CALIBRATIONS[name].build(region, (48, 40))
    maps = getattr(found, "maps", found)
    assert maps.shape == (1, 1, 4, 48, 40)
    assert root_sum_of_squares(maps, 2).max() < 1 + 1e-4
    images = Fourier((-2, -1)).adjoint(full)
    shown = root_sum_of_squares(images, 1)[0]
    inside = object_mask(shown)
    combined = (maps[:, 0].conj() * images).sum(1).abs()[0]
    assert float((combined - shown)[inside].abs().mean() / shown[inside].mean()) < 0.05
    del problem


@pytest.mark.parametrize("name", [n for n, c in CALIBRATIONS.items() if c.reads == "calibration"])
def test_a_region_that_is_too_small_is_refused(name):
    with pytest.raises(CalibrationError):
        CALIBRATIONS[name].build(torch.ones(1, 3, 2, 2, dtype=torch.complex64), (20, 24))


@pytest.mark.parametrize("name", [n for n, c in CALIBRATIONS.items() if c.reads != "calibration"])
def test_maps_that_are_not_estimated(name):
    if CALIBRATIONS[name].reads == "nothing":
        maps = CALIBRATIONS[name].build(5, (8, 9))
        assert torch.allclose(root_sum_of_squares(maps, 2), torch.ones(1, 1, 8, 9))
        return
    stored = 3 * torch.randn(1, 1, 4, 8, 9, dtype=torch.complex64)
    maps, gain = CALIBRATIONS[name].build(stored)
    assert torch.allclose(maps * gain, stored)
    assert float(root_sum_of_squares(maps, 2).amax()) == pytest.approx(1)


# --- nothing is listed by hand ---


def test_no_other_file_lists_what_is_registered():
    """Two or more registered names of a kind in one literal are a list that a new entry would be missing from."""
    import ast

    # The score and the presets are made of metrics; __all__ and a chosen default name some; images are not written so.
    own = {Path("metrics") / name for name in ("scoring.py", "presets.py", "__init__.py")}
    own |= {Path("data/settings.py"), Path("io/writers/write.py")}
    package = Path(io.__file__).parents[1]
    kinds = {
        "masks": set(seeded_families()),
        "metrics": set(METRICS),
        "losses": set(LOSSES) - set(METRICS),
        "maps": set(CALIBRATIONS) - {"file", "unit"},
        "readers": set(suffixes("kspace")) - {".npz", ".npy", ".h5", ".cfl"},
    }
    found = []
    for path in package.rglob("*.py"):
        if path.relative_to(package) in own:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            parts = getattr(node, "elts", None) or (node.keys if isinstance(node, ast.Dict) else None) or []
            words = {p.value for p in parts if isinstance(p, ast.Constant)}
            for kind, names in kinds.items():
                if len(words & names) > 1:
                    found.append((str(path.relative_to(package)), kind, sorted(words & names)))
    assert found == []


def test_the_page_of_masks_lists_all_families():
    text = (Path(__file__).parents[2] / "docs" / "howto" / "masks.md").read_text()
    line = next(one for one in text.split("\n\n") if one.startswith("Families:"))
    assert all(f"`{name}`" in line for name in FAMILIES if FAMILIES[name].own)


def test_percentile_scale_is_the_unit_of_losses():
    loss, target = compared("l1")
    assert torch.equal(loss.scale, percentile_scale(loss.comparison.problem.adjoint))
    del target
