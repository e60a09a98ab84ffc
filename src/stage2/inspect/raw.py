"""Raw images: the bytes of memory and nothing else. Where they lie is for the user to say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..address import ADDRESS_LIMIT
from ..errors import SourceError
from .file_bytes import FileBytes
from .joined import joined
from .pieces import FileSource, laid_out
from .source import MemorySource


def read_raw(file: FileBytes, base: int) -> FileSource:
    """A file as the memory from an HPA on.

    Raises:
        SourceError: the HPA is none of 64 bits.
    """
    if not 0 <= base < ADDRESS_LIMIT:
        raise SourceError(f"{file.name} cannot begin at {base:#x}, which is no address of 64 bits")
    notices = list(file.notices)
    return FileSource(
        file, laid_out(np.array([(base, file.size, 0)], np.uint64), file.size, file.name, notices), notices=notices
    )


def open_raw(files: Sequence[tuple[str | Path, int]]) -> MemorySource:
    """Several raw images as one memory.

    Args:
        files: each with the HPA of its first byte.

    Raises:
        SourceError: one cannot be read, or two lie over each other.
    """
    return joined([read_raw(FileBytes.open(path), base) for path, base in files])
