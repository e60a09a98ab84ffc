"""Kernels in one form, whatever the work: compiled, or as the plain Python that they are written in.

Where a kernel has something simpler to run as plain Python, that is not what runs here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from effort import compiles
from stage2.formats.record import Format
from stage2.tables import uncompiled
from stage2.tables.compiled import Kernel


@contextmanager
def form(name: str) -> Iterator[None]:
    """All kernels "plain" or "compiled"."""
    before = Kernel.for_work

    def plain(self: Kernel, entries: Callable[[], int]) -> Callable[..., Any]:
        assert entries() >= 0
        return lambda *arguments: uncompiled.run(self.function, *arguments)

    def ready(self: Kernel, entries: Callable[[], int]) -> Callable[..., Any]:
        return self

    Kernel.for_work = plain if name == "plain" else ready  # type: ignore[method-assign]
    try:
        yield
    finally:
        Kernel.for_work = before  # type: ignore[method-assign]


def looking_ahead(*formats: Format) -> AbstractContextManager[None]:
    """Batches of these formats look ahead in either form, which plain ones do not by themselves."""
    return nullcontext() if all(compiles(fmt) for fmt in formats) else form("plain")
