"""The stages that an address goes through: which roots, and how they were chosen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..errors import ConfigError
from .root import Root, of_stage


@dataclass(frozen=True, slots=True)
class Route:
    """The way of one kind of address.

    Args:
        first: stage 1: one root, or Arm's two halves, low addresses first; none for a GPA.
        second: stage 2; None where stage 1 leads to host physical memory.
    """

    first: tuple[Root, ...] = ()
    second: Root | None = None

    @property
    def kind(self) -> str:
        """What its addresses are: "gva" or "gpa"."""
        return "gva" if self.first else "gpa"

    @property
    def roots(self) -> tuple[Root, ...]:
        """All of them."""
        return (*self.first, *(() if self.second is None else (self.second,)))

    def first_for(self, address: int) -> Root | None:
        """The stage-1 root that an address goes through; None for a GPA.

        Arm's halves are told by bit 55 (Arm ARM DDI 0487, D8.2.3 "Selecting between TTBR0_ELx and TTBR1_ELx").
        """
        if not self.first:
            return None
        high = bool(address >> 55 & 1)
        return next((root for root in self.first if root.regime.format.high_half == high), self.first[0])

    def __str__(self) -> str:
        return " under ".join(str(root) for root in self.roots)


def route_of(roots: Sequence[Root], kind: str) -> Route:
    """The way of a kind of address through some roots, those that come first preferred.

    Args:
        roots: in order of preference, as registers or `--root` give them.
        kind: "gva" or "gpa".

    Raises:
        ConfigError: no root serves such addresses.
    """
    if kind == "gpa":
        second = _chosen(of_stage(roots, 2))
        if second is None:
            raise ConfigError(
                f"no root of a stage 2 is known, which a GPA goes through: name one with --root{_known(roots)}"
            )
        return Route((), second)
    first = _chosen(of_stage(roots, 1))
    if first is None:
        raise ConfigError(
            f"no root of a stage 1 is known, which a GVA goes through: name one with --root{_known(roots)}"
        )
    halves = [first]
    if first.regime.format.family == "arm":
        other = [
            root
            for root in of_stage(roots, 1)
            if root.under == first.under
            and root.regime.format.high_half != first.regime.format.high_half
            and root.where.rpartition(" of ")[2] == first.where.rpartition(" of ")[2]
            and root.role.rpartition("(")[2] == first.role.rpartition("(")[2]
        ]
        halves += other[:1]
    halves.sort(key=lambda root: root.regime.format.high_half)
    return Route(tuple(halves), first.under)


def _chosen(roots: Iterable[Root]) -> Root | None:
    return next(iter(roots), None)


def _known(roots: Sequence[Root]) -> str:
    if not roots:
        return "; `stage2 find` looks for roots in the memory"
    return f"; known are {', '.join(str(root) for root in roots)}"
