"""Processes that tests start and interrupt."""

from __future__ import annotations

import signal


def obey_interrupts() -> None:
    """For `preexec_fn`: whoever started the tests in the background may have let all that they start ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
