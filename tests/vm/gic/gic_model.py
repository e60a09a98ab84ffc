"""An interrupt controller written down a second time: an object for each interrupt, and no bits."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Interrupt:
    """One interrupt, in the words of Arm IHI 0069, 4.1: inactive, pending, active, or active and pending."""

    intid: int
    edge: bool
    enabled: bool = False
    group: int = 0
    priority: int = 0
    raised: bool = False
    noted: bool = False
    active: bool = False

    @property
    def pending(self) -> bool:
        return self.noted or (self.raised and not self.edge)


@dataclass
class Model:
    """The private interrupts of some CPUs, and SPIs with one target each."""

    cpus: int
    spis: int
    groups: int = 0
    own: list[dict[int, Interrupt]] = field(init=False)
    shared: dict[int, Interrupt] = field(init=False)
    target: dict[int, int] = field(init=False)

    def __post_init__(self) -> None:
        self.own = [{n: Interrupt(n, n < 16) for n in range(32)} for _ in range(self.cpus)]
        self.shared = {n: Interrupt(n, edge=False) for n in range(32, 32 + self.spis)}
        self.target = dict.fromkeys(self.shared, 0)

    def of(self, cpu: int, intid: int) -> Interrupt:
        return self.own[cpu][intid] if intid < 32 else self.shared[intid]

    def level(self, cpu: int, intid: int, raised: bool) -> None:
        one = self.of(cpu, intid)
        if raised and not one.raised and one.edge:
            one.noted = True
        one.raised = raised

    def best(self, cpu: int, mask: int) -> tuple[int, int] | None:
        """(priority, INTID)."""
        reaching = [*self.own[cpu].values(), *(one for n, one in self.shared.items() if self.target[n] == cpu)]
        able = [
            (one.priority, one.intid)
            for one in reaching
            if one.pending and one.enabled and not one.active and self.groups >> one.group & 1 and one.priority < mask
        ]
        return min(able, default=None)

    def acknowledge(self, cpu: int, intid: int) -> None:
        one = self.of(cpu, intid)
        one.noted, one.active = False, True
