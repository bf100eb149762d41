"""Test imported weights: the images of the toolkits' own code, from k-space, and the refusal of hostile files.

The checkpoints and images lie in goldens/imports, which goldens/make_imports.py makes with the code of the toolkits.
"""

from __future__ import annotations

import gzip
import io as stdio
import json
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mrirecon.cli import run as cli
from mrirecon.errors import InputError, ModelMismatchError, MriReconError, UnsafeContentError, UsageError
from mrirecon.io import read_image
from mrirecon.models.checkpoints import describe_model, load_model, verify_model
from mrirecon.models.importing import LAYOUTS, import_model, read_checkpoint
from mrirecon.physics.problem import Problem
from tests.goldens.make_imports import SIZES, draw, label
from tests.io import test_io_hostile as hostile

FILES = Path(__file__).parents[1] / "goldens" / "imports"
# Name of the golden image, file, layout that is recognised, options that neither weights nor settings state.
CASES = [
    ("fastmri-varnet", "fastmri-varnet.pt", "fastmri-varnet", {}),
    ("fastmri-varnet", "fastmri-varnet.ckpt", "fastmri-varnet", {}),
    ("fastmri-unet", "fastmri-unet.pt", "fastmri-unet", {"crop": 30}),
    ("atommic-cirim", "atommic-cirim.atommic", "atommic-cirim", {}),
    ("atommic-cirim-maps", "atommic-cirim-maps.atommic", "atommic-cirim", {}),
    ("atommic-rim", "atommic-rim.atommic", "atommic-cirim", {}),
    ("atommic-varnet", "atommic-varnet.atommic", "atommic-varnet", {}),
    ("atommic-cascadenet", "atommic-cascadenet.atommic", "atommic-cascadenet", {}),
    ("atommic-unet", "atommic-unet.atommic", "atommic-unet", {}),
    ("mridc-cirim", "mridc-cirim.ckpt", "mridc-cirim", {}),
    ("mridc-cirim-dc", "mridc-cirim-dc.ckpt", "mridc-cirim", {}),
    ("mridc001-cirim", "mridc001-cirim.pt", "mridc-cirim", {}),
    ("direct-varnet", "direct-varnet.pt", "direct-varnet", {}),
    ("direct-cirim", "direct-cirim.pt", "direct-cirim", {"steps": 3}),
    (
        "direct-rim",
        "direct-rim.pt",
        "direct-rim",
        {"steps": 3, "fourier": "unshifted", "scale": "kspace-percentile-backward"},
    ),
]
# ATOMMIC and mridc return images in the unit of the network.
IN_UNIT = ("atommic", "mridc-")
CIRIM = FILES / "mridc-cirim.ckpt"


def problem(size):
    kspace, mask, maps = (torch.from_numpy(value) for value in draw(size))
    return Problem(kspace[None], mask[None, None], maps[None, None])


