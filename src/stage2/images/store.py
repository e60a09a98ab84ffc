"""The cache of what was fetched: a folder for each thing, which is there whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import HostToolError

Progress = Callable[[str, int, int], None]
"""Called with (what is being fetched, bytes so far, bytes in all)."""
MANIFEST = "manifest.json"
"""What a thing was made of, beside it."""


def keep(name: str, cache: Path, make: Callable[[Path], Path | None]) -> None:
    """Let a thing appear in the cache under its name when it is complete, in the place of an older one.

    Only one process at a time makes it.

    Args:
        name: of the thing.
        cache: the folder of its kind; it is made.
        make: called with a work folder of its own; answers the finished folder inside it, or None when what is in the
            cache already is as it ought to be.

    Raises:
        HostToolError: the cache cannot be written.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache / f"{name}.lock"):
            # We hold the lock, so whatever work folder is there belongs to a fetch that was killed.
            for left in cache.glob(f".{name}-*"):
                shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=cache) as work:
                made = make(Path(work))
                if made is not None:
                    _put_in_place(made, cache / name)
    except OSError as error:
        raise HostToolError(f"{name} cannot be kept: {error.filename or cache}: {error.strerror or error}") from None


def sha256(path: Path) -> str:
    """A file's hash, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _put_in_place(made: Path, target: Path) -> None:
    """Let the finished folder appear under its name; an older one disappears."""
    if target.exists():
        target.rename(made.parent / "old")
    made.rename(target)
