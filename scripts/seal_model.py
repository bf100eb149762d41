"""Seal the folders of trained models again after an intended change of their configuration; see `seal_model`.

python scripts/seal_model.py mrirecon/models/weights/cirim      # or several folders
"""

from __future__ import annotations

import sys

from mrirecon.models.checkpoints import seal_model

if __name__ == "__main__":
    for folder in sys.argv[1:]:
        print(seal_model(folder))
