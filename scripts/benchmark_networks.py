"""Time inference and training of networks in float32, under autocast and in bfloat16, beside ATOMMIC's CIRIM.

    python scripts/benchmark_networks.py [CASE ...] [--atommic SOURCE] [--rounds 5] [--threads 2]

Cases: inference (CIRIM 8×8×64, 8 coils 320²), step (CIRIM 5×8×64, 8 coils 160²), peer (a training step of CIRIM 2×8×64,
8 coils 320², checkpointed, beside ATOMMIC's), e2evn and unet (inference and training step, 8 coils 320²), shipped (the
shipped models and a CIRIM 5×8×64, with initial image and blend, beside cs, simulated phantom of 8 coils 320²), accuracy
(the shipped model on the scan in data_samples); all by default. For ATOMMIC's source see compare_networks.py.

In each round every variant runs once. Prints the medians over the rounds, and the medians of the ratios to the last
variant of each case. ``cpu`` is the fraction of the threads' time that this process used: far below 100 %, other
programs were running, and the times are invalid.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compare_networks import atommic_blocks, atommic_steps, make_problem
from torch import Tensor

from mrirecon.coils.calibration import find_calibration
from mrirecon.coils.espirit import espirit
from mrirecon.data.loading import keep_freed_memory
from mrirecon.data.phantom import phantom
from mrirecon.data.simulate import simulate_kspace
from mrirecon.engine import Precision, Reconstructor
from mrirecon.masks import make_mask
from mrirecon.methods.registry import build
from mrirecon.methods.regularization import weight_by_noise
from mrirecon.models.checkpoints import load_model, shipped_models
from mrirecon.models.costs import peak_allocation
from mrirecon.models.hardware import bfloat16_unit
from mrirecon.networks import RecurrentNet, channels_last
from mrirecon.physics.problem import Problem
from mrirecon.reconstruction.calibrate import ItemMaps, ItemProblem, build_problem

PRECISIONS: tuple[Precision, ...] = ("bfloat16", "float32")
Variants = dict[str, Callable[[], object]]
CASES = ("inference", "step", "peer", "e2evn", "unet", "shipped", "accuracy")


def main() -> None:
    """Run the cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--atommic", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as in `mrirecon train`, equal for all variants
    print(f"bfloat16 pays here: {bfloat16_unit(torch.device('cpu')) or 'no'}; {options.threads} threads", flush=True)
    for case in options.cases or CASES:
        if case == "accuracy":
            _accuracy()
        elif case == "inference":
            model, p = _model("cirim", cascades=8), make_problem(320)
            _difference(model, p)
            _compare("CIRIM 8x8x64, 8 coils 320, inference", _inference(model, p), options.rounds)
        elif case == "step":
            _compare("CIRIM 5x8x64, 8 coils 160, step", _steps(_model("cirim"), make_problem(160)), options.rounds)
        elif case == "shipped":
            _shipped(options.rounds)
        elif case == "peer":
            _peer(options.atommic, options.rounds)
        elif case in ("e2evn", "unet"):
            model, p = _model(case, **({"channels": 32, "pools": 4} if case == "unet" else {})), make_problem(320)
            _compare(f"{case}, 8 coils 320, inference", _inference(model, p), options.rounds)
            _compare(f"{case}, 8 coils 320, step", _steps(model, p), options.rounds)
        else:
            parser.error(f"there is no case {case!r}: {', '.join(CASES)}")


def _compare(title: str, variants: Variants, rounds: int, memory: bool = False) -> None:
    for run in variants.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    shares: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            seconds[name].append(wall)
            shares[name].append(cpu / wall / torch.get_num_threads())
    last = seconds[list(variants)[-1]]
    for name, run in variants.items():
        ratio = statistics.median(a / b for a, b in zip(seconds[name], last, strict=True))
        line = f"{title}, {name}: {statistics.median(seconds[name]):.2f} s (least {min(seconds[name]):.2f}), "
        line += f"{ratio:.2f} of the last variant's; cpu {statistics.median(shares[name]):.0%}"
        print(line + (f"; peak {peak_allocation(run) / 2**20:.0f} MiB" if memory else ""), flush=True)


def _model(name: str, **options: Any) -> Reconstructor:
    torch.manual_seed(0)
    model = build(name, options)
    channels_last(model)
    return model.eval()


def _as(model: Reconstructor, precision: Precision, run: Callable[[], object], autocast: bool = False) -> object:
    model.precision = precision
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        return run()


