"""Memory in blocks that are unpacked when they are asked for: Snappy's framing format, as AVML writes it.

A stream is chunks: a byte that says what it is, its length in three, and of data the masked CRC-32C of what comes out,
at most 64 KiB of it. So every chunk is unpacked alone, and nothing grows beyond what a chunk may hold. cramjam unpacks
them and checks the sums.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

from ..errors import SourceError
from ..prove.packing import U64Array
from ..requirement import pip_install
from .file_bytes import FileBytes, Octets
from .pieces import PiecedSource, Pieces, rows_of

_STREAM = b"\xff\x06\x00\x00sNaPpY"
_COMPRESSED, _PLAIN, _FIRST_SKIPPABLE, _IDENTIFIER = 0x00, 0x01, 0x80, 0xFF
_MOST_OF_CHUNK = 1 << 16
_MOST_COMPRESSED = _MOST_OF_CHUNK + _MOST_OF_CHUNK // 6 + 32
"""Snappy's largest output for so much (`MaxCompressedLength` of its sources)."""
_SUM = 4
_MOST_CHUNKS = 1 << 22
_KEPT = 64 << 20
"""Limit: unpacked bytes that are kept at hand."""


class Blocks:
    """Stretches of bytes that are unpacked one by one, in columns: there may be millions.

    Attributes:
        sizes: of each, unpacked.
        offsets: of each in the file; of a chunk that is its header.
        stored: bytes of each there; 0 for one that is stored as it is, without anything around it.
        chunks: how many chunks of the file were looked at: there is a limit, since one may say nothing.
    """

    def __init__(self) -> None:
        self.sizes, self.offsets, self.stored = array("Q"), array("Q"), array("Q")
        self.chunks = 0

    def __len__(self) -> int:
        return len(self.sizes)

    def add(self, size: int, offset: int, stored: int = 0) -> None:
        """One more."""
        self.sizes.append(size)
        self.offsets.append(offset)
        self.stored.append(stored)


@dataclass(frozen=True, slots=True)
class Stream:
    """The chunks of a stream.

    Args:
        size: bytes that come out of them.
        end: offset behind the last.
        problem: why there are not as many as there should be; empty where there are.
    """

    size: int
    end: int
    problem: str = ""


def scan_frames(file: FileBytes, at: int, wanted: int, blocks: Blocks) -> Stream:
    """Find the chunks of a stream without unpacking any.

    Args:
        file: where.
        at: the stream's offset.
        wanted: bytes that come out of it.
        blocks: of the file; gets the chunks with data.

    Raises:
        SourceError: the file has more chunks than are looked at.
    """
    size = 0
    while size < wanted:
        blocks.chunks += 1
        if blocks.chunks > _MOST_CHUNKS:
            raise SourceError(f"{file.name} has more than {_MOST_CHUNKS} chunks: it is not read")
        head = file.part(at, 4 + _SUM + 3)
        kind, length = head[0] if head else 0, int.from_bytes(head[1:4], "little")
        if len(head) < 4 or at + 4 + length > file.size:
            return Stream(size, at, f"{file.name} was cut off in the chunk at offset {at:#x}")
        if kind in (_COMPRESSED, _PLAIN):
            came = length - _SUM if kind == _PLAIN else _declared(head[4 + _SUM :])
            if length <= _SUM or length - _SUM > _MOST_COMPRESSED or not 0 < came <= min(wanted - size, _MOST_OF_CHUNK):
                return Stream(size, at, f"{file.name} is damaged in the chunk at offset {at:#x}")
            blocks.add(came, at, 4 + length)
            size += came
        elif kind < _FIRST_SKIPPABLE or (kind == _IDENTIFIER and file.part(at, len(_STREAM)) != _STREAM):
            return Stream(size, at, f"{file.name} has an unknown chunk at offset {at:#x}")
        at += 4 + length
    return Stream(size, at)


