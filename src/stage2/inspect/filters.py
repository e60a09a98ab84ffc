"""What of a map somebody wants to see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..formats.outcome import EXECUTE, USER_SHIFT, WRITE
from .kinds import Kind
from .mapping import MapPart
from .source import MemorySource
from .through import NOWHERE

_WX = WRITE | EXECUTE
_DEVICE_WORDS = ("device", "uncached", "uc", "uc-", "uncached-minus", "io", "strong-uncacheable")


def is_device(memory_type: str | None) -> bool:
    """Whether a memory type is one for devices: `Device-nGnRE`, `uncached`, `UC`, `io`."""
    word = (memory_type or "").lower()
    return word.startswith("device") or word in _DEVICE_WORDS


def devices_in(part: MapPart, source: MemorySource) -> npt.NDArray[np.bool_]:
    """Which ranges are memory of devices, by their type or because the source has no memory there.

    Args:
        part: of a map.
        source: what it is a map of.
    """
    kinds, which = part.kinds()
    typed = np.array([is_device(kind.memory_type) for kind in kinds], bool)[which]
    there = part.output != np.uint64(NOWHERE)
    inside = np.zeros(len(part), bool)
    inside[there] = source.holds(part.output[there], 1)
    return typed | ~inside


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which ranges are wanted; all, if nothing is set. What is set must all hold.

    Args:
        wx: writable and executable, for privileged code or for user mode.
        user: user mode may access it.
        device: memory of a device, by its type or because the source has no memory there.
    """

    wx: bool = False
    user: bool = False
    device: bool = False

    def of(self, part: MapPart, source: MemorySource) -> MapPart:
        """The wanted ranges of a part.

        Args:
            part: of a map.
            source: what it is a map of: it says where there is memory.
        """
        if not (self.wx or self.user or self.device):
            return part
        kinds, which = part.kinds()
        keep = np.array([self._wants(kind) for kind in kinds], bool)[which]
        if self.device:
            keep &= devices_in(part, source)
        return part.only(keep)

    def _wants(self, kind: Kind) -> bool:
        allowed = kind.permissions
        sides = (allowed & 7, allowed >> USER_SHIFT & 7)
        if self.wx and not any(side & _WX == _WX for side in sides):
            return False
        return not self.user or bool(sides[1])
