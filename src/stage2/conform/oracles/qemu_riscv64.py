"""QEMU's RISC-V hart with the hypervisor extension as an oracle (Privileged, "Hypervisor" Extension).

Real accesses are made by a guest in VS- or VU-mode: a load, a store, or a jump to the address. Where the tables do not
let the guest run its own code, the monitor makes the access by HLV or HSV instead, as it does for TRANSLATE.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import numpy.typing as npt

from ...address import Range
from ...errors import HostToolError
from ...flags import RWX, Access, MappingFlags
from ...formats import by_name, family_of
from ...formats.outcome import MISCONFIGURATION, PERMISSION
from ...formats.riscv import entry
from ...formats.riscv.registers import AddressTranslationRegister
from ...formats.riscv.syndromes import (
    GUEST_CALL,
    GUEST_PAGE_FAULTS,
    ILLEGAL_INSTRUCTION,
    PAGE_FAULTS,
    USER_CALL,
    WALK_READS,
    WALK_WRITES,
    encode_scause,
)
from ...formats.u64 import MASK_64
from ...machines import mailbox
from ...machines.riscv64 import GUEST_CODE, Registers, Riscv64Machine
from ...tables.result import Fault, fault_from_status
from ...tables.walk import AT_STAGE_2, KIND_MASK, ON_MARK, ON_TABLE
from ..oracle import Case, Fixture, Pair, Places, Predictions
from ..probe import ANSWER, Answers, Means
from .emulated import Emulated

_TABLES = Range.sized(0x9B00_0000, 0x100_0000)
_DATA = Range.sized(0x1_0000_0000, 0x4000_0000)
_CODE_INDEX = 77
"""Index in the root tables under which the guest's code is mapped: one that nothing else is likely to use."""

_ILLEGAL = 0x0B
"""Major opcode custom-0: an illegal instruction on a hart without custom extensions. QEMU shows it in stval."""
_ILLEGAL_BITS, _ILLEGAL_SHIFT = 0x7F, 7
_TAG_HIGH = 0x7A60_0000
"""Upper half of a tag, so that as data it is like nothing else."""

_GVA, _SPV, _SPVP = 1 << 6, 1 << 7, 1 << 8
_FROM = _GVA | _SPV | _SPVP
"""hstatus: what stval holds, and which mode the trap came from."""
_FROM_SHIFT, _HTINST_SHIFT = 2, 16
"""`code` holds scause in bits 5:0, those bits of hstatus in 10:8, and htinst's pseudoinstructions from 16 on."""

_AD = ("ad",)
_VARIANTS = {
    "": (_AD, _AD),
    ", MXR": (("ad", "mxr"), ("ad", "mxr")),
    ", Svnapot and Svpbmt": (("ad", "napot", "pbmt"), ("ad", "napot", "pbmt")),
    ", Svnapot": (("ad", "napot"), ("ad", "napot")),
    ", Svpbmt": (("ad", "pbmt"), ("ad", "pbmt")),
}
"""What a variant of a pair has switched on at stage 1 and at stage 2, by what its name ends in."""
_NEWER_VARIANTS = {
    ", HLVX": (("ad", "hlvx"), ("ad", "hlvx")),
    ", HLVX and MXR": (("ad", "hlvx", "mxr"), ("ad", "hlvx", "mxr")),
    ", Svade": ((), ()),
    ", Svade at stage 1": ((), _AD),
    ", MXR at stage 1": (("ad", "mxr"), _AD),
    ", Svpbmt at stage 2": (_AD, ("ad", "pbmt")),
}
"""Those that QEMU 7.2 gets wrong or does not have."""
_ALONE = ("", ", MXR", ", Svnapot and Svpbmt", ", HLVX", ", Svade")
_CPU_SWITCHES = {"napot": ("svnapot", entry.SVNAPOT), "pbmt": ("svpbmt", entry.SVPBMT)}
_NEWER = 8
"""The generation of QEMU from which on its own ways of 7.2 are gone."""

