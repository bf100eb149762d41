"""Write checkpoints of other toolkits with their own code, and the images that this code makes of k-space with them.

    python -m venv peer
    peer/bin/pip install torch numpy h5py pyyaml requests pandas omegaconf lightning runstats scikit-image numba
    peer/bin/pip install --no-deps fastmri
    peer/bin/python tests/goldens/make_imports.py fastmri . tests/goldens/imports
    peer/bin/python tests/goldens/make_imports.py atommic FOLDER tests/goldens/imports   # and mridc, mridc001, direct

FOLDER contains the package of the toolkit: the wheels of atommic 1.0.1 and mridc 0.2.0, and the sources of mridc
v.0.0.1 and DIRECT 2.1.0, unpacked. Written with fastmri 0.3.0 and torch 2.13.0. The packages do not install on a
current torch: their modules for training are replaced by empty ones, and a base class holds the settings (`Base`).
k-space, maps and weights follow from seeds. tests/models/test_importing.py repeats k-space and maps.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from abc import ABCMeta
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

SIZES = [(45, 39), (40, 50)]
COILS = 3
LOW = 8
CENTRED = {"fft_centered": True, "fft_normalization": "ortho", "spatial_dims": [-2, -1], "coil_dim": 1}
CORNER = {"fft_centered": False, "fft_normalization": "backward", "spatial_dims": [-2, -1], "coil_dim": 1}
RIM = {
    "conv_filters": [6, 6, 2],
    "conv_kernels": [5, 3, 3],
    "conv_dilations": [1, 2, 1],
    "conv_bias": [True, True, False],
    "recurrent_filters": [6, 6, 0],
    "recurrent_kernels": [1, 1, 0],
    "recurrent_dilations": [1, 1, 0],
    "recurrent_bias": [True, True, False],
    "depth": 2,
    "conv_dim": 2,
    "dimensionality": 2,
    "accumulate_predictions": True,
}


def draw(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return k-space (C, y, x) in an unusual unit, zero where not sampled, a mask (y, x), and maps (C, y, x)."""
    rng = np.random.default_rng(sum(size))
    columns = size[1]
    mask = np.zeros(size, np.float32)
    mask[:, ::4] = 1
    first = (columns - LOW + 1) // 2
    mask[:, first - 1 : first + LOW + 1] = 0
    mask[:, first : first + LOW] = 1
    y, x = (np.linspace(-1, 1, n) for n in size)
    image = np.exp(-2 * (y[:, None] ** 2 + x**2)) * np.exp(1j * (y[:, None] + 2 * x))
    image = image + 0.1 * (rng.normal(size=size) + 1j * rng.normal(size=size))
    maps = np.stack(
        [np.exp(-((y[:, None] - np.sin(c)) ** 2) - (x - np.cos(c)) ** 2 + 1j * c * x) for c in range(COILS)]
    )
    maps = maps / np.sqrt((np.abs(maps) ** 2).sum(0))
    axes = (-2, -1)
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(maps * image, axes), norm="ortho"), axes)
    return (37.0 * mask * kspace).astype(np.complex64), mask, maps.astype(np.complex64)


