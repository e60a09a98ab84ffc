"""QEMU's AArch64 CPU as an oracle: stage 2 alone, and both stages of EL1&0 under it."""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt

from ...errors import HostToolError
from ...flags import Access, MappingFlags
from ...formats import by_name, family_of
from ...formats.arm.layout import HA, HD
from ...formats.arm.stage1 import PAN
from ...formats.arm.stage2 import PTW
from ...formats.arm.syndromes import ARM_LAST_LEVEL, encode_esr
from ...formats.outcome import PERMISSION, TABLE_OUTSIDE_MEMORY
from ...machines.aarch64 import (
    ESR_EL1,
    ESR_EL2,
    FAR_EL1,
    FAR_EL2,
    HIGH,
    HPFAR_EL2,
    MADE,
    STRANGE,
    TAKEN_BY_EL1,
    TAKEN_BY_EL2,
    WINDOW,
    WINDOW_GPA,
    AArch64Machine,
)
from ...machines.mailbox import UNPRIVILEGED
from ...tables.result import fault_from_status
from ..oracle import Case, Fixture, Machine, Pair, Places, Predictions
from ..probe import ANSWER, Answers, Means
from . import own_aarch64 as own
from .aarch64 import (
    DATA,
    LEVELS_TO_MINUS_ONE,
    PAR_ADDRESS,
    PAR_FAULT,
    RAM,
    STATUS,
    SYNDROME,
    TABLES,
    Faults,
    fetched,
    groups,
    inside,
    listed,
    seen,
    tag,
    u,
)
from .emulated import Emulated

PA_BITS = 52
"""Physical addresses of QEMU's CPU `max`. With stage 1 off, a wider address is stage 1's to refuse."""
_FIPA = 0x0000_0FFF_FFFF_FFF0
_S1PTW = 1 << 7

_SECOND = ("af", "ad", "ptw", "fwb")
_FIRST = ("af", "ad", "wxn", "pan", "hpd")
_ALONE = (
    "arm-s2-4k-40", "arm-s2-4k-40-4level", "arm-s2-4k-48", "arm-s2-4k-52-lpa2", "arm-s2-16k-40", "arm-s2-16k-48",
    "arm-s2-64k-40-lpa", "arm-s2-64k-48-lpa", "arm-s2-64k-52",
)  # fmt: skip
_BOTH = (
    ("arm-s1-4k-39", "arm-s2-4k-40"), ("arm-s1-4k-48", "arm-s2-4k-48"), ("arm-s1-4k-48", "arm-s2-4k-40-4level"),
    ("arm-s1-4k-52-lpa2", "arm-s2-4k-52-lpa2"), ("arm-s1-16k-47", "arm-s2-16k-40"),
    ("arm-s1-64k-48-lpa", "arm-s2-64k-48-lpa"), ("arm-s1-4k-39", "arm-s2-64k-40-lpa"),
    ("arm-s1-16k-47", "arm-s2-4k-40"), ("arm-s1-64k-48-lpa", "arm-s2-4k-48"), ("arm-s1-4k-48", "arm-s2-16k-48"),
)  # fmt: skip
"""With 64 KiB granules those of FEAT_LPA, which a CPU of 52 bits has."""
_NARROW = "arm-s2-4k-36"
"""The stage-2 format under which narrow addresses (PS, IPS) are tried: its IPAs fit them."""


_NEWER = 8
"""The generation of QEMU that no longer has what of 7.2 could not be asked."""
_NEWER_ALONE = ("arm-s2-16k-52-lpa2",)


def _pairs(more: tuple[str, ...] = ()) -> tuple[Pair, ...]:
    alone = [Pair(f"{second} alone", None, second, (), _SECOND) for second in (*_ALONE, *more)]
    both = [Pair(f"{first} over {second}", first, second, _FIRST, _SECOND) for first, second in _BOTH]
    narrow = (*_SECOND, "pa36")
    return (
        *alone,
        Pair(f"{_NARROW} alone", None, _NARROW, (), narrow, 0.5),
        *both,
        Pair(f"arm-s1-4k-39 over {_NARROW}", "arm-s1-4k-39", _NARROW, (*_FIRST, "pa36"), narrow, 0.5),
    )


