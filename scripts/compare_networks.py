"""Time our networks against ATOMMIC's CIRIM and fastMRI's VarNet with the same weights.

    python scripts/compare_networks.py ATOMMIC_SOURCE [--rounds 5] [--size 320] [--coils 8] [--threads 2]

Run it in the environment described in tests/goldens/make_networks.py, with mrirecon installed (`peer/bin/pip install
.`; no test tools needed). In each round, both run once. Prints median seconds, the median of the ratios of the rounds,
and the largest difference of the outputs relative to the network's own update.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
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
    problem = make_problem(options.size, options.coils)
    for name, (ours, theirs) in {
        "CIRIM 8 x 8 x 64, ATOMMIC": _cirim(options.atommic, problem, kspace, mask, maps),
        "VarNet 12, fastMRI": _varnet(problem, kspace, mask),
    }.items():
        with torch.inference_mode():
            _compare(name, ours, theirs, options.rounds, problem.adjoint[:, 0])


def make_problem(size: int, coils: int = 8) -> Problem:
    """Return the problem of the scan of `tests.goldens.make_networks`, size × size."""
    kspace, mask, maps = (t.float() for t in draw_scan((size, size), coils))
    full = mask[..., 0].expand(1, 1, size, size).contiguous()
    return Problem(torch.view_as_complex(kspace), full, torch.view_as_complex(maps).unsqueeze(1))


def atommic_blocks(source: Path, cascades: int) -> nn.ModuleList:
    """Return ATOMMIC's CIRIM with 8 steps and 64 features, from its source."""
    hollow_packages(source)
    from atommic.collections.reconstruction.nn.rim_base.rim_block import RIMBlock

    settings: dict[str, Any] = {"conv_kernels": [5, 3, 3], "conv_dilations": [1, 2, 1]}
    settings |= {"conv_bias": [True, True, False], "recurrent_bias": [True, True, False]}
    settings |= {"recurrent_kernels": [1, 1, 0], "recurrent_dilations": [1, 1, 0]}
    settings |= {"fft_centered": True, "fft_normalization": "ortho", "spatial_dims": [-2, -1], "coil_dim": 1}
    return nn.ModuleList(
        RIMBlock("IndRNN", conv_filters=[64, 64, 2], recurrent_filters=[64, 64, 0], time_steps=8, **settings)
        for _ in range(cascades)
    )


def atommic_steps(blocks: Any, kspace: Tensor, maps: Tensor, mask: Tensor) -> Iterator[Tensor]:
    """Yield the images of all steps of ATOMMIC's CIRIM, (1, y, x) complex; its arguments are real, (..., 2)."""
    prediction, hidden = kspace, None
    for number, block in enumerate(blocks):
        start = None if number == 0 else prediction
        steps, hidden = block(prediction, kspace, maps, mask, start, hidden, 1.0, keep_prediction=number > 0)
        prediction = steps[-1]
        yield from (x if x.is_complex() else torch.view_as_complex(x.contiguous()) for x in steps)


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


def _with_drawn_weights(model: nn.Module, renames: list[tuple[str, str]] | None = None) -> nn.Module:
    """Draw weights by the peer's names, so that both networks have equal weights."""
    named = {}
    for name, parameter in model.named_parameters():
        for ours, theirs in renames or []:
            name = re.sub(ours, theirs, name)
        named[name] = parameter
    draw_weights(named)
    with torch.no_grad():
        # Small enough to keep 64 recurrent steps finite.
        for name, parameter in named.items():
            if not name.endswith("dc_weight"):
                parameter.mul_(0.3)
    return model.eval()


def _cirim(
    source: Path, problem: Problem, kspace: Tensor, mask: Tensor, maps: Tensor
) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    blocks = _with_drawn_weights(atommic_blocks(source, 8))
    model = _with_drawn_weights(build("cirim", {"cascades": 8, "carry_hidden": True, "scale": "none"}), RIM)
    channels_last(model)  # as `load_model` does

    return lambda: model(problem)[:, 0], lambda: list(atommic_steps(blocks, kspace, maps, mask))[-1]


def _varnet(problem: Problem, kspace: Tensor, mask: Tensor) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    from fastmri.models.varnet import VarNet

    peer = _with_drawn_weights(VarNet(num_cascades=12, sens_chans=8, sens_pools=4, chans=18, pools=4))
    model = _with_drawn_weights(build("e2evn", {"scale": "none"}), VARNET)
    channels_last(model)
    return lambda: model(problem)[:, 0], lambda: peer(kspace, mask.bool(), 6)


if __name__ == "__main__":
    main()
