"""Names and descriptions of a BIDS derivative dataset (bids-specification.readthedocs.io, "Derivatives")."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from mrirecon import __version__
from mrirecon.errors import InputError, UsageError
from mrirecon.io.safe.hdf5 import TEXT_LIMIT
from mrirecon.io.safe.text import parse_json
from mrirecon.io.writers.write import write_json

VERSION = "1.9.0"
DESCRIPTION = "dataset_description.json"
SUFFIXES = ("T1w", "T2w", "PDw", "T2starw", "FLAIR", "inplaneT1", "inplaneT2", "PDT2", "angio", "T2star", "FLASH", "PD")
_NAMED = re.compile(r"(?:^|_)(sub|ses|acq|run|echo)-([A-Za-z0-9]+)(?=_|\.|$)")
_MOST = 60  # characters of a label
# What fastMRI's attribute `acquisition` and plain words say of the contrast, looked for in this order.
_CONTRASTS = (("FLAIR", "FLAIR"), ("T2STAR", "T2starw"), ("T1", "T1w"), ("T2", "T2w"), ("PD", "PDw"))


def bids_path(
    root: str | Path,
    source: str | Path,
    method: str,
    *,
    contrast: str | None = None,
    attributes: Mapping[str, object] | None = None,
) -> Path:
    """Return where the images of a scan lie in a derivative dataset.

    That is ``sub-XX[/ses-YY]/anat/sub-XX[_ses-YY][_acq-..]_rec-METHOD[_run-..][_echo-..]_T1w.nii.gz``.

    Subject, session, acquisition, run and echo are taken from the scan's name where it states them as BIDS does
    (``sub-01_run-2.h5``); else its whole name is the subject. Labels hold letters and digits only: others fall away.

    Args:
        root: folder of the dataset.
        source: the scan.
        method: of reconstruction.
        contrast: BIDS's suffix, such as T1w; by default what the scan's name ends in, or its attributes say.
        attributes: of the scan.

    Raises:
        UsageError: a contrast that BIDS has no word for, or that nothing tells; a name that leaves no label.

    """
    name = Path(source).name.split(".")[0]
    labels = dict(_NAMED.findall(name))
    subject = labels.get("sub") or label(name)
    suffix = contrast or next((s for s in SUFFIXES if name.endswith(f"_{s}")), None) or _contrast(attributes or {})
    if suffix not in SUFFIXES:
        raise UsageError(
            f"the contrast cannot be {suffix!r}" if suffix else "the contrast of the images is not known",
            where=str(source),
            why="BIDS names it at the end of a file's name",
            fix=f"give --contrast, one of {', '.join(SUFFIXES)}",
        )
    if not subject or not label(method):
        raise UsageError("no letters or digits are left for a label", where=str(source), fix="rename it sub-XX...")
    order = [("sub", subject), *((key, labels.get(key)) for key in ("ses", "acq")), ("rec", label(method))]
    order += [(key, labels.get(key)) for key in ("run", "echo")]
    file = "_".join(f"{key}-{value}" for key, value in order if value) + f"_{suffix}.nii.gz"
    folder = Path(root) / f"sub-{subject}"
    return (folder / f"ses-{labels['ses']}" if "ses" in labels else folder) / "anat" / file


def label(text: str) -> str:
    """Return what is left of a text in a BIDS label: ASCII letters and digits."""
    return "".join(c for c in text if c.isascii() and c.isalnum())[:_MOST]


def bids_fields(root: str | Path, source: str | Path) -> dict[str, object]:
    """Return what BIDS wants to find in the JSON beside a derivative image."""
    return {
        "Description": "Image reconstructed from k-space, for research only",
        "Sources": [_relative(Path(source), Path(root))],
        "SkullStripped": False,
    }


def describe_dataset(root: str | Path, source: str | Path) -> Path:
    """Write ``dataset_description.json``, or add the folder of `source` to the sources of the one that is there.

    Raises:
        UsageError: the folder is a BIDS dataset of another kind, which derivatives must not be mixed into.
        InputError: a description that cannot be read.

    """
    path = Path(root) / DESCRIPTION
    found = _read(path) if path.exists() else {}
    if found and found.get("DatasetType") != "derivative":
        raise UsageError(
            f"{root} is a BIDS dataset, but no derivative one",
            why=f"DatasetType is {str(found.get('DatasetType', 'raw'))[:40]!r}",
            fix="name a folder of its own, such as derivatives/mrirecon",
        )
    made: dict[str, object] = {
        "Name": "mrirecon reconstructions",
        "BIDSVersion": VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "mrirecon", "Version": __version__}],
        **found,
    }
    stated = made.get("SourceDatasets")
    sources = list(stated) if isinstance(stated, list) else []
    here = {"URL": _relative(Path(source).parent, Path(root))}
    if here not in sources or not found:
        made["SourceDatasets"] = sources if here in sources else [*sources, here]
        write_json(path, made, inputs=[source])
    return path


def _contrast(attributes: Mapping[str, object]) -> str | None:
    said = " ".join(str(attributes.get(key, "")) for key in ("contrast", "acquisition", "sequence")).upper()
    return next((suffix for word, suffix in _CONTRASTS if word in said), None)


def _relative(path: Path, root: Path) -> str:
    return Path(os.path.relpath(path.resolve(), root.resolve())).as_posix()


def _read(path: Path) -> dict[str, object]:
    try:
        if path.stat().st_size > TEXT_LIMIT:
            raise ValueError("it is too large")
        found = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read", why=str(error)[:200], fix="mend it, or name another folder"
        ) from None
    if not isinstance(found, dict):
        raise InputError(f"{path} is no description of a dataset", fix="mend it, or name another folder")
    return found