def centre(image, shape):
    starts = [(n - m) // 2 for n, m in zip(image.shape, shape, strict=True)]
    return image[tuple(slice(s, s + m) for s, m in zip(starts, shape, strict=True))]


@pytest.mark.parametrize(("case", "file", "layout", "options"), CASES, ids=[file for _, file, _, _ in CASES])
def test_the_image_is_that_of_the_toolkit(case, file, layout, options, tmp_path):
    folder = import_model(FILES / file, tmp_path / "model", options=options)
    model = load_model(folder).model
    assert describe_model(folder)["card"]["imported as"].startswith(layout)
    with np.load(FILES / f"{case.split('-')[0]}.npz") as stored:
        for size in SIZES:
            p, theirs = problem(size), torch.from_numpy(stored[label(case, size)])
            with torch.no_grad():
                if case.startswith(IN_UNIT):
                    n = model.normalize(p)
                    image = model.engine.image(model.engine.solve(n.problem).state, n.problem)
                else:
                    image = model(p)
            if case == "direct-rim":  # its transform is not normalized
                theirs = theirs * (size[0] * size[1]) ** 0.5
            image = centre(image.abs()[0, 0], theirs.shape)
            assert float((image - theirs).abs().max() / theirs.max()) < 1e-5, size


def test_the_settings_matter(tmp_path):
    """Each convention changes the image: the comparison can fail."""
    p = problem(SIZES[0])
    for file, changes in (
        ("fastmri-varnet.pt", [{"padding": -1}, {"own_maps": "direct-norm"}]),
        ("fastmri-unet.pt", [{"crop": 20}]),
        (
            "atommic-cirim-maps.atommic",
            [{"scale": "max"}, {"fourier": "centred"}, {"start": "zero-filled"}, {"own_maps": "atommic-1d"}],
        ),
        ("mridc-cirim.ckpt", [{"scale": "max"}, {"compat": "none"}]),
    ):
        first = load_model(import_model(FILES / file, tmp_path / "a", overwrite=True)).model
        for number, change in enumerate([{}, *changes]):
            other = load_model(import_model(FILES / file, tmp_path / "b", options=change, overwrite=True)).model
            with torch.no_grad():
                gap = (first(p) - other(p)).abs().max() / first(p).abs().max()
            assert (gap > 1e-4) == bool(number), (file, change)


def test_an_imported_model_reconstructs_a_file(tmp_path, capsys):
    """From a file to an image, by commands; no other maps than those of the model are needed."""
    assert cli(["models", "import", str(FILES / "fastmri-varnet.ckpt"), "-o", str(tmp_path / "model")]) == 0
    out = capsys.readouterr().out
    assert "as the source states" in out
    assert "fastMRI 0.3" in out
    kspace, mask, _ = draw(SIZES[1])
    np.savez(tmp_path / "scan.npz", kspace=kspace[None], mask=mask, axes="slice,coil,y,x")
    command = ["reconstruct", str(tmp_path / "scan.npz"), "--model", str(tmp_path / "model")]
    assert cli([*command, "-o", str(tmp_path / "image.h5")]) == 0
    with np.load(FILES / "fastmri.npz") as stored:
        theirs = stored[label("fastmri-varnet", SIZES[1])]
    image = np.abs(read_image(tmp_path / "image.h5")).squeeze()
    assert np.abs(image - theirs).max() < 1e-5 * theirs.max()
    verify_model(tmp_path / "model")
    capsys.readouterr()
    assert cli(["models", "list", str(tmp_path / "model"), "--json"]) == 0
    models = json.loads(capsys.readouterr().out)["models"]
    assert models[str(tmp_path / "model")]["licence"] == "as the source states"
    assert all({"data", "licence", "size", "covers", "does not apply"} <= set(use) for use in models.values())
    assert "acceleration 2 to 12" in next(use["covers"] for name, use in models.items() if name.endswith("cirim"))


def test_settings_of_direct_come_from_a_file(tmp_path):
    (tmp_path / "config.yaml").write_text(
        "physics: {forward_operator: fft2(centered=False), backward_operator: ifft2(centered=False)}\n"
        "model: {model_name: rim.rim.RIM, length: 5, depth: 2}\n"
        "training: {datasets: [{transforms: {normalization: {scaling_key: masked_kspace, scale_percentile: null}}}]}\n"
    )
    folder = import_model(FILES / "direct-rim.pt", tmp_path / "model", config=tmp_path / "config.yaml")
    options = describe_model(folder)["options"]
    assert (options["steps"], options["fourier"], options["scale"]) == (5, "unshifted", "kspace-max")
    assumed = describe_model(folder)["card"]["assumed, because neither weights nor settings state it"]
    assert "model.length" not in assumed
    assert "model.image_initialization" in assumed


def test_other_containers(tmp_path):
    weights = torch.load(FILES / "fastmri-unet.pt", weights_only=True)
    save_file(weights, tmp_path / "unet.safetensors")
    torch.save({f"module.{name}": w.double() for name, w in weights.items()}, tmp_path / "parallel.pt")
    for name in ("unet.safetensors", "parallel.pt"):
        folder = import_model(tmp_path / name, tmp_path / name.split(".")[0])
        assert describe_model(folder)["method"] == "unet"
    with tarfile.open(FILES / "atommic-rim.atommic") as archive, gzip.open(tmp_path / "rim.nemo", "wb") as packed:
        content = stdio.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as copy:
            for member in archive:
                copy.addfile(member, archive.extractfile(member) if member.isfile() else None)
        packed.write(content.getvalue())
    folder = import_model(tmp_path / "rim.nemo", tmp_path / "rim", layout="atommic-rim")
    assert describe_model(folder)["options"]["cell"] == "gru"


def test_settings_are_read_from_objects_of_other_programs(tmp_path):
    """OmegaConf is not installed: its objects become records, and the settings in them are used."""
    options = [
        describe_model(import_model(FILES / f"atommic-rim.{end}", tmp_path / end))["options"]
        for end in ("atommic", "ckpt")
    ]
    assert options[0] == options[1]
    assert options[0]["scale"] == "minmax"


def test_weights_are_listed_that_have_no_place(tmp_path):
    state = torch.load(CIRIM, weights_only=True)
    first = "cirim.0.layers.0.rnn.ih.weight"
    for change, words in (
        (
            lambda w: w.pop("cirim.1.final_layer.0.conv_layer.weight"),
            "blocks.1.network.final_layer.0.conv_layer.weight",
        ),
        (lambda w: w.update({"cirim.0.more": torch.ones(3)}), "cirim.0.more has no place"),
        (lambda w: w.update({first: torch.ones(12, 6, 3, 3)}), "network.layers.1.rnn"),
        (lambda w: w.update({first: torch.ones(3)}), "usable"),
        (lambda w: w.update({"cirim.7.layers.0.rnn.ih.weight": torch.ones(3)}), "indices"),
        (lambda w: w[first].fill_(float("nan")), "NaN"),
        (lambda w: w.update({first: w[first].to(torch.int64)}), "no real numbers"),
    ):
        changed = {name: w.clone() for name, w in state["state_dict"].items()}
        change(changed)
        torch.save({**state, "state_dict": changed}, tmp_path / "changed.ckpt")
        with pytest.raises(ModelMismatchError, match=words.replace(".", r"\.")):
            import_model(tmp_path / "changed.ckpt", tmp_path / "model")
        assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "in a tar", "as settings"])
