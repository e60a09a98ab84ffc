"""What an oracle is: a machine, the pairs of formats it can answer for, and how its registers are read."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..address import Range
from ..flags import MappingFlags
from ..memory.physical import PhysicalMemory
from ..tables.regime import Regime
from .probe import Answers, Probes


@dataclass(frozen=True, slots=True)
class Pair:
    """Two formats that an oracle runs one over the other.

    Args:
        name: as reports list it: `sv39 over sv39x4`, `arm-s2-4k-40 alone`.
        first: name of the stage-1 format; None where stage 1 is off (Bare, SCTLR.M = 0), or the hypervisor's own
            stage 1 is judged.
        second: name of the stage-2 format; of the hypervisor's own regime, the name of its one format.
        switches_1, switches_2: names of `Format.switches` that cases may turn on.
        weight: how many of the cases go to this pair, relative to the others.
        regime: name of the hypervisor's own regime that is judged (el2); None where it is a VM's.
        users: the privileges that its accesses have: False for the privileged ones, True for the others.
    """

    name: str
    first: str | None
    second: str
    switches_1: tuple[str, ...] = ()
    switches_2: tuple[str, ...] = ()
    weight: float = 1.0
    regime: str | None = None
    users: tuple[bool, ...] = (False, True)


@dataclass(frozen=True, slots=True)
class Fixture:
    """Something that an oracle needs mapped, whatever else the tables say: its guest's code.

    Args:
        stage: 1 or 2.
        address: GVA at stage 1, GPA at stage 2.
        target: GPA at stage 1, HPA at stage 2.
        size: bytes; a multiple of 64 KiB at stage 2, so that every granule can say it.
        flags: what it must allow.
    """

    stage: int
    address: int
    target: int
    size: int
    flags: MappingFlags


@dataclass(frozen=True, slots=True)
class Places:
    """Where in the machine's RAM cases may put what; none of them overlap, nor the monitor.

    No two begin at addresses that differ in a single bit from one another's, so that a flipped address bit in an entry
    leads nowhere near the monitor.

    Args:
        tables: tables of stage 2 and, behind GPAs, of stage 1; at least 16 MiB, aligned to 16 MiB.
        data: what leaves may point to; aligned to 1 GiB where RAM allows it.
        fixtures: what must be mapped. A fixture of stage 1 is left out when stage 1 is off.
        gpa_bits: width of the GPAs that stage 1 leads to, where the emulator does not do right by all of them.
    """

    tables: Range
    data: Range
    fixtures: tuple[Fixture, ...]
    gpa_bits: int = 64


class Machine(Protocol):
    """A running machine."""

    memory: PhysicalMemory
    """Its RAM. An oracle that shares none takes it over when it runs a batch, and brings it back."""


@dataclass(frozen=True, slots=True)
class Case:
    """One batch: tables in a machine's memory, and what is asked of them.

    Args:
        pair: which formats.
        stage_1: the guest's regime; None where stage 1 is off.
        stage_2: the hypervisor's; where its own stage 1 is judged, that alone.
        probes: in the order in which they are made.
    """

    pair: Pair
    stage_1: Regime | None
    stage_2: Regime
    probes: Probes


@dataclass(frozen=True, slots=True)
class Predictions:
    """What our walker says of each probe.

    Args:
        status: as `tables.walk` describes it; 0 where the access is made.
        hpa: where it goes.
        gpa: on a stage-2 fault, the address that stage 2 refused; otherwise where stage 1 leads.
        permissions: effective ones.
        memory: the 64-bit word at `hpa` before the batch, 0 where there is no memory.
        tables: the memory whose tables say so.
    """

    status: npt.NDArray[np.uint32]
    hpa: npt.NDArray[np.uint64]
    gpa: npt.NDArray[np.uint64]
    permissions: npt.NDArray[np.uint8]
    memory: npt.NDArray[np.uint64]
    tables: PhysicalMemory | None = None


class Oracle(Protocol):
    """An emulator that answers what a hardware MMU makes of tables."""

    name: str
    kind: str
    """Its name without a generation of the emulator."""
    title: str
    translates: bool
    """Whether it has an instruction for `Means.TRANSLATE`."""
    batch: int
    """How many probes it takes at once."""
    translates_by_access: bool
    """Whether that instruction makes the access (HLV, HSV), rather than tell where it would lead (AT)."""
    translate_marks: bool
    """Whether that instruction sets accessed and dirty bits."""

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The pairs that its emulator has."""

    @property
    def unjudged(self) -> tuple[str, ...]:
        """What of its formats it cannot be asked, one sentence each, for the report."""

    def version(self) -> str:
        """Of the emulator.

        Raises:
            HostToolError: it is not installed; the text says what to install.
        """

    def is_own(self) -> bool:
        """Whether its emulator is the machine's own."""

    def tag(self, index: int) -> int:
        """A word whose first bytes are an instruction that traps to the monitor and tells `index`, below 2^16."""

    def open(self) -> AbstractContextManager[Machine]:
        """Start a machine.

        Raises:
            HostToolError, MachineError: it cannot be had, or does not come up.
        """

    def controls(self, pair: Pair, stage: int) -> int:
        """The control bits that cases of a pair begin with: the format's own, but for what this CPU always has."""

    def places(self, machine: Machine, pair: Pair) -> Places:
        """Where cases of a pair put what."""

    def allows(self, case: Case, predictions: Predictions) -> npt.NDArray[np.bool_]:
        """Which probes this oracle can be asked: for example no real access that leads outside RAM."""

    def answers(self, machine: Machine, case: Case) -> Answers:
        """Make the probes of a case on the machine, with all translations dropped before the first.

        Raises:
            MachineError: the machine is lost; it must be started anew.
        """

    def expected(self, case: Case, predictions: Predictions) -> Answers:
        """What the answers ought to be, with what the hardware does not show cleared as in `answers`."""
