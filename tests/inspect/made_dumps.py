"""Dumps made byte by byte, so that every field of their headers can be what a test wants."""

from __future__ import annotations

import struct
from collections.abc import Sequence

CORE, LOAD, NOTE = 4, 1, 4
PAGE = 4096


def segment(
    hpa: int, size: int, offset: int, *, memory: int | None = None, virtual: int = 0, kind: int = LOAD
) -> bytes:
    """A program header of an ELF64 file."""
    return struct.pack("<IIQQQQQQ", kind, 0, offset, virtual, hpa, size, size if memory is None else memory, 0)


def core(
    headers: Sequence[bytes],
    body: bytes = b"",
    *,
    kind: int = CORE,
    machine: int = 243,
    count: int | None = None,
    entry: int = 56,
    table: int = 64,
    sections: int = 0,
    identity: bytes = b"\2\1\1",
) -> bytes:
    """An ELF core: its header, program headers, and what follows them."""
    number = len(headers) if count is None else count
    head = b"\x7fELF" + identity + bytes(9) + struct.pack(
        "<HHIQQQIHHHHHH", kind, machine, 1, 0, table, sections, 0, 64, entry, number, 64, 0, 0
    )  # fmt: skip
    return head + b"".join(headers) + body


def note(name: str, kind: int, text: bytes) -> bytes:
    """An ELF note."""
    called = name.encode() + b"\0"
    padded = called + bytes(-len(called) % 4)
    return struct.pack("<III", len(called), len(text), kind) + padded + text + bytes(-len(text) % 4)


def lime(first: int, data: bytes, *, magic: bytes = b"EMiL", version: int = 1, last: int | None = None) -> bytes:
    """A range of a LiME dump."""
    end = first + len(data) - 1 if last is None else last
    return struct.pack("<4sIQQQ", magic, version, first, end, 0) + data


def avml(first: int, stream: bytes, size: int) -> bytes:
    """A range of an AVML dump: a stream of Snappy frames, of which `size` bytes come out."""
    head = lime(first, b"", magic=b"AVML", version=2, last=first + size - 1)
    return head + stream + struct.pack("<Q", len(stream))


def page(number: int) -> bytes:
    """A page in which every 64-bit word says which page and which word it is."""
    return struct.pack(f"<{PAGE // 8}Q", *(number << 32 | word for word in range(PAGE // 8)))
