"""Read the ISMRMRD header (XML), reduced to values about the measurement that cannot identify a person."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

from mrirecon.errors import UnsafeContentError
from mrirecon.io.readers.siemens import SEQUENCE_NAME

# Paths to read, without namespaces. Below an entry that ends in "/", only numbers are kept, which identify nobody.
_ALLOWED = (
    *("experimentalConditions/", "encoding/encodedSpace/", "encoding/reconSpace/", "encoding/encodingLimits/"),
    *(
        "encoding/trajectory",
        "encoding/trajectoryDescription/",
        "encoding/parallelImaging/",
        "encoding/echoTrainLength",
        "sequenceParameters/",
    ),
    "encoding/parallelImaging/calibrationMode",
    SEQUENCE_NAME,
    *("acquisitionSystemInformation/systemVendor", "acquisitionSystemInformation/systemModel"),
    *("acquisitionSystemInformation/systemFieldStrength_T", "acquisitionSystemInformation/receiverChannels"),
    "acquisitionSystemInformation/relativeReceiverNoiseBandwidth",
)
# Values of siemens_to_ismrmrd that describe an echo train, as pairs of a name and a number; times in microseconds.
_TRAIN = "encoding/trajectoryDescription/userParameter"
ECHO_TRAIN = ("rampUpTime", "rampDownTime", "flatTopTime", "acqDelayTime", "numSamples", "dwellTime")
_MAX_DEPTH, _MAX_ENTRIES, _MAX_VALUE = 32, 10_000, 200


class _Builder(ElementTree.TreeBuilder):
    path: Path

    def doctype(self, *_: object) -> None:
        """Refuse a document type declaration, because its entities could expand without limit."""
        raise UnsafeContentError(
            f"the header of {self.path} declares a document type, which is refused",
            why="no scanner writes one; it can expand entities or fetch files",
            fix="do not trust this file; remove its ismrmrd_header to read the k-space",
        )


def read_header(text: str, path: Path) -> dict[str, str] | None:
    """Return the header's values by path ("sequenceParameters/TR"), the first of repeated ones; None if not XML.

    Values of the second encoding have paths under "encoding#1/", those of the third under "encoding#2/". The numbers
    that describe an echo train (`ECHO_TRAIN`) have paths "encoding/trajectoryDescription/NAME".

    Raises:
        UnsafeContentError: a document type declaration.

    """
    document = text.lstrip("\ufeff \r\n\t").encode("utf-8", errors="replace")
    builder = _Builder()
    builder.path = path
    try:
        root = ElementTree.fromstring(document, ElementTree.XMLParser(target=builder, encoding="utf-8"))
    except (ElementTree.ParseError, ValueError):
        return None
    values: dict[str, str] = {}
    named, encodings, entries = "", 0, 0
    stack: list[tuple[tuple[str, ...], ElementTree.Element]] = [((), root)]
    while stack:
        parent, element = stack.pop()
        stack += [((*parent, child.tag.rpartition("}")[2]), child) for child in reversed(element)]
        entries += 1
        encodings += parent == ("encoding",)
        if len(parent) >= _MAX_DEPTH or entries > _MAX_ENTRIES:
            return None
        key, value = "/".join(parent), (element.text or "").strip()
        if len(element) or not value or len(value) > _MAX_VALUE:
            continue
        if key.startswith(_TRAIN) and key.endswith("/name"):
            named = value if value in ECHO_TRAIN else ""
        elif key.startswith(_TRAIN) and key.endswith("/value") and named:
            key = f"encoding/trajectoryDescription/{named}"
        below = any(k[-1] == "/" and key.startswith(k) for k in _ALLOWED) and _is_number(value)
        if key in _ALLOWED or below:
            if encodings > 1 and key.startswith("encoding/"):
                key = f"encoding#{encodings - 1}/{key.removeprefix('encoding/')}"
            values.setdefault(key, "".join(c for c in value if c.isprintable()))
    return values


def _is_number(value: str) -> bool:
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False


def write_header(values: dict[str, str]) -> str:
    """Write the values as a small ISMRMRD document with the first encoding, without the name of the sequence."""
    root = ElementTree.Element("ismrmrdHeader", xmlns="http://www.ismrm.org/ISMRMRD")
    for key, value in values.items():
        if "#" not in key and key != SEQUENCE_NAME:
            node = root
            for name in key.split("/"):
                child = node.find(name)
                node = ElementTree.SubElement(node, name) if child is None else child
            node.text = value
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)


def sequence_values(values: dict[str, str]) -> dict[str, str]:
    """Return the values about scanner and sequence by their names in `Scan.attributes`."""
    system, sequence = "acquisitionSystemInformation/", "sequenceParameters/"
    paths = {
        **{"vendor": system + "systemVendor", "model": system + "systemModel"},
        **{"field_strength_T": system + "systemFieldStrength_T", "TR": sequence + "TR", "TE": sequence + "TE"},
        **{"TI": sequence + "TI", "flip_angle_deg": sequence + "flipAngle_deg"},
    }
    return {name: values[key] for name, key in paths.items() if key in values}


def padding(values: dict[str, str], width: int) -> tuple[int, int] | None:
    """Return the range of acquired columns, (left, right), if fastMRI's header states it.

    Columns before `left` and from `right` on are zero-padded (fastMRI, `padding_left`, `padding_right`).
    """
    try:
        encoded = int(values["encoding/encodedSpace/matrixSize/y"])
        centre = int(values["encoding/encodingLimits/kspace_encoding_step_1/center"])
        last = int(values["encoding/encodingLimits/kspace_encoding_step_1/maximum"])
    except (KeyError, ValueError):
        return None
    left = encoded // 2 - centre
    right = left + last + 1
    return (left, right) if encoded == width and 0 <= left < right <= width else None
