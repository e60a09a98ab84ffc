"""Writing a file whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .errors import ConfigError


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file, text as UTF-8 with its line ends as they are; what was there stays if it cannot be done.

    A file that is replaced keeps its mode; a symbolic link stays one.

    Raises:
        ConfigError: it cannot be written.
    """
    with written_whole(path) as file:
        file.write(content if isinstance(content, bytes) else content.encode())


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to be written (and read back) piece by piece; it takes its name when the block ends without an error.

    Raises:
        ConfigError: it cannot be written; what was there stays.
    """
    try:
        target = path.resolve()
        made = target.with_name(f".{target.name[:200]}.{os.getpid()}")
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"cannot be written: {error}", file=os.fspath(path)) from None
    try:
        with _nameless(target.parent) or made.open("w+b") as file:
            yield file
            file.flush()
            if not made.exists():
                # Python follows a symbolic link only where it is told of a directory, which an absolute path ignores.
                os.link(f"/proc/self/fd/{file.fileno()}", made, src_dir_fd=file.fileno())
        if target.exists():
            shutil.copymode(target, made)
        made.replace(target)
    except OSError as error:
        made.unlink(missing_ok=True)
        raise ConfigError(f"cannot be written: {error.strerror}", file=os.fspath(path)) from None
    except BaseException:
        made.unlink(missing_ok=True)
        raise


def _nameless(folder: Path) -> BinaryIO | None:
    """A file without a name, of which nothing is left when we are killed; None where the host has no such thing."""
    try:
        return os.fdopen(os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o666), "w+b")
    except (OSError, AttributeError):
        return None
