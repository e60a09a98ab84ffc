"""A guest's console: everything it printed, and lines handed on as they complete."""

from __future__ import annotations

from collections.abc import Callable

LIMIT = 8 << 20
"""Limit: bytes of output that are kept; a guest that prints more loses the oldest half."""


class Console:
    """Collects a guest's output.

    Args:
        sink: called with each piece of text as it comes; None to only collect.
    """

    def __init__(self, sink: Callable[[str], None] | None = None) -> None:
        self._sink = sink
        self._data = bytearray()
        self.dropped = 0

    def write(self, data: bytes) -> None:
        """Take bytes the guest printed."""
        self._data += data
        if len(self._data) > LIMIT:
            self.dropped += LIMIT // 2
            del self._data[: LIMIT // 2]
        if self._sink is not None:
            self._sink(data.decode("utf-8", "replace"))

    @property
    def position(self) -> int:
        """Bytes that the guest has printed so far."""
        return self.dropped + len(self._data)

    @property
    def data(self) -> bytes:
        """What is kept of them."""
        return bytes(self._data)

    def rewind(self, position: int, data: bytes) -> None:
        """Let it be as it was when the guest had printed `position` bytes, of which `data` were kept.

        What was handed on stays handed on.
        """
        self.dropped, self._data = position - len(data), bytearray(data)

    @property
    def text(self) -> str:
        """All of it, line ends as \\n."""
        return self._data.decode("utf-8", "replace").replace("\r\n", "\n")
