"""Copy the best model of a run into the package, with its validation scores in the card, and its log.

    python scripts/ship_model.py RUN NAME [--set symmetries=2 --set passes=2]

It writes mrirecon/models/weights/NAME and scripts/runs/NAME/log.jsonl. Shipped models blend their image with compressed
sensing by cross-validation (`blend=cross_validated`), unlike in training and its validations.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import yaml

from mrirecon.models.checkpoints import describe_model, load_model, save_model

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Copy model and log."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("--set", dest="options", action="append", default=[], help="further options KEY=VALUE")
    options = parser.parse_args()
    lines = [json.loads(line) for line in (options.run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    checks = [{"step": row["step"], **row["validation"]} for row in lines if "validation" in row]
    trained, description = load_model(options.run / "best"), describe_model(options.run / "best")
    card = dict(description["card"])  # describe_model checks the folder
    card["curve"] = {str(row["step"]): f"SSIM {row['ssim']:.4f}, PSNR {row['psnr']:.2f} dB" for row in checks}
    changed: dict[str, object] = {"blend": "cross_validated"}
    changed |= {key: yaml.safe_load(value) for key, value in (text.split("=", 1) for text in options.options)}
    card["set after training"] = changed  # the scores of validation are those with the options of training
    target = ROOT / "mrirecon/models/weights" / options.name
    save_model(target, str(trained.method), {**trained.options, **changed}, trained.model, card)
    kept = ROOT / "scripts/runs" / options.name
    kept.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(options.run / "log.jsonl", kept / "log.jsonl")
    size = sum(p.stat().st_size for p in target.iterdir())
    print(f"{target}: {size / 1e6:.2f} MB, best at step {card['steps']}")


if __name__ == "__main__":
    main()
