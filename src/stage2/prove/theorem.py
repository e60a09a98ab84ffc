"""The record of a theorem: what it says, whether it holds, what was covered, and the witness that refutes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from textwrap import shorten
from typing import TYPE_CHECKING

from ..address import Range
from ..self_drawn import SelfTold

if TYPE_CHECKING:
    from .world import World


_SHOWN = 120
"""Characters of a sentence that a prompt shows."""


@dataclass(frozen=True, slots=True)
class Seat:
    """An address of a party: who, and where.

    Args:
        who: `VM linux`, `the hypervisor`.
        address: GPA of a VM, HVA of the hypervisor.
    """

    who: str
    address: int

    def __repr__(self) -> str:
        return f"Seat({self.who!r}, {self.address:#x})"


@dataclass(frozen=True, slots=True)
class Witness:
    """Why a theorem does not hold: one address at which anybody can look.

    Args:
        problem: what is so, a sentence.
        seat: whose address; None where it is not about one.
        hpa: the host memory that it is about.
        other: the other party's address, where there is one.
        owner: who holds the host memory.
        slot: HPA of the entry that says so; None where the walk tells.
        remedy: what makes it true again.
        span: all host memory that it holds for around `hpa`, where that is known.
    """

    problem: str
    seat: Seat | None = None
    hpa: int | None = None
    other: Seat | None = None
    owner: str | None = None
    slot: int | None = None
    remedy: str = ""
    span: Range | None = None

    def __repr__(self) -> str:
        return f"Witness({shorten(self.problem, _SHOWN, placeholder='...')!r})"


@dataclass(frozen=True, slots=True)
class Reason:
    """What `check` says of the files whose tables refute a theorem.

    Args:
        code: of the rule.
        message: the finding's sentence.
    """

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Theorem:
    """One statement about all tables of a host.

    Args:
        name: `apart`, `owned`, `declared`, `wx`, `wellformed`, `tlb`, `dma`.
        statement: what it says, a sentence.
        holds: None where it does not apply.
        covered: what was looked at: words to numbers.
        assumed: what it takes for granted.
        witness: why it does not hold.
        why_not: why it does not apply.
        reasons: what `check` says of the same, where it does not hold and there are files.
    """

    name: str
    statement: str
    holds: bool | None
    covered: Mapping[str, int] = field(default_factory=dict)
    assumed: tuple[str, ...] = ()
    witness: Witness | None = None
    why_not: str = ""
    reasons: tuple[Reason, ...] = ()

    def __repr__(self) -> str:
        return f"Theorem({self.name!r}, holds={self.holds})"


@dataclass(frozen=True, slots=True)
class Proof(SelfTold):
    """All theorems about a host.

    Args:
        theorems: they.
        world: what they were proved of, for pictures; None where nobody has it.
    """

    theorems: tuple[Theorem, ...]
    world: World | None = field(default=None, compare=False, repr=False)

    @property
    def proved(self) -> bool:
        """Whether none of them is refuted."""
        return all(theorem.holds is not False for theorem in self.theorems)

    @property
    def proved_for_cpus(self) -> bool:
        """Whether none is refuted but `dma`: what guests reach by their CPUs, whatever their devices may."""
        return all(theorem.holds is not False for theorem in self.theorems if theorem.name != "dma")

    def __repr__(self) -> str:
        return f"Proof({shorten(str(self), _SHOWN, placeholder='...')!r})"

    def __getitem__(self, name: str) -> Theorem:
        """A theorem by its name."""
        return next(theorem for theorem in self.theorems if theorem.name == name)

    def __str__(self) -> str:
        """One line: what holds, or the first thing that does not and why."""
        failed = next((theorem for theorem in self.theorems if theorem.holds is False), None)
        if failed is not None:
            return f"refuted: {failed.name}: {'' if failed.witness is None else failed.witness.problem}"
        names: dict[bool | None, list[str]] = {True: [], None: []}
        for theorem in self.theorems:
            names[theorem.holds].append(theorem.name)
        rest = f" ({', '.join(names[None])}: not applicable)" if names[None] else ""
        return f"proved: {', '.join(names[True])}{rest}"
