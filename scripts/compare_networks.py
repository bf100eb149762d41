"""Time our networks against ATOMMIC's CIRIM and fastMRI's VarNet: the same weights, the same output, in turn.

    python scripts/compare_networks.py ATOMMIC_SOURCE [--rounds 5] [--size 320] [--coils 8] [--threads 2]

In the peers' environment of tests/goldens/make_networks.py, with mrirecon beside them (`peer/bin/pip install .`, no
test tools). Prints the largest difference relative to the network's own update, medians and the median of the
ratios round by round.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mrirecon.methods.registry import build
from mrirecon.networks import channels_last
from mrirecon.physics.problem import Problem

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.goldens.make_networks import RIM, VARNET, draw_scan, draw_weights, hollow_packages


def main() -> None:
    """Run both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("atommic", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--coils", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    kspace, mask, maps = (t.float() for t in draw_scan((options.size, options.size), options.coils))
    full = mask[..., 0].expand(1, 1, options.size, options.size).contiguous()
    problem = Problem(torch.view_as_complex(kspace), full, torch.view_as_complex(maps).unsqueeze(1))
    for name, (ours, theirs) in {
        "CIRIM 8 x 8 x 64, ATOMMIC": _cirim(options.atommic, problem, kspace, mask, maps),
        "VarNet 12, fastMRI": _varnet(problem, kspace, mask),
    }.items():
        with torch.inference_mode():
            _compare(name, ours, theirs, options.rounds, problem.adjoint[:, 0])


def _compare(name: str, ours: Callable[[], Tensor], theirs: Callable[[], Tensor], rounds: int, start: Tensor) -> None:
    a, b = ours(), theirs()
    update = (b - start).abs().max() if b.is_complex() else (b - start.abs()).abs().max()
    pairs = []
    for _ in range(rounds):
        begin = time.perf_counter()
        ours()
        middle = time.perf_counter()
        theirs()
        pairs.append((middle - begin, time.perf_counter() - middle))
    mine, other, ratio = (statistics.median(v) for v in zip(*((x, y, y / x) for x, y in pairs), strict=True))
    gap = float((a - b).abs().max() / update)
    print(f"{name}: ours {mine:.2f} s, theirs {other:.2f} s, ratio {ratio:.2f}, difference {gap:.1e}", flush=True)


def _weighed(model: nn.Module, renames: list[tuple[str, str]] | None = None) -> nn.Module:
    named = {}
    for name, parameter in model.named_parameters():
        for ours, theirs in renames or []:
            name = re.sub(ours, theirs, name)
        named[name] = parameter
    draw_weights(named)
    with torch.no_grad():
        # Small enough that 64 recurrent steps stay finite.
        for name, parameter in named.items():
            if not name.endswith("dc_weight"):
                parameter.mul_(0.3)
    return model.eval()


def _cirim(
    source: Path, problem: Problem, kspace: Tensor, mask: Tensor, maps: Tensor
) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    hollow_packages(source)
    from atommic.collections.reconstruction.nn.rim_base.rim_block import RIMBlock

    settings: dict[str, Any] = {"conv_kernels": [5, 3, 3], "conv_dilations": [1, 2, 1]}
    settings |= {"conv_bias": [True, True, False], "recurrent_bias": [True, True, False]}
    settings |= {"recurrent_kernels": [1, 1, 0], "recurrent_dilations": [1, 1, 0]}
    settings |= {"fft_centered": True, "fft_normalization": "ortho", "spatial_dims": [-2, -1], "coil_dim": 1}
    blocks: Any = _weighed(
        nn.ModuleList(
            RIMBlock("IndRNN", conv_filters=[64, 64, 2], recurrent_filters=[64, 64, 0], time_steps=8, **settings)
            for _ in range(8)
        )
    )
    model = _weighed(build("cirim", {"cascades": 8, "carry": True, "scale": "none"}), RIM)
    channels_last(model)  # as `load_model` does

    def theirs() -> Tensor:
        prediction: Tensor = kspace
        hidden: Any = None  # a list of tensors after the first block
        for number, block in enumerate(blocks):
            start = None if number == 0 else prediction
            steps, hidden = block(prediction, kspace, maps, mask, start, hidden, 1.0, keep_prediction=number > 0)
            prediction = steps[-1]
        return prediction if prediction.is_complex() else torch.view_as_complex(prediction.contiguous())

    return lambda: model(problem)[:, 0], theirs


def _varnet(problem: Problem, kspace: Tensor, mask: Tensor) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    from fastmri.models.varnet import VarNet

    peer = _weighed(VarNet(num_cascades=12, sens_chans=8, sens_pools=4, chans=18, pools=4))
    model = _weighed(build("e2evn", {"scale": "none"}), VARNET)
    channels_last(model)
    return lambda: model(problem)[:, 0], lambda: peer(kspace, mask.bool(), 6)


if __name__ == "__main__":
    main()