_UNJUDGED = (
    "no-xnx: the CPU always has FEAT_XNX.",
    "arm-s1-*-high under stage 2: TTBR1 serves the monitor's guest. EL2&0 (el2-vhe) has that half judged.",
    "Addresses below 2 GiB while the high half of EL2&0 is looked at: TTBR0_EL2 maps the monitor there.",
    "Access flags under HCR_EL2.PTW, where it forbids the walk: they may be set or not.",
    "Fetches that stage 1 forbids under TCR.HD: clean pages count as writable, so that EL1 (in EL2&0, EL2) must not "
    "execute what EL0 may write, nor anybody what is writable under WXN (AArch64.S1ApplyOutputPerms); QEMU takes them "
    "for read-only ones in all but writes, and executes them.",
    "Tables outside of memory: between its RAM the machine has devices, which a walk may read.",
    "HPFAR_EL2 after a permission fault of the access itself: the architecture leaves it unknown.",
    "The instruction syndrome of a stage-2 data abort (ISV and what follows): it is the monitor's own instructions'; a "
    "test of this machine compares them.",
    "64 KiB granules under an output size below 52 bits: QEMU looks at bits 15:12 of descriptors with PS 6 only, and "
    "takes them for zero otherwise, where FEAT_LPA makes them address bits (AArch64.LeafBase).",
    "IPAs and start levels beyond PS: QEMU 7.2 bounds them by PS, not by PARange.",
    "Memory types: the probes do not compare them; a test of this oracle goes through all of both stages.",
    "Privileged AT instructions under PSTATE.PAN: AT S12E1R and S12E1W do not look at PAN.",
)
_UNJUDGED_OLDER = (
    "arm-s2-16k-52-lpa2: QEMU refuses the start level 0 of 16 KiB granules.",
    "Holes in the root of arm-s1-4k-52-lpa2, and permission and access flag faults on it: QEMU ends by an "
    "assertion when it finds such a fault at level -1, as it does when the root holds a block.",
    "Real accesses through a hole at a level that has no blocks, and stage-1 tables behind such a one: QEMU takes "
    "a block for one at any level, and then writes anywhere. Translations without HA are judged there.",
)


