"""How much a file may declare, and which types hold numbers: the same for every format."""

from __future__ import annotations

import numpy as np

from mrirecon.errors import InputError

# More than this, and more than RATIO_LIMIT times what is stored, is refused before anything is allocated: an array as a
# whole, and what a single read asks for. Deflate cannot shrink data by more than about 1000.
SIZE_LIMIT = 4 << 30
READ_LIMIT = 256 << 20
RATIO_LIMIT = 1000
NAME_LIMIT = 10_000
TEXT_LIMIT = 1 << 20
ATTRIBUTE_LIMIT = 64 << 10


def refuse_bomb(nbytes: int, stored: int, limit: int, where: str) -> None:
    """Refuse a size that is declared and not stored.

    Args:
        nbytes: bytes declared.
        stored: bytes that the file holds for it.
        limit: declared sizes up to this are let through.
        where: file and array, for the message.

    Raises:
        InputError: with both numbers.

    """
    if nbytes > limit and nbytes > RATIO_LIMIT * stored:
        raise InputError(
            f"{where} is larger than its file can hold",
            why=f"{nbytes} bytes are declared, {stored} are stored",
            fix="the file is damaged, or made to fill the memory: write it again",
        )


def is_numeric(dtype: np.dtype) -> bool:
    """Whether a type holds plain numbers: real, complex, or a (real, imaginary) pair of fields."""
    if dtype.fields:
        return len(dtype.fields) == 2 and all(f[0].kind in "iuf" and not f[0].shape for f in dtype.fields.values())
    return dtype.kind in "biufc" and dtype.itemsize > 0