def test_programs_in_checkpoints_do_not_run(form, tmp_path):
    trap = tmp_path / "trap"
    state = {"state_dict": torch.load(CIRIM, weights_only=True)["state_dict"], "hyper_parameters": hostile.Runs(trap)}
    buffer = stdio.BytesIO()
    if form == "pickle":
        buffer.write(pickle.dumps({"state_dict": hostile.Runs(trap)}))
    else:
        torch.save(state, buffer, _use_new_zipfile_serialization=form != "legacy")
    (tmp_path / "evil.pt").write_bytes(buffer.getvalue())
    if form in ("in a tar", "as settings"):
        inner = CIRIM.read_bytes() if form == "as settings" else buffer.getvalue()
        text = b"a: !!python/object/apply:os.system ['touch trap']\n" if form == "as settings" else b"a: 1\n"
        write_tar(tmp_path / "evil.pt", [("./model_config.yaml", text), ("./model_weights.ckpt", inner)])
    kind = InputError if form == "as settings" else UnsafeContentError
    with pytest.raises(kind):
        import_model(tmp_path / "evil.pt", tmp_path / "model")
    assert not trap.exists()
    assert not (tmp_path / "model").exists()


def write_tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            member = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, stdio.BytesIO(content))


def link(name, kind):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc/passwd"
    return member


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("../evil", b"1")], "outside"),
        ([("/evil", b"1")], "outside"),
        ([("a/../../evil", b"1")], "outside"),
        ([(link("model_weights.ckpt", tarfile.SYMTYPE), b"")], "link"),
        ([(link("model_weights.ckpt", tarfile.LNKTYPE), b"")], "link"),
        ([(link("model_weights.ckpt", tarfile.FIFOTYPE), b"")], "neither"),
        ([("model_weights.ckpt", b"1"), ("model_weights.ckpt", b"2")], "twice"),
        ([("other", b"1")], "no weights"),
    ],
)
def test_archives_that_leave_their_place(members, words, tmp_path):
    write_tar(tmp_path / "evil.nemo", members)
    with pytest.raises(MriReconError, match=words):
        read_checkpoint(tmp_path / "evil.nemo")
    assert [p.name for p in tmp_path.iterdir()] == ["evil.nemo"]