_UNJUDGED = (
    "The memory types of Svpbmt: QEMU has no caches, so only reserved encodings show.",
    "Accessed and dirty bits of stage 1 in tables that stage 2 does not let the guest write: QEMU writes them.",
    "Stores and fetches under MXR that come to a table through an execute-only leaf of stage 2: QEMU reads it.",
    "VMIDs and ASIDs: QEMU's TLB is not tagged with them.",
)
_UNJUDGED_NEWER = ("henvcfg under HLV, HLVX and HSV: QEMU asks menvcfg; real accesses are judged.",)
_UNJUDGED_OLDER = (
    "GPAs with the highest bit of Sv39x4, Sv48x4 or Sv57x4 set: QEMU 7.2 takes it for a sign.",
    "Svade (a page fault where the accessed or dirty bit is clear): QEMU 7.2 always sets them itself.",
    "vsstatus.MXR without sstatus.MXR: QEMU 7.2 lets it work on both stages.",
    "HLVX: QEMU 7.2 asks for R instead of X; real fetches are judged.",
    "SUM clear under HLV and HSV: QEMU 7.2 takes it as set there; real accesses are judged.",
    "Reserved bits under Svnapot and Svpbmt, but for loads: QEMU 7.2 lets most of those bits pass.",
)


def _pairs(variants: Mapping[str, object]) -> tuple[Pair, ...]:
    first, second = ("sv39", "sv48", "sv57"), ("sv39x4", "sv48x4", "sv57x4")
    made = [Pair(f"{s2} alone{variant}", None, s2) for s2 in second for variant in variants if variant in _ALONE]
    made += [
        Pair(f"{s1} over {s2}{variant}", s1, s2, ("sum",), (), 0.5 if variant else 2.0)
        for s1 in first
        for s2 in second
        for variant in (variants if s2.startswith(s1) else ("",))
    ]
    return tuple(made)


