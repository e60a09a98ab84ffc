"""LiME and AVML dumps: ranges of memory one after the other, each behind a header of its own.

A header of 32 bytes has a magic number, a version, the first and the last HPA, and 8 bytes that are 0. After LiME's,
version 1, stand the bytes of the range. AVML writes the same, or its own magic and version 2: after that stands the
range as a stream of Snappy's framing format and its length in 8 bytes. AVML leaves out whole blocks, up to 16 MiB, that
are zeros: such a hole may be zeros, and nothing in the file says so.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from ..errors import SourceError
from .file_bytes import FileBytes
from .pieces import MOST_PIECES, FileSource, PiecedSource, laid_out
from .snappy_blocks import Blocks, BlockSource, scan_frames

LIME, AVML = b"EMiL", b"AVML"
_HEADER = struct.Struct("<4sIQQQ")
_VERSIONS = {LIME: 1, AVML: 2}
_MOST_OF_RANGE = 1 << 63
_LENGTH = 8
"""Bytes after a stream, which tell how long it is."""


@dataclass(slots=True)
class _Listed:
    """What the headers list.

    Args:
        plain: (HPA, size, offset in the file) of ranges that are stored as they are.
        packed: (HPA, size, offset among the unpacked bytes) of ranges that are not.
        blocks: of those.
        problem: why reading ended before the file did; empty where it did not.
    """

    plain: list[tuple[int, int, int]]
    packed: list[tuple[int, int, int]]
    blocks: Blocks
    problem: str = ""


def read_lime(file: FileBytes) -> PiecedSource:
    """A LiME or AVML dump.

    Raises:
        SourceError: it is none, nothing of it is there, or cramjam is needed for its blocks and missing.
    """
    listed = _listed(file)
    notices = [*file.notices, listed.problem] if listed.problem else [*file.notices]
    if not (listed.plain or listed.packed):
        raise SourceError(listed.problem or f"{file.name} lists no memory")
    if not listed.packed:
        pieces = laid_out(np.array(listed.plain, np.uint64), file.size, file.name, notices)
        return FileSource(file, pieces, notices=notices)
    notices.append(f"{file.name} is AVML's, which leaves out blocks of zeros: a hole in it may have been zeros")
    # A range that is stored as it is becomes a block that needs no unpacking.
    size = sum(listed.blocks.sizes)
    for hpa, length, offset in listed.plain:
        there = min(length, file.size - offset)
        if there < length:
            notices.append(f"{file.name} was cut off: {length - there:#x} bytes of memory that it lists are missing")
        if there <= 0:
            continue
        listed.blocks.add(there, offset)
        listed.packed.append((hpa, there, size))
        size += there
    pieces = laid_out(np.array(listed.packed, np.uint64), size, file.name, notices)
    return BlockSource(file, pieces, listed.blocks, notices=notices)


def _listed(file: FileBytes) -> _Listed:
    found = _Listed([], [], Blocks())
    at = unpacked = 0
    while at < file.size:
        header = file.part(at, _HEADER.size)
        if len(header) < _HEADER.size:
            found.problem = f"{file.name} was cut off in the header at offset {at:#x}"
            return found
        magic, version, first, last, _ = _HEADER.unpack(header)
        if _VERSIONS.get(magic) != version or last < first:
            found.problem = f"{file.name} has no header of LiME or AVML at offset {at:#x}" + _what(magic, version, at)
            return found
        if len(found.plain) + len(found.packed) >= MOST_PIECES:
            raise SourceError(f"{file.name} lists more than {MOST_PIECES} pieces of memory: they are not read")
        size, at = min(last - first + 1, _MOST_OF_RANGE), at + _HEADER.size
        if magic == LIME:
            found.plain.append((first, size, at))
            at += size
            continue
        stream = scan_frames(file, at, size, found.blocks)
        if stream.size:
            found.packed.append((first, stream.size, unpacked))
            unpacked += stream.size
        if stream.problem:
            found.problem = f"{stream.problem}: of [{first:#x}, {first + size:#x}) {stream.size:#x} bytes are there"
            return found
        at = stream.end + _LENGTH
    return found


def _what(magic: bytes, version: int, at: int) -> str:
    if magic in _VERSIONS and version != _VERSIONS[magic]:
        return f": version {version} of {magic.decode()} is not known"
    return ": what follows is not read" if at else ""
