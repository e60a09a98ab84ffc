"""Ctrl-C that is never lost: an interrupt that a library's callback swallowed comes again."""

from __future__ import annotations

import _thread
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

_AGAIN_S = 0.05
"""Later, when the callback has returned: raised within it, the interrupt would be swallowed once more."""


@contextmanager
def kept_interrupts() -> Iterator[None]:
    """While this holds, a KeyboardInterrupt that nobody could catch is raised again in the main thread.

    Python raises it wherever the main thread is. That may be a callback from C (the compiler of our kernels calls
    some) or a finalizer: Python prints it and goes on, and the user's Ctrl-C did nothing.
    """
    before = sys.unraisablehook

    def hook(found: UnraisableHookArgs, /) -> None:
        if not issubclass(found.exc_type, KeyboardInterrupt):
            before(found)
            return
        again = threading.Timer(_AGAIN_S, _thread.interrupt_main)
        again.daemon = True
        again.start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before