def _declared(head: bytes) -> int:
    """The size that a compressed chunk declares in its first bytes: seven bits each, at most three of them here."""
    size = 0
    for place, byte in enumerate(head):
        size |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return size
    return 0


@cache
def _cramjam() -> Any:
    return import_module("cramjam")


class BlockSource(PiecedSource):
    """Memory in blocks of a file; the last that were unpacked are kept.

    Args:
        file: the file.
        pieces: where memory lies among the unpacked bytes of all blocks.
        blocks: in the order of those.
        notices: what is missing.

    Raises:
        SourceError: cramjam is missing.
    """

    def __init__(self, file: FileBytes, pieces: Pieces, blocks: Blocks, *, notices: Sequence[str]) -> None:
        super().__init__(file.name, pieces, notices=notices)
        try:
            self._cramjam = _cramjam()
        except ImportError:
            raise SourceError(
                f"{file.name} has blocks packed with Snappy, which needs the package cramjam: {pip_install('cramjam')}"
            ) from None
        self._file = file
        self._columns = blocks.sizes, blocks.offsets, blocks.stored
        ends = np.cumsum(np.frombuffer(blocks.sizes, np.uint64), dtype=np.uint64)
        self._block_begins: U64Array = np.concatenate((np.zeros(1, np.uint64), ends[:-1]))
        self._block_ends: U64Array = ends
        self._unpacked: OrderedDict[int, Octets] = OrderedDict()
        self._kept = 0

    def close(self) -> None:
        self._file = FileBytes(self.name, np.zeros(0, np.uint8))
        self._unpacked.clear()

    def _block(self, number: int) -> Octets:
        """The bytes of a block.

        Raises:
            SourceError: it is damaged.
        """
        size, offset, stored = (column[number] for column in self._columns)
        if not stored:
            return self._file.octets[offset : offset + size]
        found = self._unpacked.get(number)
        if found is not None:
            self._unpacked.move_to_end(number)
            return found
        found = self._unpack(size, offset, stored)
        self._unpacked[number] = found
        self._kept += size
        while self._kept > _KEPT:
            self._kept -= len(self._unpacked.popitem(last=False)[1])
        return found

    def _unpack(self, size: int, offset: int, stored: int) -> Octets:
        packed = _STREAM + self._file.part(offset, stored)
        try:
            data = bytes(self._cramjam.snappy.decompress(packed, output_len=size))
        except self._cramjam.DecompressionError as error:
            raise SourceError(f"{self.name} is damaged in the chunk at offset {offset:#x}: {error}") from None
        if len(data) != size:
            raise SourceError(f"{self.name} is damaged in the chunk at offset {offset:#x}: its size is wrong")
        return np.frombuffer(data, np.uint8)

    def stored(self, offset: int, size: int) -> bytes:
        number = int(np.searchsorted(self._block_ends, np.uint64(offset), "right"))
        found = []
        inside = offset - int(self._block_begins[number])
        while size > 0:
            part = self._block(number)[inside : inside + size].tobytes()
            found.append(part)
            size, number, inside = size - len(part), number + 1, 0
        return b"".join(found)

    def stored_rows(self, offsets: U64Array, size: int) -> U64Array:
        found = np.empty((len(offsets), size // 8), "<u8")
        numbers = np.searchsorted(self._block_ends, offsets, "right")
        whole = offsets + np.uint64(size) <= self._block_ends[numbers]
        order = np.argsort(numbers, kind="stable")
        cuts = np.flatnonzero(np.diff(numbers[order])) + 1
        for mine in np.split(order, cuts):
            inside = mine[whole[mine]]
            if len(inside):
                number = int(numbers[inside[0]])
                found[inside] = rows_of(self._block(number), offsets[inside] - self._block_begins[number], size)
        for row in np.flatnonzero(~whole).tolist():
            found[row] = np.frombuffer(self.stored(int(offsets[row]), size), "<u8")
        return found
