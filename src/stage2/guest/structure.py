"""Structures in guest memory: what may describe one, and turning bytes into it and back.

A layout is a `struct` format or `struct.Struct`, a ctypes structure or union, or a NumPy dtype.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from ..errors import EncodingError

CType: TypeAlias = type[ctypes.Structure] | type[ctypes.Union]
Layout: TypeAlias = "str | struct.Struct | CType | np.dtype[Any] | type[np.generic]"
"""A `struct` format without a byte order is little-endian without padding."""


def size_of(layout: Layout) -> int:
    """Bytes of a structure.

    Raises:
        EncodingError: it is no layout, or not one of plain bytes.
    """
    known = _understood(layout)
    if isinstance(known, struct.Struct):
        return known.size
    return known.itemsize if isinstance(known, np.dtype) else ctypes.sizeof(known)


def unpack(layout: Layout, data: bytes) -> Any:
    """The value in `data`: a tuple for a `struct` format, an instance for ctypes, a scalar or array for a dtype."""
    known = _understood(layout)
    if isinstance(known, struct.Struct):
        return known.unpack(data)
    if isinstance(known, np.dtype):
        return np.frombuffer(data, known)[0]
    return known.from_buffer_copy(data)


def pack(value: Any, layout: Layout | None = None) -> bytes:
    """The bytes of a value.

    Args:
        value: a ctypes instance, a NumPy scalar or array, or for a given layout what fits it: a sequence for a
            `struct` format, anything NumPy converts for a dtype.
        layout: may be left out where the value knows its own.

    Raises:
        EncodingError: the value does not fit the layout, or has none of its own.
    """
    if layout is None:
        if isinstance(value, ctypes.Structure | ctypes.Union):
            return bytes(value)
        if not isinstance(value, np.generic | np.ndarray):
            raise EncodingError(f"{value!r} does not say how it is laid out: give a layout")
        _plain(value.dtype)
        return value.tobytes()
    known = _understood(layout)
    try:
        if isinstance(known, struct.Struct):
            return known.pack(*(value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)))
        if isinstance(known, np.dtype):
            # Assigning to one element keeps the shape of a dtype that is an array itself.
            made = np.zeros(1, known)
            made[0] = value
            return made.tobytes()
    except (struct.error, ValueError, TypeError, OverflowError) as error:
        raise EncodingError(f"{value!r} does not fit its layout: {error}") from None
    if not isinstance(value, known):
        raise EncodingError(f"{value!r} is no {known.__name__}")
    return bytes(value)


def _understood(layout: Layout) -> struct.Struct | CType | np.dtype[Any]:
    if isinstance(layout, struct.Struct):
        return layout
    if isinstance(layout, str):
        try:
            return struct.Struct(layout if layout[:1] in "@=<>!" and layout else "<" + layout)
        except (struct.error, UnicodeError) as error:
            raise EncodingError(f"struct format {layout!r}: {error}") from None
    if isinstance(layout, np.dtype):
        return _plain(layout)
    if isinstance(layout, type) and issubclass(layout, ctypes.Structure | ctypes.Union):
        return layout
    if isinstance(layout, type) and issubclass(layout, np.generic):
        return _plain(np.dtype(layout))
    raise EncodingError(f"{layout!r} is no layout: a struct format, a ctypes structure or a NumPy dtype is")


def _plain(dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.hasobject or not dtype.itemsize:
        raise EncodingError(f"{dtype} is no layout of plain bytes")
    return dtype
