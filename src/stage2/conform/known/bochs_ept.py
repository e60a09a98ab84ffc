"""What Bochs's VMX does otherwise than the manual."""

from __future__ import annotations

from ..deviation import Deviation

DEVIATIONS: tuple[Deviation, ...] = ()
