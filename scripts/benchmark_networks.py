"""Time networks in float32, under plain autocast and in bfloat16, training and inference, beside ATOMMIC's CIRIM.

    python scripts/benchmark_networks.py [CASE ...] [--atommic SOURCE] [--rounds 5] [--threads 2]

Cases: inference (CIRIM 8×8×64, 8 coils 320²), step (CIRIM 5×8×64, 8 coils 160²), peer (a training step of CIRIM 2×8×64,
8 coils 320², checkpointed, beside ATOMMIC's), e2evn and unet (inference and training step, 8 coils 320²), accuracy (the
model that comes along, on the scan in data_samples); all if none is named. ATOMMIC's source: see compare_networks.py.

Within a round every way is run once, in turn. Printed are medians over the rounds, and medians of the ratios to the
last way of each case round by round. ``cpu`` is the share of the threads' time that this process had: much less than
100 % means that other programs were running, and that the figure is worth nothing.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mrirecon.data.loading import hold_memory
from mrirecon.engine import Precision, Reconstructor
from mrirecon.methods.registry import build
from mrirecon.models.costs import peak_allocation
from mrirecon.models.hardware import bfloat16_unit
from mrirecon.networks import channels_last
from mrirecon.physics.problem import Problem

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.goldens.make_networks import draw_scan, hollow_packages

Ways = dict[str, Callable[[], object]]
CASES = ("inference", "step", "peer", "e2evn", "unet", "accuracy")


def main() -> None:
    """Run the cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--atommic", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    hold_memory()  # as `mrirecon train` does, for all of them alike
    print(f"bfloat16 pays here: {bfloat16_unit(torch.device('cpu')) or 'no'}; {options.threads} threads", flush=True)
    for case in options.cases or CASES:
        if case == "accuracy":
            _accuracy()
        elif case == "inference":
            model, p = _model("cirim", cascades=8), _problem(320)
            _difference(model, p)
            _compare("CIRIM 8x8x64, 8 coils 320, inference", _inference(model, p), options.rounds)
        elif case == "step":
            _compare("CIRIM 5x8x64, 8 coils 160, step", _steps(_model("cirim"), _problem(160)), options.rounds)
        elif case == "peer":
            _peer(options.atommic, options.rounds)
        elif case in ("e2evn", "unet"):
            model, p = _model(case, **({"channels": 32, "pools": 4} if case == "unet" else {})), _problem(320)
            _compare(f"{case}, 8 coils 320, inference", _inference(model, p), options.rounds)
            _compare(f"{case}, 8 coils 320, step", _steps(model, p), options.rounds)
        else:
            parser.error(f"there is no case {case!r}: {', '.join(CASES)}")


def _compare(title: str, ways: Ways, rounds: int, memory: bool = False) -> None:
    for run in ways.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    shares: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            seconds[name].append(wall)
            shares[name].append(cpu / wall / torch.get_num_threads())
    last = seconds[list(ways)[-1]]
    for name, run in ways.items():
        ratio = statistics.median(a / b for a, b in zip(seconds[name], last, strict=True))
        line = f"{title}, {name}: {statistics.median(seconds[name]):.2f} s (least {min(seconds[name]):.2f}), "
        line += f"{ratio:.2f} of the last way's; cpu {statistics.median(shares[name]):.0%}"
        print(line + (f"; peak {peak_allocation(run) / 2**20:.0f} MiB" if memory else ""), flush=True)


def _model(name: str, **options: Any) -> Reconstructor:
    torch.manual_seed(0)
    model = build(name, options)
    channels_last(model)
    return model.eval()


def _problem(size: int, coils: int = 8) -> Problem:
    kspace, mask, maps = (t.float() for t in draw_scan((size, size), coils))
    full = mask[..., 0].expand(1, 1, size, size).contiguous()
    return Problem(torch.view_as_complex(kspace), full, torch.view_as_complex(maps).unsqueeze(1))


def _as(model: Reconstructor, precision: Precision, run: Callable[[], object], autocast: bool = False) -> object:
    model.precision = precision
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        return run()


def _inference(model: Reconstructor, p: Problem) -> Ways:
    def run() -> Tensor:
        with torch.inference_mode():
            return model.eval()(p)  # type: ignore[no-any-return]  # a module's call

    return _three(model, run)