class QemuRiscv64(Emulated):
    """See `conform.oracle.Oracle`."""

    kind, maker = "qemu-riscv64", "qemu"
    program = Riscv64Machine.PROGRAM, Riscv64Machine.PACKAGE
    title = "QEMU RISC-V, H extension"
    translates = True
    translates_by_access = True
    translate_marks = True
    batch = 1 << 13

    def __init__(self, generation: int | None = None) -> None:
        super().__init__(generation)
        self.newer = self._is_newer()
        self.pairs = _pairs(_VARIANTS | _NEWER_VARIANTS if self.newer else _VARIANTS)
        self.unjudged = _UNJUDGED + (_UNJUDGED_NEWER if self.newer else _UNJUDGED_OLDER)
        self._fetched: npt.NDArray[np.uint64] = np.empty((0, 2), np.uint64)

    def _is_newer(self) -> bool:
        """Whether it does not do as QEMU 7.2; what is not there is taken to be as that."""
        with contextlib.suppress(HostToolError):
            return (self.emulator.generation or self.generation) >= _NEWER
        return False

    def open(self) -> AbstractContextManager[Riscv64Machine]:
        """Start a machine."""
        return Riscv64Machine(self.emulator)

    def tag(self, index: int) -> int:
        """An illegal instruction that holds the index, and an upper half that no other data has."""
        return (_TAG_HIGH | index) << 32 | index << _ILLEGAL_SHIFT | _ILLEGAL

    def controls(self, pair: Pair, stage: int) -> int:
        """What the pair's variant has at the stage."""
        fmt = by_name(pair.second if stage == 2 or pair.first is None else pair.first)
        _, comma, variant = pair.name.partition(", ")
        return fmt.controls_with(*(_VARIANTS | _NEWER_VARIANTS)[comma + variant][stage - 1])

    def places(self, machine: Any, pair: Pair) -> Places:
        """Away from the monitor. The guest's code is at one GPA, and under two GVAs: for VS- and for VU-mode."""
        vs_code, vu_code, gpa = _code(pair)
        size = GUEST_CODE.size
        fixtures = [Fixture(2, gpa, GUEST_CODE.start, size, RWX)]
        if pair.first is not None:
            fixtures.append(Fixture(1, vs_code, gpa, size, RWX))
            fixtures.append(Fixture(1, vu_code, gpa, size, RWX | MappingFlags.USER))
        return Places(_TABLES, _DATA, tuple(fixtures), by_name(pair.second).input_bits - (0 if self.newer else 1))

    def allows(self, case: Case, predictions: Predictions) -> npt.NDArray[np.bool_]:
        """No fetches by instruction, none of those outside the data, and no switches that QEMU does not have."""
        probes, made = case.probes, predictions.status == 0
        inside = (predictions.hpa >= np.uint64(_DATA.start)) & (predictions.hpa < np.uint64(_DATA.end))
        fetch = probes["access"] == Access.FETCH
        self._fetched = _sorted_pairs(probes["address"][fetch & made & inside], predictions.hpa[fetch & made & inside])
        found: npt.NDArray[np.bool_] = (inside | ~made) & ~(fetch & (probes["means"] == Means.TRANSLATE))
        if _by_hlvx(case):
            found &= (probes["access"] != Access.READ) | (probes["means"] == Means.TRANSLATE)
        if _differ(case):
            found &= probes["means"] == Means.ACCESS
        found &= ~_reads_unreadable(case, predictions)
        found &= predictions.status & np.uint32(ON_MARK) == 0
        if self.newer:
            return found
        found &= ~_passes(case, predictions)
        return found & _has(case) & ~_sign_extended(case, predictions.gpa) & ~_needs_sum(case, predictions)

    def answers(self, machine: Any, case: Case) -> Answers:
        """Load the registers, make the probes, and read what their traps say."""
        assert isinstance(machine, Riscv64Machine)
        probes = case.probes
        machine.have(_extensions(case))
        machine.set_registers(_registers(case))
        kind = probes["access"].astype(np.uint64)
        kind |= np.where(probes["user"] != 0, np.uint64(mailbox.UNPRIVILEGED), np.uint64(0))
        kind |= np.where(probes["means"] == Means.TRANSLATE, np.uint64(mailbox.TRANSLATE), np.uint64(0))
        kind |= np.uint64(mailbox.EXECUTABLE if _by_hlvx(case) else 0)
        found = machine.probe(probes["address"], probes["value"], kind, self._renewed(probes))
        return _read(probes, found)

    def _renewed(self, probes: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
        """Where the words of fetches are, as `allows` was told."""
        fetch = probes["access"] == Access.FETCH
        result = np.zeros(len(probes), np.uint64)
        if len(self._fetched) and fetch.any():
            at = np.searchsorted(self._fetched[:, 0], probes["address"][fetch])
            row = self._fetched[np.minimum(at, len(self._fetched) - 1)]
            result[fetch] = np.where(row[:, 0] == probes["address"][fetch], row[:, 1], np.uint64(0))
        return result

    def expected(self, case: Case, predictions: Predictions) -> Answers:
        """What scause, stval, htval, htinst and hstatus ought to be, from the formats' own syndrome encoders."""
        probes, status = case.probes, predictions.status
        found = np.zeros(len(probes), ANSWER)
        made = status == 0
        found["ok"] = made
        read, fetch = made & (probes["access"] == Access.READ), made & (probes["access"] == Access.FETCH)
        found["value"][read] = predictions.memory[read] & np.uint64(0xFFFF_FFFF if _by_hlvx(case) else MASK_64)
        found["value"][fetch] = (predictions.memory[fetch] & np.uint64(0xFFFF_FFFF)) >> np.uint64(_ILLEGAL_SHIFT)
        refused = np.flatnonzero(~made)
        keys = status[refused].astype(np.uint64) << np.uint64(8) | probes["access"][refused]
        for key in np.unique(keys).tolist():
            at = refused[keys == key]
            report = _report(case, key >> 8, Access(key & 0xFF))
            found["code"][at] = report["scause"] | report["htinst"] << _HTINST_SHIFT
            found["stage"][at] = _stage(report["scause"])
            found["gva"][at] = probes["address"][at]
            if report["htval"]:
                found["gpa"][at] = predictions.gpa[at] & ~np.uint64(3)
        real = ~made & (probes["means"] == Means.ACCESS)
        by = np.where(real, np.uint64(_SPV), np.uint64(0)) | np.where(
            (probes["user"] == 0) & ~made, np.uint64(_SPVP), np.uint64(0)
        )
        found["code"] |= (by | np.where(made, np.uint64(0), np.uint64(_GVA))) << np.uint64(_FROM_SHIFT)
        return found


def _code(pair: Pair) -> tuple[int, int, int]:
    """GVAs of the guest's code for VS- and VU-mode, and its GPA."""
    second = by_name(pair.second)
    gpa = _CODE_INDEX << second.level_shift(second.levels - 1)
    if pair.first is None:
        return gpa, gpa, gpa
    first = by_name(pair.first)
    gva = _CODE_INDEX << first.level_shift(first.levels - 1)
    return gva, gva + GUEST_CODE.size, gpa


def _extensions(case: Case) -> set[str]:
    """The optional extensions of the hart that the controls of a case ask for."""
    controls = case.stage_2.controls
    return {name for name, bits in _CPU_SWITCHES.values() if controls & bits == bits}


def _by_hlvx(case: Case) -> bool:
    """Whether its loads by instruction are HLVX.WU, of 32 bits."""
    return bool(case.stage_2.controls & entry.HLVX)


def _differ(case: Case) -> bool:
    """Whether henvcfg says of stage 1 what menvcfg does not of stage 2: by HLV and HSV, QEMU asks menvcfg for both."""
    environment = entry.HARDWARE_AD | entry.SVPBMT
    return case.stage_1 is not None and bool((case.stage_1.controls ^ case.stage_2.controls) & environment)


def _reads_unreadable(case: Case, predictions: Predictions) -> npt.NDArray[np.bool_]:
    """Which stores and fetches QEMU may make under MXR: it reads the guest's tables through execute-only leaves, and
    nobody can say what follows.
    """
    if not case.stage_2.controls & entry.MXR:
        return np.zeros(len(case.probes), np.bool_)
    unreadable = np.uint32(PERMISSION | AT_STAGE_2 | ON_TABLE)
    refused = predictions.status & np.uint32(KIND_MASK | AT_STAGE_2 | ON_TABLE | ON_MARK) == unreadable
    found: npt.NDArray[np.bool_] = refused & (case.probes["access"] != Access.READ)
    return found


def _has(case: Case) -> bool:
    """Whether QEMU 7.2 can be what the controls say: alike at both stages, and setting accessed and dirty bits."""
    same = entry.SVNAPOT | entry.SVPBMT | entry.HARDWARE_AD | entry.MXR
    controls = case.stage_2.controls & same
    alike = case.stage_1 is None or case.stage_1.controls & same == controls
    return alike and bool(controls & entry.HARDWARE_AD)


def _sign_extended(case: Case, gpa: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Whether QEMU 7.2 gets the width of a GPA wrong: it wants bits above the highest but one to be all alike."""
    above = gpa >> np.uint64(case.stage_2.format.input_bits - 1)
    found: npt.NDArray[np.bool_] = (above == 1) | (above == np.uint64((1 << 65 - case.stage_2.format.input_bits) - 1))
    return found


def _needs_sum(case: Case, predictions: Predictions) -> npt.NDArray[np.bool_]:
    """Which probes by HLV and HSV as VS-mode may be refused because SUM is clear."""
    if case.stage_1 is None or case.stage_1.controls & entry.SUM:
        return np.zeros(len(case.probes), np.bool_)
    refused = predictions.status & np.uint32(KIND_MASK | AT_STAGE_2) == PERMISSION
    found: npt.NDArray[np.bool_] = refused & (case.probes["means"] == Means.TRANSLATE) & (case.probes["user"] == 0)
    return found


def _passes(case: Case, predictions: Predictions) -> npt.NDArray[np.bool_]:
    """Which probes QEMU 7.2 may let pass reserved bits, where a store would do harm, or nobody can say what follows."""
    if not case.stage_2.controls & (entry.SVNAPOT | entry.SVPBMT):
        return np.zeros(len(case.probes), np.bool_)
    found: npt.NDArray[np.bool_] = predictions.status & np.uint32(KIND_MASK) == MISCONFIGURATION
    if not case.stage_2.controls & entry.SVNAPOT:
        return found
    # Reads do no harm wherever that leads; by HLV they may pass for another reason too.
    found &= (case.probes["access"] != Access.READ) | (case.probes["means"] == Means.TRANSLATE)
    return found


def _registers(case: Case) -> Registers:
    stage_1, stage_2 = case.stage_1, case.stage_2
    hgatp = family_of(stage_2.format).stage_2_registers(
        stage_2.format, stage_2.root, stage_2.controls, stage_2.identifier
    )["hgatp"]
    vs_code, vu_code, _ = _code(case.pair)
    if stage_1 is None:
        return Registers.of(hgatp, 0, stage_2.controls, stage_2.controls, vs_code, vu_code)
    vsatp = AddressTranslationRegister(stage_1.format, stage_1.identifier, stage_1.root).value()
    return Registers.of(hgatp, vsatp, stage_1.controls, stage_2.controls, vs_code, vu_code)


def _report(case: Case, status: int, access: Access) -> dict[str, int]:
    """The registers for a status; of htval only whether it is written."""
    fault: Fault = fault_from_status(status, 4, stage=1, access=access)
    if status & AT_STAGE_2:
        return family_of(case.stage_2.format).hardware_report(
            case.stage_2.format, fault, access, None, 4, MappingFlags(0)
        )
    return {"scause": encode_scause(fault.kind, 1, access), "htval": 0, "htinst": 0}


def _stage(scause: int) -> int:
    """The stage that refused; an access fault does not tell."""
    return 1 if scause in PAGE_FAULTS.values() else 2 if scause in GUEST_PAGE_FAULTS.values() else 0


def _read(probes: npt.NDArray[Any], found: npt.NDArray[Any]) -> Answers:
    """Answers from the registers of traps."""
    answers = np.zeros(len(probes), ANSWER)
    scause, stval, htval, htinst, hstatus = (found["syndrome"][:, index] for index in range(5))
    trapped = found["outcome"] != 0
    fetch, write = probes["access"] == Access.FETCH, probes["access"] == Access.WRITE
    called = trapped & ~fetch & ((scause == GUEST_CALL) | (scause == USER_CALL))
    ran = trapped & fetch & (scause == ILLEGAL_INSTRUCTION) & (stval & np.uint64(_ILLEGAL_BITS) == _ILLEGAL)
    made = ~trapped | called | ran
    answers["ok"] = made
    answers["value"] = np.where(made & ~write, np.where(ran, stval >> np.uint64(_ILLEGAL_SHIFT), found["value"]), 0)
    pseudo = np.isin(htinst, np.array(sorted(WALK_READS | WALK_WRITES), np.uint64))
    # Without SPV an access was made by HLV or HSV after all, because the tables do not let the guest run its code.
    hstatus = hstatus | np.where(probes["means"] == Means.ACCESS, np.uint64(_SPV), np.uint64(0))
    code = scause | (hstatus & np.uint64(_FROM)) << np.uint64(_FROM_SHIFT)
    code |= np.where(pseudo, htinst, np.uint64(0)) << np.uint64(_HTINST_SHIFT)
    stage = np.where(np.isin(scause, list(PAGE_FAULTS.values())), 1, 0)
    stage[np.isin(scause, list(GUEST_PAGE_FAULTS.values()))] = 2
    for name, value in (("code", code), ("gva", stval), ("gpa", htval << np.uint64(2)), ("stage", stage)):
        answers[name] = np.where(made, 0, value)
    return answers


def _sorted_pairs(address: npt.NDArray[np.uint64], hpa: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """(address, hpa) in order of the address."""
    order = np.argsort(address, kind="stable")
    return np.stack([address[order], hpa[order]], axis=1)


ORACLE = QemuRiscv64()
