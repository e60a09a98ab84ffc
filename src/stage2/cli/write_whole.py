"""Writing a file whole or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ..errors import ConfigError


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file, text as UTF-8 with its line ends as they are; what was there stays if it cannot be done.

    A file that is replaced keeps its mode; a symbolic link stays one.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        target = path.resolve()
        made = target.with_name(f".{target.name[:200]}.{os.getpid()}")
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"cannot be written: {error}", file=os.fspath(path)) from None
    try:
        made.write_bytes(content if isinstance(content, bytes) else content.encode())
        if target.exists():
            shutil.copymode(target, made)
        made.replace(target)
    except OSError as error:
        made.unlink(missing_ok=True)
        raise ConfigError(f"cannot be written: {error.strerror}", file=os.fspath(path)) from None
