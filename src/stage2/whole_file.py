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
        with made.open("w+b") as file:
            yield file
        if target.exists():
            shutil.copymode(target, made)
        made.replace(target)
    except OSError as error:
        made.unlink(missing_ok=True)
        raise ConfigError(f"cannot be written: {error.strerror}", file=os.fspath(path)) from None
    except BaseException:
        made.unlink(missing_ok=True)
        raise