class QemuAArch64(Emulated):
    """See `conform.oracle.Oracle`."""

    kind, maker = "qemu-aarch64", "qemu"
    program = AArch64Machine.PROGRAM, AArch64Machine.PACKAGE
    title = "QEMU's AArch64 CPU: EL1 and EL0 under stage 2, and EL2's own stage 1"
    translates = True
    translates_by_access = False
    translate_marks = True
    batch = 1200

    @property
    def newer(self) -> bool:
        """Whether it is a QEMU that can be asked more than 7.2."""
        return self.generation >= _NEWER

    @property
    def pairs(self) -> tuple[Pair, ...]:
        found = _pairs(_NEWER_ALONE if self.newer else ())
        return (*found, *own.own_pairs(sum(pair.weight for pair in found)))

    @property
    def unjudged(self) -> tuple[str, ...]:
        return _UNJUDGED if self.newer else (*_UNJUDGED_OLDER, *_UNJUDGED)

    def open(self) -> AArch64Machine:
        machine = AArch64Machine(self.emulator)
        if machine.pa_bits != PA_BITS:
            machine.close()
            raise HostToolError(f"QEMU's CPU has {machine.pa_bits}-bit physical addresses, this oracle knows {PA_BITS}")
        return machine

    def controls(self, pair: Pair, stage: int) -> int:
        if pair.regime is not None:
            return own.controls(pair)
        name = pair.first if stage == 1 else pair.second
        return 0 if name is None else by_name(name).default_controls

    def places(self, machine: Machine, pair: Pair) -> Places:
        if pair.regime is not None:
            return Places(TABLES, DATA, own.fixtures(pair))
        code = MappingFlags.READ | MappingFlags.EXECUTE
        return Places(TABLES, DATA, (Fixture(2, WINDOW_GPA, WINDOW.start, WINDOW.size, code),))

    def tag(self, index: int) -> int:
        return tag(index)

    def allows(self, case: Case, predictions: Predictions) -> npt.NDArray[np.bool_]:
        probes, first, second = case.probes, case.stage_1, case.stage_2
        translate = probes["means"] == Means.TRANSLATE
        faults = Faults(case, predictions)
        asked = ~(translate & (probes["access"] == Access.FETCH)) & (faults.kind != TABLE_OUTSIDE_MEMORY)
        # Where a translation leads a tag is put, so not into tables or the monitor.
        asked &= (predictions.status != 0) | inside(DATA, predictions.hpa) | ~inside(RAM, predictions.hpa)
        # QEMU takes a block for one at any level, and a write then goes anywhere, into the monitor too. To translate
        # is harmless, unless stage-1 tables are read, or tables marked, where such a block leads.
        marking = any(regime is not None and regime.controls & HA for regime in (first, second))
        if not self.newer:
            asked &= ~faults.above_blocks if marking else ~faults.above_blocks | (translate & ~faults.on_table)
        if case.pair.regime is not None:
            return cast("npt.NDArray[np.bool_]", asked & own.allows(case, faults, newer=self.newer))
        if second.controls & HA and second.controls & PTW:
            asked &= ~(faults.on_table & (faults.kind == PERMISSION))
        if first is None:
            return cast("npt.NDArray[np.bool_]", asked & (probes["address"] >> u(PA_BITS) == 0))
        if first.format.levels == LEVELS_TO_MINUS_ONE and not self.newer:
            asked &= ~faults.at_minus_one
        if first.controls & HD:
            # QEMU takes clean pages for read-only ones, which may be executed, and then executes what is there.
            refused = ~faults.at_2 & (faults.kind == PERMISSION)
            asked &= ~(refused & (probes["access"] == Access.FETCH))
        if first.controls & PAN:
            asked &= ~(translate & (probes["user"] == 0))
        return cast("npt.NDArray[np.bool_]", asked & (probes["address"] < u(HIGH.start)))

    # --- what the machine says -------------------------------------------------------------------------------

    def answers(self, machine: Machine, case: Case) -> Answers:
        assert isinstance(machine, AArch64Machine)
        if case.pair.regime is not None:
            return own.answers(machine, case)
        machine.enter(case.stage_1, case.stage_2)
        return self.ask(machine, case)

    def ask(self, machine: AArch64Machine, case: Case) -> Answers:
        """As `answers`, with whatever translations the machine still has: it runs by the tables of the case already."""
        probes = case.probes
        asked = listed(machine, case)
        asked["kind"] |= np.where(probes["user"], u(UNPRIVILEGED), u(0))
        results = machine.probe(asked)

        found = np.zeros(len(probes), ANSWER)
        translated = probes["means"] == Means.TRANSLATE
        outcome, value, syndrome = results["outcome"], results["value"], results["syndrome"]
        made = outcome == MADE
        found["ok"] = made
        # Translations: PAR_EL1 says it all.
        found["hpa"] = np.where(made & translated, value & u(PAR_ADDRESS) | probes["address"] & u(0xFFF), 0)
        refused = translated & (outcome == TAKEN_BY_EL1)
        found["stage"][refused] = np.where(value[refused] & u(1 << 9), 2, 1)
        found["code"][refused] = value[refused] & u(PAR_FAULT)
        # Accesses.
        value = np.where(probes["access"] == Access.FETCH, fetched(value, syndrome[:, ESR_EL2]), value)
        found["value"] = np.where(made & ~translated & (probes["access"] != Access.WRITE), value, 0)
        first, second = (~translated & (outcome == taker) for taker in (TAKEN_BY_EL1, TAKEN_BY_EL2))
        found["stage"] += np.where(first, 1, np.where(second, 2, 0)).astype(np.uint8)
        found["code"] |= np.where(first, syndrome[:, ESR_EL1], 0) | np.where(second, syndrome[:, ESR_EL2], 0)
        found["code"] &= u(SYNDROME)
        found["gva"] = np.where(first, syndrome[:, FAR_EL1], np.where(second, syndrome[:, FAR_EL2], 0))
        status = syndrome[:, ESR_EL2] & u(STATUS | _S1PTW)
        named = second & ((status < 0b001100) | (status > 0b001111))
        found["gpa"] = np.where(named, (syndrome[:, HPFAR_EL2] & u(_FIPA)) << u(8), 0)
        strange = (outcome == STRANGE) | translated & (outcome == TAKEN_BY_EL2)
        found["code"][strange] = syndrome[:, ESR_EL2][strange]
        return found

    # --- what our walker says --------------------------------------------------------------------------------

    def expected(self, case: Case, predictions: Predictions) -> Answers:
        if case.pair.regime is not None:
            return own.expected(case, predictions)
        probes, status = case.probes, predictions.status
        found = np.zeros(len(probes), ANSWER)
        translated = probes["means"] == Means.TRANSLATE
        made = status == 0
        found["ok"] = made
        found["hpa"] = np.where(made & translated, predictions.hpa, 0)
        read = made & ~translated & (probes["access"] != Access.WRITE)
        found["value"] = np.where(read, seen(probes, predictions), 0)
        faults = Faults(case, predictions)
        found["stage"] = np.where(made, 0, np.where(faults.at_2, 2, 1))
        found["gva"] = np.where(made | translated, 0, probes["address"])
        named = faults.at_2 & ~translated & ((faults.kind != PERMISSION) | faults.on_table)
        found["gpa"] = np.where(named, predictions.gpa & u(_FIPA << 8), 0)
        # Syndromes, once for each kind of fault. The width of the address is part of the kind.
        examples, which = groups(case, status, faults.wide, probes["user"] != 0)
        codes = [0 if made[at] else _code(case, predictions, at, bool(faults.wide[at])) for at in examples]
        found["code"] = np.array(codes, np.uint64)[which]
        return found


def _code(case: Case, predictions: Predictions, at: int, wide: bool) -> int:
    """The syndrome of one probe that is refused."""
    probe, gpa = case.probes[at], int(predictions.gpa[at])
    access, user = Access(int(probe["access"])), bool(probe["user"])
    fault = fault_from_status(int(predictions.status[at]), gpa, stage=1, access=access)
    if fault.stage == 2:
        second = case.stage_2.format
        esr = family_of(second).hardware_report(second, fault, access, int(probe["address"]), gpa, MappingFlags(0))[
            "ESR_EL2"
        ]
    else:
        # An address that TTBR0 has no bits for is refused before the first lookup, and reported as Arm's level 0.
        level = ARM_LAST_LEVEL if wide else fault.level
        esr = encode_esr(fault.kind, 1, level, access, lower=user)
    if int(probe["means"]) == Means.ACCESS:
        return esr
    return (esr & STATUS) << 1 | (1 << 8 if fault.on_table else 0) | (1 << 9 if fault.stage == 2 else 0)


ORACLE = QemuAArch64()
