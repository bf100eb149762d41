"""Time how many training items one core makes a second: 8 coils of 320 × 320, simulated, by family of masks.

    python scripts/time_items.py [--items 24]

Without coil maps, and with maps estimated from each item's own calibration region. Medians; the first items, which fill
caches, are left out.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from mrirecon.data.items import Recipe
from mrirecon.data.settings import Data, MaskDraw, Simulation
from mrirecon.data.sources import open_sources

WARM = 40


def main() -> None:
    """Print a row a family."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=24)
    options = parser.parse_args()
    print("items a second on one core:   without maps   with maps")
    for family in ("random", "equispaced", "gaussian1d", "gaussian2d", "poisson"):
        masks = [MaskDraw(family=family, acceleration=[4.0], calibration=[24])]
        simulation = Simulation(coils=[8, 8], resolution=[1.0, 1.0])
        data = Data(train=["phantom:0"], val=["phantom:1"], crop=[320, 320], simulation=simulation, masks=masks)
        slots = open_sources(data).train
        rates = []
        for maps in (False, True):
            recipe, seconds = Recipe(slots, data, 0, maps=maps), []
            for number in range(WARM + options.items):
                start = time.perf_counter()
                recipe.item(0, number, number % len(slots))
                seconds.append(time.perf_counter() - start)
            rates.append(1 / float(np.median(seconds[WARM:])))
        print(f"{family:30s}{rates[0]:12.1f}{rates[1]:12.1f}")


if __name__ == "__main__":
    main()
