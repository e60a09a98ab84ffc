"""Reading a file that has an end: no pipe is waited for, no device read forever."""

from __future__ import annotations

import os
import stat

from ..errors import ConfigError


def read_regular(file: str, limit: int, what: str) -> bytes:
    """All of a regular file.

    Args:
        file: its path, as the user named it.
        limit: bytes that it may have, whole MiB.
        what: what it is to be, for the error.

    Raises:
        ConfigError: it is missing, unreadable, no regular file or too big.
    """
    try:
        with open(file, "rb", opener=_open_without_waiting) as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise ConfigError("is no regular file", file=file)
            data = stream.read(limit + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(f"cannot be read: {reason}", file=file) from None
    if len(data) > limit:
        raise ConfigError(f"is larger than {limit >> 20} MiB, which no {what} is", file=file)
    return data


def _open_without_waiting(path: str, flags: int) -> int:
    """Open a file; a pipe that nobody writes to must not hang us."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
