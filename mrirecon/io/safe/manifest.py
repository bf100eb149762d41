"""Verify files with checksums: a list of `sha256sum`, or the JSON sidecar of an output.

Most formats of k-space do not detect a flipped bit.
"""

from __future__ import annotations

import re
from pathlib import Path

from mrirecon.errors import InputError
from mrirecon.io.identify import cfl_pair, regular_file
from mrirecon.io.safe.atomic import sha256
from mrirecon.io.safe.text import parse_json, portable

_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")
_LIMIT = 64 << 20


def read_manifest(path: str | Path) -> dict[str, str]:
    """Read a list of SHA-256 checksums, by file name without folders.

    Args:
        path: lines ``HASH  NAME``, or a JSON with "outputs" as in the sidecars of `mrirecon.io.writers.write`.

    Raises:
        InputError: neither format, too large, or two checksums for one name.

    """
    path = regular_file(path)
    if path.stat().st_size > _LIMIT:
        raise InputError(f"{path} is too large for a list of checksums", why=f"{path.stat().st_size} bytes")
    text = path.read_bytes().decode("utf-8", errors="surrogateescape")
    pairs = _from_json(text) if text.lstrip().startswith("{") else _from_lines(text)
    digests: dict[str, str] = {}
    for name, digest in pairs or ():
        name = name.replace("\\", "/").rsplit("/", 1)[-1]
        if digests.setdefault(name, digest) != digest:
            raise InputError(f"{path} gives two checksums for {name}", fix="use a separate list for each folder")
    if not digests:
        fix = "write it with `sha256sum FILE... > SHA256SUMS`"
        raise InputError(f"{path} is not a list of SHA-256 checksums", fix=fix)
    return digests


def verify(path: str | Path, manifest: str | Path) -> str:
    """Verify a file, or both files of a BART pair, with a manifest; return its SHA-256 (for a pair, that of the data).

    Raises:
        InputError: the file is not in the manifest, or its checksum differs.

    """
    expected = read_manifest(manifest)
    files = [Path(path)] if Path(path).is_file() and Path(path).suffix not in (".cfl", ".hdr") else list(cfl_pair(path))
    digest = ""
    for file in files:
        name = portable(file.name)
        if name not in expected:
            raise InputError(
                f"{file.name} is not in the list of checksums", where=str(manifest), fix="add it, or omit --verify"
            )
        digest = sha256(file)
        if digest != expected[name].lower():
            raise InputError(
                f"{file} does not match its checksum",
                where=str(manifest),
                why=f"SHA-256 {digest[:16]}…, expected {expected[name][:16]}…",
                fix="it is damaged or was changed: copy it again",
            )
    return digest


def _from_lines(text: str) -> list[tuple[str, str]] | None:
    matches = [_LINE.fullmatch(line.strip()) for line in text.splitlines() if line.strip()]
    return [(match[2], match[1]) for match in matches if match] if all(matches) else None


def _from_json(text: str) -> list[tuple[str, str]] | None:
    try:
        outputs = parse_json(text)["outputs"]
        return [(str(output["file"]), str(output["sha256"])) for output in outputs]
    except (ValueError, KeyError, TypeError):
        return None