def _inference(model: Reconstructor, p: Problem) -> Variants:
    def run() -> Tensor:
        with torch.inference_mode():
            return model.eval()(p)  # type: ignore[no-any-return]  # a module's call

    return _three(model, run)


def _steps(model: Reconstructor, p: Problem) -> Variants:
    target = p.adjoint.abs()

    def run() -> None:
        loss = torch.stack([(x.abs() - target).abs().mean() for x in model.train().images(p)]).mean()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        model.zero_grad()

    return _three(model, run)


def _three(model: Reconstructor, run: Callable[[], object]) -> Variants:
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
    """Compare a training step with an equal step of ATOMMIC; ours also without checkpoints."""
    p = make_problem(320)
    variants: Variants = {}
    for precision in ("bfloat16", "float32"):
        for memory in ("checkpoint", "store"):
            model = _model("cirim", cascades=2, carry_hidden=True, memory=memory)
            variants[f"{precision}, memory={memory}"] = _steps(model, p)[precision]
    if source is None:
        print("no ATOMMIC: give its source with --atommic", flush=True)
    else:
        variants["ATOMMIC"] = _atommic_step(source, p)
    _compare("CIRIM 2x8x64, 8 coils 320, step", variants, rounds, memory=True)


def _atommic_step(source: Path, p: Problem) -> Callable[[], None]:
    blocks = atommic_blocks(source, 2)
    kspace, maps = torch.view_as_real(p.y), torch.view_as_real(p.maps[:, 0])
    mask, target = p.mask[:, :, :1, :, None], p.adjoint[:, 0].abs()

    def run() -> None:
        losses = [(x.abs() - target).abs().mean() for x in atommic_steps(blocks, kspace, maps, mask)]
        torch.stack(losses).mean().backward()  # type: ignore[no-untyped-call]  # torch's
        blocks.zero_grad()

    return run


def _shipped(rounds: int) -> None:
    """Compare the shipped models with compressed sensing; ratios are to the time of cs."""
    simulated = simulate_kspace(phantom((320, 320), 1, 1), 8, 30.0, 1)
    mask = make_mask("equispaced", (320, 320), 4, calibration=24, seed=1).mask
    kspace = np.ascontiguousarray(simulated.kspace[0] * mask, dtype=np.complex64)
    region = torch.from_numpy(np.ascontiguousarray(kspace[(slice(None), *find_calibration(mask, 24))]))[None]
    result = espirit(region, mask.shape, crop=0)
    maps = ItemMaps(result.maps, "ESPIRiT", values=result.values)
    informed, weighted = (build_problem(kspace, mask, maps, use) for use in ("informed", "weighted"))
    models = {name: load_model(folder).model for name, folder in shipped_models().items()}
    start = {"dc": "gradient", "start": "cs", "phase": "removed", "blend": "cross_validated"}
    models["CIRIM 5x8x64"] = _model("cirim", **start)
    for module in models["CIRIM 5x8x64"].modules():
        if isinstance(module, RecurrentNet):  # start=cs sets the last layer to zero
            for weight in module.final.parameters():
                torch.nn.init.normal_(weight, std=1e-3)
    cs = build("cs", {"lam": float(weight_by_noise("cs", weighted.problem))})

    def run(model: Reconstructor, item: ItemProblem) -> object:
        with torch.inference_mode():
            return model.run(item.problem, prior=item.prior)

    variants: Variants = {
        f"{name}, {precision}": partial(_as, model, precision, partial(run, model, informed))
        for name, model in models.items()
        for precision in PRECISIONS
    }
    _compare("8 coils 320, blended", variants | {"cs": partial(run, cs, weighted)}, rounds)


def _accuracy() -> None:
    from mrirecon.reconstruction.file import reconstruct_file

    data = Path(__file__).parents[1] / "data_samples"
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("float32", "bfloat16"):
            summary = reconstruct_file(
                data / "brain_4x.h5",
                Path(folder) / f"{precision}.h5",
                method="cirim",
                precision=precision,
                reference=data / "brain_full.h5",
            )
            mean: dict[str, float] = summary["scores"]["mean"]  # type: ignore[index]  # plain data
            print(f"{precision}, shipped cirim on brain_4x: PSNR {mean['psnr']:.3f} dB, SSIM {mean['ssim']:.5f}")


if __name__ == "__main__":
    main()
