"""Put the best model of a run into the package, with the curve of its training in the card and beside the run.

python scripts/ship_model.py RUN NAME     # mrirecon/models/weights/NAME, scripts/runs/NAME/{log.jsonl,curve.png}

What comes along is weighed by held-out samples (see `mrirecon.methods.heldout`), which training and its validation are
not.
The curve is drawn by matplotlib: `pip install matplotlib`.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from mrirecon.models.checkpoints import describe_model, load_model, save_model

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Copy model, log and curve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    options = parser.parse_args()
    lines = [json.loads(line) for line in (options.run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    checks = [{"step": row["step"], **row["validation"]} for row in lines if "validation" in row]
    trained, told = load_model(options.run / "best"), describe_model(options.run / "best")
    card = dict(told["card"])  # describe_model checks it
    card["curve"] = {str(row["step"]): f"SSIM {row['ssim']:.4f}, PSNR {row['psnr']:.2f} dB" for row in checks}
    card["blend"] = "cross_validated, set after training: the scores of validation are those of the network alone"
    target = ROOT / "mrirecon/models/weights" / options.name
    save_model(target, str(trained.method), {**trained.options, "blend": "cross_validated"}, trained.model, card)
    kept = ROOT / "scripts/runs" / options.name
    kept.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(options.run / "log.jsonl", kept / "log.jsonl")
    _draw(lines, checks, kept / "curve.png", options.name)
    size = sum(p.stat().st_size for p in target.iterdir())
    print(f"{target}: {size / 1e6:.2f} MB, best at step {card['steps']}")


def _draw(lines: list[dict[str, float]], checks: list[dict[str, float]], path: Path, name: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.5), dpi=80)
    losses = [(row["step"], row["loss"]) for row in lines if "loss" in row]
    left.plot(*zip(*losses, strict=True), color="0.8", lw=0.5)
    # a mean over the last 20 lines of the log shows where the noise goes
    mean = [sum(v for _, v in losses[max(0, i - 19) : i + 1]) / min(i + 1, 20) for i in range(len(losses))]
    left.plot([s for s, _ in losses], mean, color="C0")
    left.set(xlabel="step", ylabel="training loss", title=name)
    right.plot([r["step"] for r in checks], [r["ssim"] for r in checks], "o-", color="C0")
    right.set(xlabel="step", ylabel="validation SSIM")
    other = right.twinx()
    other.plot([r["step"] for r in checks], [r["psnr"] for r in checks], "s--", color="C1")
    other.set_ylabel("validation PSNR (dB)")
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