def test_bombs(tmp_path):
    bomb = tmp_path / "bomb.pt"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}." + bytes(1 << 20))
    with pytest.raises(UnsafeContentError, match="compressed"):
        read_checkpoint(bomb)
    bomb.write_bytes(gzip.compress(bytes(64 << 20)))
    with pytest.raises(UnsafeContentError, match="bomb"):
        read_checkpoint(bomb)
    wide = torch.ones(1).as_strided((1 << 40,), (0,))
    torch.save({"cascades.0.dc_weight": wide}, bomb)
    with pytest.raises(UnsafeContentError, match="claims more"):
        read_checkpoint(bomb)
    torch.save({f"{n}": torch.ones(1 << 16) for n in range(2)} | {"x": torch.ones(1 << 16)}, bomb)
    shared = torch.ones(1 << 16)
    torch.save({f"{n}": shared.clone() if n == 0 else shared for n in range(20)}, bomb)
    with pytest.raises(UnsafeContentError, match="claims more"):
        read_checkpoint(bomb)
    with zipfile.ZipFile(FILES / "fastmri-unet.pt") as source, zipfile.ZipFile(bomb, "w") as archive:
        for entry in source.infolist():
            archive.writestr(entry.filename, source.read(entry))
        archive.writestr("archive/code/__torch__.py", b"def forward(self): pass")
    with pytest.raises(UnsafeContentError, match="TorchScript"):
        read_checkpoint(bomb)
    torch.save({"cascades.0.model.unet.down_sample_layers.0.layers.0.weight": torch.ones(2, 2, 3, 3)}, bomb)
    with pytest.raises(MriReconError):
        import_model(bomb, tmp_path / "model")
    torch.save({f"reconstruction_module.{10**5 - 1}.layers.0.convs.conv_layer.weight": torch.ones(2, 4, 5, 5)}, bomb)
    with pytest.raises(MriReconError):
        import_model(bomb, tmp_path / "model")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02", b"not a checkpoint", bytes(1000), b"\x1f\x8b123"])
def test_files_that_are_no_checkpoints(content, tmp_path):
    (tmp_path / "file.pt").write_bytes(content)
    with pytest.raises(InputError):
        read_checkpoint(tmp_path / "file.pt")


@pytest.mark.parametrize("file", ["fastmri-unet.pt", "fastmri-varnet.pt", "atommic-rim.atommic"])
def test_damaged_checkpoints(file, tmp_path):
    whole = (FILES / file).read_bytes()
    rng = np.random.default_rng(0)
    for number in range(12):
        damaged = bytearray(whole[: int(rng.integers(1, len(whole)))] if number % 2 else whole)
        for place in rng.integers(0, min(len(damaged), 3000), 8):
            damaged[place] ^= 255
        (tmp_path / "damaged").write_bytes(damaged)
        with pytest.raises(MriReconError):
            import_model(tmp_path / "damaged", tmp_path / "model")


def test_wrong_uses(tmp_path):
    for arguments, words in (
        ({"layout": "fastmri"}, "did you mean"),
        ({"layout": "direct-rim"}, "this is not direct-rim"),
        ({"options": {"stepps": 3}}, "steps"),
        ({"options": {"own_maps": "fastmri"}}, "is missing"),
    ):
        with pytest.raises(MriReconError, match=words):
            import_model(CIRIM, tmp_path / "model", **arguments)
    import_model(CIRIM, tmp_path / "model", source="https://example.org/weights")
    assert describe_model(tmp_path / "model")["card"]["source"] == "https://example.org/weights"
    with pytest.raises(UsageError, match="already"):
        import_model(CIRIM, tmp_path / "model")
    assert set(LAYOUTS) >= {"fastmri-varnet", "fastmri-unet", "atommic-cirim", "atommic-rim", "mridc-cirim"}
    assert set(LAYOUTS) >= {"direct-varnet", "direct-cirim", "direct-rim"}
