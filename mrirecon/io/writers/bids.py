"""Name and describe the files of a BIDS derivative dataset (bids-specification.readthedocs.io, "Derivatives")."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mrirecon import __version__
from mrirecon.errors import InputError, UsageError
from mrirecon.io.safe.hdf5 import TEXT_LIMIT
from mrirecon.io.safe.text import parse_json
from mrirecon.io.writers.write import write_json

VERSION = "1.9.0"
DESCRIPTION = "dataset_description.json"
SUFFIXES = ("T1w", "T2w", "PDw", "T2starw", "FLAIR", "inplaneT1", "inplaneT2", "PDT2", "angio", "T2star", "FLASH", "PD")
_NAMED = re.compile(r"(?:^|_)(sub|ses|acq|run|echo)-([A-Za-z0-9]+)(?=_|\.|$)")
_MOST = 60  # largest number of characters of a label
# Text that identifies the contrast in fastMRI's attribute `acquisition` and others, searched in this order.
_CONTRASTS = (("FLAIR", "FLAIR"), ("T2STAR", "T2starw"), ("T1", "T1w"), ("T2", "T2w"), ("PD", "PDw"))


def bids_path(
    root: str | Path,
    source: str | Path,
    method: str,
    *,
    contrast: str | None = None,
    attributes: Mapping[str, object] | None = None,
) -> Path:
    """Return the path of the images of a scan in a derivative dataset.

    The path is ``sub-XX[/ses-YY]/anat/sub-XX[_ses-YY][_acq-..]_rec-METHOD[_run-..][_echo-..]_T1w.nii.gz``.

    Subject, session, acquisition, run and echo are taken from a file name in BIDS style (``sub-01_run-2.h5``);
    otherwise the whole name is the subject. Labels hold only letters and digits: other characters are dropped.

    Args:
        root: folder of the dataset.
        source: file of the scan.
        method: name of the method.
        contrast: suffix of BIDS, such as T1w; by default from the end of the file name, or from the attributes.
        attributes: attributes of the scan.

    Raises:
        UsageError: a contrast that is missing or not in BIDS; a name without letters and digits.

    """
    name = Path(source).name.split(".")[0]
    words = " ".join(str((attributes or {}).get(key, "")) for key in ("contrast", "acquisition", "sequence")).upper()
    suffix = contrast or next((s for s in SUFFIXES if name.endswith(f"_{s}")), None)
    suffix = suffix or next((suffix for word, suffix in _CONTRASTS if word in words), None)
    if suffix not in SUFFIXES:
        raise UsageError(
            f"the contrast cannot be {suffix!r}" if suffix else "the contrast of the images is not known",
            where=str(source),
            why="BIDS names it at the end of a file's name",
            fix=f"give --contrast, one of {', '.join(SUFFIXES)}",
        )
    stated = dict(_NAMED.findall(name))
    labels = {"sub": stated.get("sub") or label(name), "rec": label(method)}
    if not all(labels.values()):
        raise UsageError("no letters or digits are left for a label", where=str(source), fix="rename it sub-XX...")
    labels = stated | labels
    parts = [f"{key}-{labels[key]}" for key in ("sub", "ses", "acq", "rec", "run", "echo") if key in labels]
    session = [part for part in parts if part.startswith("ses-")]
    return Path(root, parts[0], *session, "anat", "_".join([*parts, f"{suffix}.nii.gz"]))


def label(text: str) -> str:
    """Return the ASCII letters and digits of a text, as allowed in a BIDS label."""
    return "".join(c for c in text if c.isascii() and c.isalnum())[:_MOST]


def bids_fields(root: str | Path, source: str | Path) -> dict[str, object]:
    """Return the fields that BIDS requires in the JSON sidecar of a derivative image."""
    return {
        "Description": "Image reconstructed from k-space, for research only",
        "Sources": [_relative(Path(source), Path(root))],
        "SkullStripped": False,
    }


def describe_dataset(root: str | Path, source: str | Path) -> Path:
    """Write ``dataset_description.json``, or add the folder of `source` to the sources in an existing one.

    Raises:
        UsageError: the folder is a BIDS dataset of raw data, in which derivatives must not be mixed.
        InputError: the description cannot be read.

    """
    path = Path(root) / DESCRIPTION
    old = _read(path) if path.exists() else {}
    if old and old.get("DatasetType") != "derivative":
        raise UsageError(
            f"{root} is a BIDS dataset, but not a derivative one",
            why=f"DatasetType is {str(old.get('DatasetType', 'raw'))[:40]!r}",
            fix="give a separate folder, such as derivatives/mrirecon",
        )
    stated = old.get("SourceDatasets")
    sources = stated if isinstance(stated, list) else []
    source_dataset = {"URL": _relative(Path(source).parent, Path(root))}
    if source_dataset not in sources or not old:
        new: dict[str, object] = {
            "Name": "mrirecon reconstructions",
            "BIDSVersion": VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "mrirecon", "Version": __version__}],
            **old,
            "SourceDatasets": sources if source_dataset in sources else [*sources, source_dataset],
        }
        write_json(path, new, inputs=[source])
    return path


def _relative(path: Path, root: Path) -> str:
    return Path(os.path.relpath(path.resolve(), root.resolve())).as_posix()


def _read(path: Path) -> dict[str, Any]:
    fix = "repair it, or give another folder"
    try:
        if path.stat().st_size > TEXT_LIMIT:
            raise ValueError("it is too large")
        content = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read", why=str(error)[:200], fix=fix) from None
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a description of a dataset", fix=fix)
    return content
