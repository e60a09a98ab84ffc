"""Packed files, unpacked into a file without a name, with a bound on what comes out."""

from __future__ import annotations

import gzip
import io
import tempfile
import zlib
from typing import TYPE_CHECKING, BinaryIO

from ..errors import SourceError
from .file_bytes import FileBytes

if TYPE_CHECKING:
    from typing_extensions import Buffer

GZIP = b"\x1f\x8b"
MOST_UNPACKED = 8 << 30
"""Limit: bytes that come out of one file."""
_AT_ONCE = 1 << 20


class _Stream(io.RawIOBase):
    """The bytes of a file as a stream."""

    def __init__(self, file: FileBytes) -> None:
        self._file, self._at = file, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer, /) -> int:
        into = memoryview(buffer).cast("B")
        found = self._file.part(self._at, len(into))
        into[: len(found)] = found
        self._at += len(found)
        return len(found)


def unpacked(file: FileBytes, limit: int = MOST_UNPACKED) -> FileBytes:
    """What a file that gzip packed holds. Stretches of zeros take no room.

    Args:
        file: packed.
        limit: bytes that may come out.

    Raises:
        SourceError: more comes out, it is damaged before anything does, or there is no room for it.
    """
    try:
        with tempfile.TemporaryFile() as out:
            size, notice = _unpack(file, out, limit)
            if not size:
                raise SourceError(notice or f"{file.name} is empty where it is packed")
            return FileBytes.mapped(file.name, out.fileno(), (notice,) if notice else ())
    except OSError as error:
        raise SourceError(
            f"{file.name} cannot be unpacked into {_folder()}: {error.strerror}; TMPDIR names another folder"
        ) from None


def _folder() -> str:
    try:
        return tempfile.gettempdir()
    except OSError:
        return "a temporary folder"


def _unpack(file: FileBytes, out: BinaryIO, limit: int) -> tuple[int, str]:
    """Unpack into a file: how many bytes came out, and why no more, if it was damaged."""
    size, notice = 0, ""
    try:
        with gzip.GzipFile(fileobj=io.BufferedReader(_Stream(file), _AT_ONCE), mode="rb") as stream:
            while piece := stream.read(_AT_ONCE):
                size += len(piece)
                if size > limit:
                    raise SourceError(
                        f"{file.name} holds more than {limit >> 20} MiB: unpack it yourself (gzip -dk), if it is to be "
                        "read"
                    )
                if piece.count(0) == len(piece):
                    out.seek(size)
                else:
                    out.write(piece)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        notice = f"{file.name} was cut off or damaged where it is packed ({error}): {size:#x} bytes came out"
    out.truncate(size)
    out.flush()
    return size, notice
