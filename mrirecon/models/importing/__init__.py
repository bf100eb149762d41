"""Import weights of other toolkits: read their files safely, recognise the network, and write a folder of a model."""

from __future__ import annotations

from mrirecon.models.importing.containers import Checkpoint, read_checkpoint
from mrirecon.models.importing.convert import import_model
from mrirecon.models.importing.layouts import LAYOUTS

__all__ = ["LAYOUTS", "Checkpoint", "import_model", "read_checkpoint"]
