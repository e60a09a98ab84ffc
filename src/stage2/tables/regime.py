"""A regime: a format, a root and the controls that the registers set; what one MMU stage is running with."""

from __future__ import annotations

from dataclasses import dataclass

from ..address import Hpa, require_aligned
from ..errors import OutOfRangeError
from ..formats.invalidation import Context
from ..formats.record import Format


@dataclass(frozen=True, slots=True)
class Regime:
    """One stage of translation as the hardware sees it.

    Args:
        format: how the bits are laid out.
        root: address of the root table: an HPA at stage 2, a GPA at stage 1 under stage 2.
        controls: the format's control bits; None takes its defaults.
        identifier: ASID, VMID or VPID that tags its TLB entries; what else speaks of it asks the regime.

    Raises:
        MisalignedError: the root is not aligned as the format demands.
        OutOfRangeError: the root or the controls have more than 64 bits.
    """

    format: Format
    root: int
    controls: int
    identifier: int = 0

    def __post_init__(self) -> None:
        require_aligned("root table", self.root, self.format.root_alignment)
        if self.root >> 64 or self.controls >> 64:
            raise OutOfRangeError(f"root table {self.root:#x} or controls {self.controls:#x} have more than 64 bits")

    @classmethod
    def of(cls, fmt: Format, root: Hpa | int = 0, *, controls: int | None = None, identifier: int = 0) -> Regime:
        """A regime with the format's default controls unless others are given."""
        return cls(fmt, root, fmt.default_controls if controls is None else controls, identifier)

    @property
    def context(self) -> Context:
        """Whose translations its tables make, as invalidations name them."""
        return Context(self.identifier, self.root)

    @property
    def numbers(self) -> tuple[int, int, int, int]:
        """(root, levels, root index bits, controls): the regime as a walk takes it."""
        return self.root, self.format.levels, self.format.root_bits, self.controls

    def __repr__(self) -> str:
        numbers = f"root {self.root:#x}, controls {self.controls:#x}, identifier {self.identifier}"
        return f"Regime({self.format.name}, {numbers})"