def stir(model: nn.Module, seed: int = 0) -> nn.Module:
    """Fill all weights from a seed: none is zero or one."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in sorted(model.named_parameters()):
        scale = 0.5 / max(1.0, weight[0].numel() ** 0.5) if weight.ndim > 1 else 0.1
        weight.data = scale * torch.randn(weight.shape, generator=generator)
        if name.endswith(("dc_weight", "learning_rate")):
            weight.data += 0.8
    return model.eval()


def pairs(values: np.ndarray) -> Tensor:
    """Return complex numbers (...) as pairs (1, ..., 2)."""
    return torch.view_as_real(torch.from_numpy(values).contiguous())[None].clone()


def label(case: str, size: tuple[int, int]) -> str:
    """Return the name of an output."""
    return f"{case}_{size[0]}x{size[1]}"


def absolute(image: Tensor) -> np.ndarray:
    """Return the magnitude (y, x) of an image (1, y, x), complex or in pairs."""
    if not image.is_complex() and image.shape[-1] == 2:
        image = torch.view_as_complex(image.contiguous())
    return image.squeeze().abs().numpy()


def fastmri(folder: Path, target: Path) -> dict[str, np.ndarray]:
    """Run fastMRI's VarNet and U-Net with its transforms; save the VarNet by Lightning, the U-Net as its state."""
    import pytorch_lightning as pl
    from fastmri.data.transforms import UnetDataTransform, VarNetDataTransform
    from fastmri.pl_modules import UnetModule, VarNetModule

    out = {}
    varnet = VarNetModule(num_cascades=2, pools=2, chans=2, sens_pools=3, sens_chans=2)
    unet = UnetModule(chans=3, num_pool_layers=3)
    stir(varnet), stir(unet)
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", devices=1)
    trainer.strategy.connect(varnet)
    trainer.save_checkpoint(target / "fastmri-varnet.ckpt")
    torch.save(varnet.varnet.state_dict(), target / "fastmri-varnet.pt", _use_new_zipfile_serialization=False)
    torch.save(unet.unet.state_dict(), target / "fastmri-unet.pt")
    for size in SIZES:
        kspace, mask, _ = draw(size)
        attrs = {"padding_left": 0, "padding_right": size[1], "recon_size": (30, 30, 1), "max": 1.0}
        sample = VarNetDataTransform()(kspace, mask[0], None, attrs, "file", 0)
        image = varnet(sample.masked_kspace[None], sample.mask[None], sample.num_low_frequencies)
        out[label("fastmri-varnet", size)] = absolute(image)
        flat = UnetDataTransform("multicoil")(kspace, mask[0], None, attrs, "file", 0)
        refined = unet(flat.image[None]) * flat.std + flat.mean
        out[label("fastmri-unet", size)] = absolute(refined)
    return out


def atommic(folder: Path, target: Path) -> dict[str, np.ndarray]:
    """Run ATOMMIC's networks with its transforms, in the order of its `inference_step`."""
    replace(folder, "atommic", ["core.classes", "utils", "collections.motioncorrection"])
    sys.modules["atommic.collections.reconstruction.nn.base"] = module = types.ModuleType("base")
    part = importlib.import_module
    nets = "atommic.collections.reconstruction.nn."
    sensitivity = part("atommic.collections.common.nn.base").BaseSensitivityModel
    module.BaseMRIReconstructionModel = type("Model", (Base,), {"sensitivity": sensitivity})
    transforms = part("atommic.collections.common.parts.transforms").MRIDataTransforms
    utils, fft = (part(f"atommic.collections.common.parts.{name}") for name in ("utils", "fft"))
    connector = part("atommic.core.connectors.save_restore_connector").SaveRestoreConnector
    cirim, varnet = part(nets + "cirim").CIRIM, part(nets + "varnet").VarNet
    cascadenet, unet = part(nets + "ccnn").CascadeNet, part(nets + "unet").UNet
    own = {"estimate_coil_sensitivity_maps_with_nn": True, "coil_sensitivity_maps_nn_chans": 2}
    own |= {"coil_sensitivity_maps_nn_pools": 2}
    recurrent = {**RIM, "time_steps": 8, "no_dc": True, "keep_prediction": True}
    sense, rss = {"coil_combination_method": "SENSE"}, {"coil_combination_method": "RSS"}
    cases: dict[str, tuple[Callable[..., Any], dict[str, Any], str]] = {
        "atommic-cirim": (
            cirim,
            {**recurrent, "recurrent_layer": "IndRNN", "num_cascades": 3, **sense, **CENTRED},
            "max",
        ),
        "atommic-cirim-maps": (
            cirim,
            {**recurrent, "recurrent_layer": "IndRNN", "num_cascades": 2, **rss, **CORNER, **own},
            "minmax",
        ),
        "atommic-rim": (cirim, {**recurrent, "recurrent_layer": "GRU", "num_cascades": 1, **rss, **CENTRED}, "minmax"),
        "atommic-varnet": (
            varnet,
            {
                "num_cascades": 2,
                "channels": 2,
                "pooling_layers": 3,
                "padding_size": 11,
                "no_dc": False,
                **sense,
                **CENTRED,
            },
            "minmax",
        ),
        "atommic-cascadenet": (
            cascadenet,
            {
                "num_cascades": 2,
                "hidden_channels": 4,
                "n_convs": 3,
                "batchnorm": False,
                "no_dc": False,
                **rss,
                **CORNER,
            },
            "max",
        ),
        "atommic-unet": (unet, {"channels": 2, "pooling_layers": 2, "padding_size": 11, **sense, **CENTRED}, "max"),
    }
    out = {}
    for case, (build, settings, rule) in cases.items():
        settings = settings | {"normalization_type": rule}
        settings |= {"train_ds": {"normalize_inputs": True, "normalization_type": rule}}
        model = stir(build(settings_of(settings)))
        save_archive(connector, model, settings, target / f"{case}.atommic")
        if case == "atommic-rim":  # the settings of a Lightning module as OmegaConf's objects
            state = {"state_dict": model.state_dict(), "hyper_parameters": {"cfg": settings_of(settings)}}
            torch.save(state | {"pytorch-lightning_version": "2.0"}, target / f"{case}.ckpt")
        for size in SIZES:
            kspace, mask, maps = draw(size)
            stored = undo_ramp(kspace) if not settings["fft_centered"] else kspace
            options = {k: settings[k] for k in ("fft_centered", "fft_normalization", "coil_combination_method")}
            process = transforms(normalization_type=rule, use_seed=False, coil_dim=1, **options)
            nothing = np.array([])
            given = nothing if settings.get("estimate_coil_sensitivity_maps_with_nn") else maps
            data = process(stored, given, mask, nothing, nothing, {}, "file", 0)
            whole, masked, scaled_maps, sampled, first = (single(value)[None] for value in data[:5])
            if given is nothing:
                scaled_maps = model.coil_sensitivity_maps_nn(whole, sampled, scaled_maps)
                coils = fft.ifft2(masked, settings["fft_centered"], settings["fft_normalization"], [-2, -1])
                first = utils.coil_combination_method(coils, scaled_maps, settings["coil_combination_method"], 1)
            image = model(masked, scaled_maps, sampled, first, 1.0)
            while isinstance(image, list):
                image = image[-1]
            out[label(case, size)] = absolute(image)
    return out


