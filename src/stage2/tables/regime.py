"""A regime: a format, a root and the controls that the registers set; what one MMU stage is running with."""

from __future__ import annotations

from dataclasses import dataclass

from ..address import Hpa
from ..formats.record import Format


@dataclass(frozen=True, slots=True)
class Regime:
    """One stage of translation as the hardware sees it.

    Args:
        format: how the bits are laid out.
        root: address of the root table: an HPA at stage 2, a GPA at stage 1 under stage 2.
        controls: the format's control bits; None takes its defaults.
        identifier: ASID, VMID or VPID that tags its TLB entries.
    """

    format: Format
    root: int
    controls: int
    identifier: int = 0

    @classmethod
    def of(cls, fmt: Format, root: Hpa | int = 0, *, controls: int | None = None, identifier: int = 0) -> Regime:
        """A regime with the format's default controls unless others are given."""
        return cls(fmt, root, fmt.default_controls if controls is None else controls, identifier)

    @property
    def numbers(self) -> tuple[int, int, int, int]:
        """(root, levels, root index bits, controls): the regime as a walk takes it."""
        return self.root, self.format.levels, self.format.root_bits, self.controls
