"""Dumps that all tests of a run share, whichever process runs them; the last to let go of one removes it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pickle
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

import pytest

Made = TypeVar("Made")
_AGAIN_S = 0.05


@contextlib.contextmanager
def shared(name: str, factory: pytest.TempPathFactory, make: Callable[[Path], Made]) -> Iterator[Made]:
    """What `make` makes in a folder of its own; made by whoever needs it first.

    Args:
        name: of it.
        factory: pytest's.
        make: called with the folder. What it answers is kept there too, pickled.
    """
    base = factory.getbasetemp()
    # With several processes each has a folder in that of the run.
    run = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    folder = run / "dumps" / name
    folder.parent.mkdir(exist_ok=True)
    with (run / "dumps" / f"{name}.lock").open("wb") as lock:
        yield _held(folder, lock, make)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)


def _held(folder: Path, lock: BinaryIO, make: Callable[[Path], Made]) -> Made:
    """What is in the folder, with the lock shared among all who use it.

    Whoever has the lock for itself makes it. Nobody waits for that while others share the lock: they may hold it to
    the end of the run, in this process too.
    """
    answer = folder / "made.pickle"
    while True:
        fcntl.flock(lock, fcntl.LOCK_SH)
        if answer.exists():
            found: Made = pickle.loads(answer.read_bytes())
            return found
        fcntl.flock(lock, fcntl.LOCK_UN)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_AGAIN_S)  # another makes it, or looks whether it is there
            continue
        if not answer.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            answer.write_bytes(pickle.dumps(make(folder)))