def single(value: Any) -> Tensor:
    """Return the only tensor of a list."""
    return value[0] if isinstance(value, list) else value


def undo_ramp(kspace: np.ndarray) -> np.ndarray:
    """Return k-space as Calgary-Campinas stores it: its transform without shifts has the object in the middle."""
    for axis in (-2, -1):
        n = kspace.shape[axis]
        turns = (np.arange(n) - n // 2) * (n // 2) % n / n
        kspace = kspace * np.exp(-2j * np.pi * turns).reshape(-1, *[1] * (-axis - 1))
    return kspace.astype(np.complex64)


def save_archive(connector: Any, model: nn.Module, settings: dict[str, Any], path: Path) -> None:
    """Write an archive with the functions of a toolkit for its weights and its archive."""
    import tempfile

    import yaml

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model_config.yaml").write_text(yaml.safe_dump(settings))
        connector._save_state_dict_to_disk(model.state_dict(), str(Path(folder) / "model_weights.ckpt"))
        connector._make_atommic_file_from_folder(filename=str(path), source_dir=folder)


def mridc(folder: Path, target: Path) -> dict[str, np.ndarray]:
    """Run mridc's CIRIM with its transforms."""
    replace(folder, "mridc", ["core", "utils", "collections.common.losses", "collections.reconstruction.data"])
    sys.modules["mridc.collections.reconstruction.models.base"] = module = types.ModuleType("base")
    module.BaseMRIReconstructionModel = Base
    cirim = importlib.import_module("mridc.collections.reconstruction.models.cirim").CIRIM
    transforms = importlib.import_module("mridc.collections.reconstruction.parts.transforms").MRIDataTransforms
    out = {}
    for case, explicit in (("mridc-cirim", False), ("mridc-cirim-dc", True)):
        settings = {
            **RIM,
            **CENTRED,
            "recurrent_layer": "MGU",
            "num_cascades": 2,
            "time_steps": 5,
            "no_dc": not explicit,
        }
        settings |= {"keep_eta": not explicit, "coil_combination_method": "SENSE", "pretrained": True}
        settings["train_ds"] = {"normalize_inputs": True}
        model = stir(cirim(settings_of(settings)))
        state = {"state_dict": model.state_dict(), "pytorch-lightning_version": "2.6.6", "hyper_parameters": settings}
        torch.save(state, target / f"{case}.ckpt")
        for size in SIZES:
            kspace, mask, maps = draw(size)
            process = transforms(coil_combination_method="SENSE", normalize_inputs=True, use_seed=False, coil_dim=1)
            data = process(kspace, maps, mask, np.array([]), np.array([]), {}, "file", 0)
            masked, scaled_maps, sampled = (single(data[n]) for n in (1, 2, 3))
            images = next(
                model(masked[None], scaled_maps[None], sampled[None].bool(), torch.tensor([]), torch.ones(1, *size))
            )
            out[label(case, size)] = absolute(images[-1][-1])
    return out


def mridc001(folder: Path, target: Path) -> dict[str, np.ndarray]:
    """Run the CIRIM of mridc 0.0.1, and save what its training script saves."""
    from argparse import Namespace

    sys.path.insert(0, str(folder))
    cirim = importlib.import_module("mridc.nn.cirim").CIRIM
    settings = {k: v for k, v in RIM.items() if k not in ("dimensionality", "accumulate_predictions")}
    model = stir(
        cirim(
            recurrent_layer="IndRNN", time_steps=3, num_cascades=2, no_dc=True, keep_eta=True, sens_chans=2, **settings
        )
    )
    args = Namespace(time_steps=3, normalize_inputs=False, use_sens_net=False, exp_dir=Path("runs"), no_dc=True)
    state = {"epoch": 1, "args": args, "model": model.state_dict(), "optimizer": {}, "exp_dir": Path("runs")}
    torch.save(state, target / "mridc001-cirim.pt")
    out = {}
    for size in SIZES:
        kspace, mask, maps = draw(size)
        sampled = torch.from_numpy(mask)[None, None, ..., None].bool()
        images = next(model.inference(pairs(kspace), pairs(maps), sampled, accumulate_estimates=True))
        out[label("mridc001-cirim", size)] = absolute(images[-1][-1])
    return out


def direct(folder: Path, target: Path) -> dict[str, np.ndarray]:
    """Run DIRECT's models in their engines, with its transforms, and save them by its checkpointer."""
    from functools import partial

    sys.path.insert(0, str(folder))
    # Compiled code for self-supervision, and pictures for logs.
    sys.meta_path.insert(0, Hollow(folder, "", ["direct.ssl._gaussian_fill", "torchvision", "sklearn"]))
    part = importlib.import_module
    steps = part("direct.data.mri_transforms")
    functions = part("direct.data.transforms")
    unets = part("direct.nn.unet.unet_2d")
    checkpointer = part("direct.checkpointer").Checkpointer
    plain = partial(functions.fft2, centered=True), partial(functions.ifft2, centered=True)
    corner = [partial(f, centered=False, normalized=False) for f in (functions.fft2, functions.ifft2)]
    small = {"in_channels": 2, "out_channels": 2, "num_filters": 2, "num_pool_layers": 2, "dropout_probability": 0.0}
    cases = {
        "direct-varnet": ("varnet", "EndToEndVarNet", plain, unets.UnetModel2d(**small), {"num_layers": 2}),
        "direct-cirim": ("cirim", "CIRIM", plain, None, {"time_steps": 3, "num_cascades": 2}),
        "direct-rim": ("rim", "RIM", corner, unets.NormUnetModel2d(**small), {"length": 3, "depth": 2}),
    }
    more = {
        "direct-varnet": {"regularizer_num_filters": 3, "regularizer_num_pull_layers": 3},
        "direct-cirim": {"recurrent_hidden_channels": 5, "no_parameter_sharing": True},
        "direct-rim": {"hidden_channels": 4, "image_initialization": "sense", "no_parameter_sharing": False},
    }
    out = {}
    for case, (name, kind, operators, sensitivity, options) in cases.items():
        forward, backward = operators
        options = options | more[case]
        model = stir(getattr(part(f"direct.nn.{name}.{name}"), kind)(forward, backward, **options))
        models = {} if sensitivity is None else {"sensitivity_model": stir(sensitivity, 1)}
        engine_class = getattr(part(f"direct.nn.{name}.{name}_engine"), f"{kind}Engine")
        settings = types.SimpleNamespace(**{"steps": 1, "scale_loglikelihood": None, **options})
        config = types.SimpleNamespace(model=settings)
        engine = engine_class(config, model, "cpu", forward, backward, False, **models)
        engine.ndim = 2
        checkpointer(target, model=model, **models, __author__="nobody").save(7)
        (target / "model_7.pt").rename(target / f"{case}.pt")
        (target / "last_model.txt").unlink()
        for size in SIZES:
            kspace, mask, _ = draw(size)
            stored = undo_ramp(kspace) if operators is corner else kspace
            first = (size[1] - LOW + 1) // 2
            centre = torch.zeros(1, 1, 1, size[1], 1, dtype=torch.bool)
            centre[..., first : first + LOW, :] = True
            data = {"masked_kspace": pairs(stored), "kspace": pairs(stored), "acs_mask": centre}
            data["sampling_mask"] = torch.from_numpy(mask)[None, None, ..., None].bool()
            data = steps.EstimateSensitivityMapModule(kspace_key="masked_kspace", backward_operator=backward)(data)
            data = steps.ComputeScalingFactorModule(normalize_key="masked_kspace", percentile=0.99)(data)
            data = steps.NormalizeModule(keys_to_normalize=["masked_kspace"])(data)
            data["target"] = torch.zeros(1, *size)
            data.pop("kspace")
            image = engine._do_iteration(data).output_image
            image = image.squeeze()
            image = image if image.ndim == 2 else functions.modulus(image)
            out[label(case, size)] = absolute(image * data["scaling_factor"])
    return out


class Base(nn.Module):
    """Hold the settings that the base classes of ATOMMIC's and mridc's models hold."""

    sensitivity: Any = None

    def __init__(self, cfg: Any, trainer: object = None) -> None:
        super().__init__()
        for key in ("fft_centered", "fft_normalization", "spatial_dims", "coil_dim", "coil_combination_method"):
            setattr(self, key, cfg.get(key))
        self.spatial_dims = list(self.spatial_dims)
        if cfg.get("estimate_coil_sensitivity_maps_with_nn"):
            self.coil_sensitivity_maps_nn = self.sensitivity(
                cfg.get("coil_sensitivity_maps_nn_chans"),
                cfg.get("coil_sensitivity_maps_nn_pools"),
                fft_centered=self.fft_centered,
                fft_normalization=self.fft_normalization,
                spatial_dims=self.spatial_dims,
                coil_dim=self.coil_dim,
            )


def settings_of(values: dict[str, Any]) -> Any:
    """Return settings in the form of OmegaConf."""
    from omegaconf import OmegaConf

    return OmegaConf.create(values)


class Attributes(ABCMeta):
    """Let a class stand in for a module too: it has any attribute."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return type(name, (Anything,), {})


class Anything(metaclass=Attributes):
    """Stand in for a class, decorator or module that is not needed."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __call__(self, value: Any) -> Any:
        """Return the decorated function."""
        return value


class Replaced(types.ModuleType):
    """Stand in for a module that is not needed."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (Anything,), {})


class Hollow:
    """Import modules of a package without running the code of its packages; replace those that are not needed."""

    def __init__(self, folder: Path, package: str, replaced: list[str]) -> None:
        self.folder, self.package = folder, package
        self.replaced = [f"{package}.{name}".lstrip(".") for name in replaced]
        if package:
            self.replaced += ["wandb", "pytorch_lightning"]

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Return the specification of a replaced module or of a hollow package."""
        if any(f"{name}.".startswith(f"{prefix}.") for prefix in self.replaced):
            return ModuleSpec(name, self, is_package=True)
        place = self.folder / name.replace(".", "/")
        if name.split(".")[0] == self.package and place.is_dir():
            spec = ModuleSpec(name, self, is_package=True)
            spec.submodule_search_locations = [str(place)]
            return spec
        return None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        """Create an empty module."""
        hollow = spec.name.split(".")[0] == self.package and not any(
            f"{spec.name}.".startswith(f"{prefix}.") for prefix in self.replaced
        )
        return types.ModuleType(spec.name) if hollow else Replaced(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Run nothing."""


def replace(folder: Path, package: str, replaced: list[str]) -> None:
    """Import a package through `Hollow`."""
    sys.meta_path.insert(0, Hollow(folder, package, replaced))


def main() -> None:
    """Write the files of one toolkit."""
    name, folder, target = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    target.mkdir(exist_ok=True)
    toolkits = {"fastmri": fastmri, "atommic": atommic, "mridc": mridc, "mridc001": mridc001, "direct": direct}
    with torch.no_grad():
        out = toolkits[name](folder, target)
    np.savez_compressed(target / f"{name}.npz", **out)
    print({key: (value.shape, float(value.max())) for key, value in out.items()})


if __name__ == "__main__":
    main()