def _steps(model: Reconstructor, p: Problem) -> Ways:
    target = p.adjoint.abs()

    def run() -> None:
        loss = torch.stack([(x.abs() - target).abs().mean() for x in model.train().images(p)]).mean()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        model.zero_grad()

    return _three(model, run)


def _three(model: Reconstructor, run: Callable[[], object]) -> Ways:
    return {
        "bfloat16": lambda: _as(model, "bfloat16", run),
        "autocast": lambda: _as(model, "float32", run, autocast=True),
        "float32": lambda: _as(model, "float32", run),
    }


def _difference(model: Reconstructor, p: Problem) -> None:
    images = {}
    with torch.inference_mode():
        for precision in ("float32", "bfloat16"):
            images[precision] = _as(model, precision, lambda: model(p))
    exact, half = images.values()
    gap = (half - exact).norm() / (exact - p.adjoint).norm()  # type: ignore[operator]  # images
    print(f"untrained weights: bfloat16 differs by {float(gap):.1e} of the network's own update", flush=True)


def _peer(source: Path | None, rounds: int) -> None:
    """A training step of the same size, ATOMMIC's last; ours also with all that it needs kept in memory."""
    p = _problem(320)
    ways: Ways = {}
    for precision in ("bfloat16", "float32"):
        for memory in ("checkpoint", "store"):
            model = _model("cirim", cascades=2, carry=True, memory=memory)
            ways[f"{precision}, memory={memory}"] = _steps(model, p)[precision]
    if source is None:
        print("no ATOMMIC: give its source with --atommic", flush=True)
    else:
        ways["ATOMMIC"] = _atommic_step(source, p)
    _compare("CIRIM 2x8x64, 8 coils 320, step", ways, rounds, memory=True)


def _atommic_step(source: Path, p: Problem) -> Callable[[], None]:
    hollow_packages(source)
    from atommic.collections.reconstruction.nn.rim_base.rim_block import RIMBlock

    settings: dict[str, Any] = {"conv_kernels": [5, 3, 3], "conv_dilations": [1, 2, 1]}
    settings |= {"conv_bias": [True, True, False], "recurrent_bias": [True, True, False]}
    settings |= {"recurrent_kernels": [1, 1, 0], "recurrent_dilations": [1, 1, 0]}
    settings |= {"fft_centered": True, "fft_normalization": "ortho", "spatial_dims": [-2, -1], "coil_dim": 1}
    blocks = nn.ModuleList(
        RIMBlock("IndRNN", conv_filters=[64, 64, 2], recurrent_filters=[64, 64, 0], time_steps=8, **settings)
        for _ in range(2)
    )
    kspace, maps = torch.view_as_real(p.y), torch.view_as_real(p.maps[:, 0])
    mask, target = p.mask[:, :, :1, :, None], p.adjoint[:, 0].abs()

    def run() -> None:
        prediction, hidden, losses = kspace, None, []
        for number, block in enumerate(blocks):
            start = None if number == 0 else prediction
            steps, hidden = block(prediction, kspace, maps, mask, start, hidden, 1.0, keep_prediction=number > 0)
            prediction = steps[-1]
            images = [x if x.is_complex() else torch.view_as_complex(x.contiguous()) for x in steps]
            losses += [(x.abs() - target).abs().mean() for x in images]
        torch.stack(losses).mean().backward()  # type: ignore[no-untyped-call]  # torch's
        blocks.zero_grad()

    return run


def _accuracy() -> None:
    from mrirecon.reconstruction.file import reconstruct_file

    data = Path(__file__).parents[1] / "data_samples"
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("float32", "bfloat16"):
            found = reconstruct_file(
                data / "brain_4x.h5",
                Path(folder) / f"{precision}.h5",
                method="cirim",
                precision=precision,
                reference=data / "brain_full.h5",
            )
            mean: dict[str, float] = found["scores"]["mean"]  # type: ignore[index]  # plain data
            print(f"{precision}, shipped cirim on brain_4x: PSNR {mean['psnr']:.3f} dB, SSIM {mean['ssim']:.5f}")


if __name__ == "__main__":
    main()
