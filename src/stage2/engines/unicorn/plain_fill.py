"""A vCPU's fill as the plain Python that it is written in, for guests that are done before it would be compiled."""

from __future__ import annotations

from collections.abc import Callable

from ...tables import raw, uncompiled
from .state import State, Word

_RESULT_BYTES = 16
"""The library's answer to a fill: the physical address and the permissions."""
_HOST = (Word.HOST_DELTA, Word.HOST_START, Word.HOST_END, Word.HOST_FURTHER, Word.HOST_COUNT)


class PlainFill:
    """Calls a fill's function with what a fill is called with; see `callbacks.fill_signature`.

    Args:
        function: of the fill's callback.
        state: the vCPU's block.
        env_bytes: how much of the CPU's private state the function reads.
        pages: page-state bytes of the VM.
    """

    def __init__(self, function: Callable[..., bool], state: State, env_bytes: int, pages: int) -> None:
        self._function, self._state = function, state
        self._env_bytes, self._pages = env_bytes, pages

    def __call__(self, uc: int, page: int, access: int, result: int, state: int) -> bool:
        block = self._state
        stretches = [
            raw.stretch(state, 8 * len(Word)),
            raw.stretch(block[Word.ENV], self._env_bytes),
            *uncompiled.host_stretches(tuple(block[word] for word in _HOST)),
            raw.stretch(result, _RESULT_BYTES),
            raw.stretch(block[Word.PAGE_STATE], self._pages),
            raw.stretch(block[Word.PEERS], 16 * block[Word.PEER_COUNT]),
            raw.stretch(block[Word.CLOCK_AT], 8),
        ]
        with raw.reaching(stretches):
            return self._function(uc, page, access, result, state)
