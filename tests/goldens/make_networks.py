"""Compute outputs of fastMRI's and ATOMMIC's networks with known weights, for tests/networks/test_network_parity.py.

    python -m venv peer
    peer/bin/pip install torch numpy h5py pyyaml requests pandas omegaconf
    peer/bin/pip install --no-deps fastmri
    peer/bin/pip download --no-deps atommic && tar xzf atommic-*.tar.gz
    peer/bin/python tests/goldens/make_networks.py atommic-1.0.1 tests/goldens/networks.npz

Written with fastmri 0.3.0, atommic 1.0.1, torch 2.13.0. Weights are drawn from their names (`draw_weights`, which the
test repeats), inputs from seeds, so that the file holds outputs only; all in float64. ATOMMIC does not install on a
current torch: its modules are imported past the packages' own `__init__`.
"""

from __future__ import annotations

import sys
import types
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

SIZES = [(20, 16), (17, 23)]
WIDE = [(36, 20), (17, 39)]  # for four pools: a norm over one or two pixels amplifies rounding
LOW = 6  # lines of the calibration region
# Patterns of our weights' names, and the peers' names.
VARNET = [
    (r"engine\.blocks\.(\d+)\.part\.consistency\.weight", r"cascades.\1.dc_weight"),
    (r"engine\.blocks\.(\d+)\.part\.part\.part\.network\.", r"cascades.\1.model."),
    (r"prepare\.", "sens_net."),
]
RIM = [(r"engine\.blocks\.(\d+)\.network\.", r"\1."), (r"engine\.blocks\.(\d+)\.dc_weight", r"\1.dc_weight")]


def draw_weights(named: Mapping[str, torch.Tensor]) -> None:
    """Fill every parameter in place with numbers that follow from its name and shape."""
    for name, weight in named.items():
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        values = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            weight.copy_(0.1 * values + (1.0 if name.endswith("dc_weight") else 0.0))


def draw_input(seed: int, *shape: int) -> torch.Tensor:
    """Return real numbers that follow from a seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draw_scan(size: tuple[int, int], coils: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return k-space (1, C, y, x, 2), zero where not sampled, a mask of lines (1, 1, 1, x, 1), maps (1, C, y, x, 2)."""
    rows, columns = size
    mask = torch.zeros(columns, dtype=torch.float64)
    first = (columns - LOW + 1) // 2  # where fastMRI puts it
    mask[::4] = 1
    mask[first - 1 : first + LOW + 1] = 0
    mask[first : first + LOW] = 1
    mask = mask.reshape(1, 1, 1, columns, 1)
    maps = draw_input(2, 1, coils, rows, columns, 2)
    maps = maps / maps.square().sum((1, 4), keepdim=True).sqrt()
    return mask * draw_input(1, 1, coils, rows, columns, 2), mask, maps


def fastmri_outputs() -> dict[str, np.ndarray]:
    """Run fastMRI's networks, with four pools: it pads to multiples of 16 for any number of them."""
    from fastmri.models.unet import Unet
    from fastmri.models.varnet import NormUnet, SensitivityModel, VarNet

    out = {}
    unet, norm = Unet(1, 1, chans=4, num_pool_layers=3).double(), NormUnet(2, 4).double()
    sens = SensitivityModel(chans=2, num_pools=4).double()
    varnet = VarNet(num_cascades=3, sens_chans=2, sens_pools=4, chans=3, pools=4).double()
    for model in (unet, norm, sens, varnet):
        draw_weights(dict(model.named_parameters()))
        model.eval()
    for size in WIDE:
        name = "x".join(map(str, size))
        kspace, mask, _ = draw_scan(size)
        out[f"unet_{name}"] = unet(draw_input(3, 2, 1, *size))
        out[f"norm_unet_{name}"] = norm(draw_input(4, 2, 1, *size, 2))
        out[f"sensitivity_{name}"] = sens(kspace, mask.bool(), LOW)
        out[f"varnet_{name}"] = varnet(kspace, mask.bool(), LOW)
    return out


def atommic_outputs(source: Path) -> dict[str, np.ndarray]:
    """Run ATOMMIC's RIM blocks in its cascade loop: hidden states carried on, nothing detached."""
    hollow_packages(source)
    from atommic.collections.reconstruction.nn.rim_base.rim_block import RIMBlock

    out = {}
    for cell, explicit in (("GRU", False), ("MGU", False), ("IndRNN", False), ("IndRNN", True)):
        blocks = torch.nn.ModuleList(
            RIMBlock(
                recurrent_layer=cell,
                conv_filters=[6, 6, 2],
                conv_kernels=[5, 3, 3],
                conv_dilations=[1, 2, 1],
                conv_bias=[True, True, False],
                recurrent_filters=[6, 6, 0],
                recurrent_kernels=[1, 1, 0],
                recurrent_dilations=[1, 1, 0],
                recurrent_bias=[True, True, False],
                depth=2,
                time_steps=3,
                no_dc=not explicit,
                fft_centered=True,
                fft_normalization="ortho",
                spatial_dims=[-2, -1],
                coil_dim=1,
            )
            for _ in range(2)
        ).double()
        draw_weights(dict(blocks.named_parameters()))
        for size in SIZES:
            kspace, mask, maps = draw_scan(size)
            prediction, hidden, images = kspace.clone(), None, []
            for number, block in enumerate(blocks):
                # Explicitly, each cascade starts at the image of the k-space before and without memory, as in mridc.
                start = None if number == 0 or explicit else prediction
                hidden = None if explicit else hidden
                keep = number > 0 and not explicit
                steps, hidden = block(prediction, kspace, maps, mask.bool(), start, hidden, 1.0, keep_prediction=keep)
                prediction = steps[-1]
                images += [_combined(s, maps) if explicit else torch.view_as_complex(s.contiguous()) for s in steps]
            name = f"cirim_{cell.lower()}{'_explicit' if explicit else ''}_{'x'.join(map(str, size))}"
            out[name] = torch.stack([images[0], images[-1]])
    return out


def _combined(kspace: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Return the SENSE combination (1, y, x) of k-space (1, C, y, x, 2)."""
    axes = (-2, -1)
    coils = torch.fft.ifftshift(torch.view_as_complex(kspace.contiguous()), axes)
    coils = torch.fft.fftshift(torch.fft.ifft2(coils, norm="ortho"), axes)
    return (torch.view_as_complex(maps).conj() * coils).sum(1)


def hollow_packages(source: Path) -> None:
    """Let ATOMMIC's modules be imported from its source without running its packages' own code."""
    below = ["", ".collections", ".collections.common", ".collections.common.parts", ".collections.reconstruction"]
    for part in [*below, ".collections.reconstruction.nn", ".collections.reconstruction.nn.rim_base"]:
        module = types.ModuleType("atommic" + part)
        module.__path__ = [str(source / ("atommic" + part).replace(".", "/"))]
        sys.modules[module.__name__] = module


def main() -> None:
    """Write the file."""
    source, target = map(Path, sys.argv[1:])
    with torch.no_grad():
        out = fastmri_outputs() | atommic_outputs(source)
    np.savez_compressed(target, **{name: value.numpy() for name, value in out.items()})
    print({name: tuple(value.shape) for name, value in out.items()}, target.stat().st_size)


if __name__ == "__main__":
    main()
