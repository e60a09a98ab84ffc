"""The oracle of EPT: Bochs. Guests in long mode over EPT of 4 levels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...address import Range
from ...flags import RWX, Access
from ...formats import by_name, family_of
from ...formats.outcome import EXECUTE_USER, FaultKind
from ...formats.x86 import ept, longmode
from ...formats.x86.registers import PageTableBase
from ...machines import bochs
from ...machines.bochs import BochsMachine, Guest
from ...memory.physical import PhysicalMemory
from ...tables.batch import translate_batch, translate_two_stage_batch
from ...tables.compiled import host_memory
from ...tables.regime import Regime
from ...tables.result import fault_from_status
from ..oracle import Case, Machine, Pair, Places, Predictions
from ..probe import ANSWER, Answers
from .emulated import Emulated
from .long_mode import (
    U64Array,
    code_fixtures,
    control_registers,
    expected_if_made,
    faults,
    inside,
    kinds,
    page_fault_error,
    tag,
    with_physical_bits,
)

_CODE = Range.sized(bochs.GUEST_CODE, 0x1_0000)
_CODE_GPA = 0x8A_AAAA_0000
"""In the upper half of the 40 bits, as the window of the guest's tables is: the lower one is left to random tables."""
_CODE_KERNEL = {4: 0xFFFF_C0C0_4040_0000, 5: 0xFFC0_C0C0_4040_0000}
"""Where the guest's code is for CPL 0, by the levels of its tables; for CPL 3 it is `_TO_USER` further on."""
_TO_USER = 0x4040_0000
_CR4_LA57, _FIVE = 1 << 12, 5

EXCEPTION, EPT_VIOLATION, EPT_MISCONFIGURATION = 0, 48, 49
"""Basic exit reasons (SDM appendix C)."""
GENERAL_PROTECTION, PAGE_FAULT = 13, 14
_REASON_SHIFT, _VECTOR_SHIFT = 56, 48
"""A fault's code in an answer: the exit reason, the vector of an exception, and the error code or qualification."""
_NO_ENTRY = 1 << 40
"""In a code: there was no VM entry, and the reason is a VM-instruction error."""
_VECTOR_MASK = 0xFF
_ALLOWED_USER_FETCH, _ADVANCED = 1 << 6, 0xF << 9
"""Bits of the exit qualification: the first is defined under mode-based execute control only, the others with advanced
information for EPT violations (SDM 29.2.1), which is not compared."""
_NEWER = 3
"""The generation since which there is more to ask."""
_FIRST = ("smep", "smap", "no-wp", "no-nx")
_OLD = (Pair("x86-4level over ept4", "x86-4level", "ept4", _FIRST, ("ad",)),)
_NEW = (
    Pair("x86-4level over ept4", "x86-4level", "ept4", _FIRST, ("ad", "mbec")),
    # The CPU with 57-bit addresses cannot write with CR0.WP clear (`machines.bochs.FIVE_LEVELS`). Bochs has to start
    # anew for it, so it gets few of the cases.
    Pair("x86-5level over ept4", "x86-5level", "ept4", ("smep", "smap", "no-nx"), ("ad", "mbec"), 0.2),
)
_OLD_LACKS = (
    "ept5 and x86-5level: Bochs 2.7 has no CPU with 57-bit addresses",
    "mode-based execute control (mbec): Bochs 2.7 has none (IA32_VMX_PROCBASED_CTLS2 bit 54 is clear)",
)
_NEW_LACKS = ("ept5: Bochs 3.0 has no CPU with EPT of 5 levels (IA32_VMX_EPT_VPID_CAP bit 7 is clear)",)
_ALL_LACK = (
    "processors without execute-only entries (no-execute-only): Bochs supports them on every CPU with EPT",
    "physical addresses other than of 40 bits (pa36): Bochs has 40 on every CPU",
    "what an EPT violation tells of the guest's own permissions (advanced information), which Bochs 2.7 does not tell",
    "memory types: Bochs caches nothing, so PAT, EMT and IPAT change nothing but which encodings are legal",
    "TLB invalidation: every VM entry begins without translations, for no VPID is used",
    "tables outside RAM: what an access to nothing answers is the board's business",
    "EPT under a guest without paging: a guest in long mode always has both stages",
)


class BochsEpt(Emulated):
    """Bochs' VMX as an oracle."""

    kind, maker = "bochs-ept", "bochs"
    program = bochs.PROGRAM, bochs.PACKAGE
    title = "Bochs, Intel's VMX and EPT"
    translates = False
    translates_by_access = False
    translate_marks = False
    batch = 256

    @property
    def pairs(self) -> tuple[Pair, ...]:
        return _NEW if self.generation >= _NEWER else _OLD

    @property
    def unjudged(self) -> tuple[str, ...]:
        return (*(_NEW_LACKS if self.generation >= _NEWER else _OLD_LACKS), *_ALL_LACK)

    def open(self) -> BochsMachine:
        return BochsMachine(self.emulator)

    def places(self, machine: Machine, pair: Pair) -> Places:
        kernel = _CODE_KERNEL[by_name(pair.first or "").levels]
        code = code_fixtures(kernel, kernel + _TO_USER, _CODE_GPA, _CODE)
        return Places(bochs.TABLES, bochs.DATA, code)

    def controls(self, pair: Pair, stage: int) -> int:
        """The format's own, with this processor's MAXPHYADDR."""
        name, shift = (pair.first, longmode.MAXPHYADDR_SHIFT) if stage == 1 else (pair.second, ept.MAXPHYADDR_SHIFT)
        assert name is not None
        return with_physical_bits(by_name(name).default_controls, shift, bochs.PHYSICAL_BITS)

    def tag(self, index: int) -> int:
        """`mov eax, index and a mark; vmcall`: eight bytes."""
        return tag(index, b"\x0f\x01\xc1")

    def allows(self, case: Case, predictions: Predictions) -> npt.NDArray[np.bool_]:
        """Accesses that are made lead into the data, and no table is outside RAM."""
        kind = predictions.status & 0xFF
        return np.where(kind == 0, inside(predictions.hpa, bochs.DATA), kind != FaultKind.TABLE_OUTSIDE_MEMORY)

    def answers(self, machine: Machine, case: Case) -> Answers:
        assert isinstance(machine, BochsMachine)
        assert case.stage_1 is not None
        probes = case.probes
        machine.be(bochs.FIVE_LEVELS if case.stage_1.format.levels == _FIVE else bochs.FOUR_LEVELS)
        shown = _where_writes_go(case, machine.memory)
        asked = probes["address"], probes["value"], kinds(probes)
        results = machine.run(guest(case.stage_1, case.stage_2), *asked, shown=shown)
        outcome, syndrome = results["outcome"], results["syndrome"]
        made = outcome == 0
        reason, exited = outcome & np.uint64(0xFFFF_FFFF), outcome >> np.uint64(32) == bochs.EXITED >> 32
        vector = np.where(reason == EXCEPTION, syndrome[:, bochs.INTERRUPTION] & np.uint64(_VECTOR_MASK), 0)
        violation, misconfigured = exited & (reason == EPT_VIOLATION), exited & (reason == EPT_MISCONFIGURATION)
        exception = exited & (reason == EXCEPTION)
        page_fault = exception & (vector == PAGE_FAULT)
        qualification = syndrome[:, bochs.QUALIFICATION]
        low = np.where(exception, syndrome[:, bochs.ERROR_CODE], 0)
        low = np.where(violation, qualification & ~np.uint64(_undefined(case.stage_2)), low)
        answers = np.zeros(len(probes), ANSWER)
        answers["ok"] = made
        answers["stage"] = np.where(violation | misconfigured, 2, np.where(exception, 1, 0))
        high = reason << np.uint64(_REASON_SHIFT) | np.where(exited, 0, _NO_ENTRY).astype(np.uint64)
        answers["code"] = np.where(made, 0, high | vector.astype(np.uint64) << np.uint64(_VECTOR_SHIFT) | low)
        write = probes["access"] == Access.WRITE
        answers["value"] = np.where(made & ~write, results["value"], 0)
        answers["hpa"] = np.where(made & write & (results["value"] == probes["value"]), shown, 0)
        answers["gva"] = np.where(page_fault, qualification, np.where(violation, syndrome[:, bochs.GUEST_LINEAR], 0))
        answers["gpa"] = np.where(violation | misconfigured, syndrome[:, bochs.GUEST_PHYSICAL], 0)
        return answers

    def expected(self, case: Case, predictions: Predictions) -> Answers:
        assert case.stage_1 is not None
        probes, status = case.probes, predictions.status
        answers = expected_if_made(probes, predictions)
        answers["hpa"] = np.where((status == 0) & (probes["access"] == Access.WRITE), predictions.hpa, 0)
        for found, access, user, these in faults(probes, status):
            _expect_fault(case, predictions, answers, these, found, access, user)
        return answers


def guest(stage_1: Regime, stage_2: Regime) -> Guest:
    """The registers that make a processor translate by two regimes."""
    cr0, cr4, efer = control_registers(stage_1, bochs.CR0, bochs.CR4, bochs.EFER)
    kernel, by_mode = _CODE_KERNEL[stage_1.format.levels], stage_2.controls & ept.MODE_BASED_EXECUTE
    return Guest(
        eptp=family_of(stage_2.format).stage_2_registers(
            stage_2.format, stage_2.root, stage_2.controls, stage_2.identifier or 1
        )["EPTP"],
        cr0=cr0,
        cr3=PageTableBase(stage_1.root).value(),
        cr4=cr4 | (_CR4_LA57 if stage_1.format.levels == _FIVE else 0),
        efer=efer,
        code_kernel=kernel,
        code_user=kernel + _TO_USER,
        secondary=bochs.ENABLE_EPT | (bochs.MODE_BASED_EXECUTE if by_mode else 0),
    )


def _undefined(stage_2: Regime) -> int:
    """Bits of the exit qualification that are not compared."""
    return _ADVANCED | (0 if stage_2.controls & ept.MODE_BASED_EXECUTE else _ALLOWED_USER_FETCH)


def _expect_fault(
    case: Case,
    predictions: Predictions,
    answers: Answers,
    these: npt.NDArray[np.bool_],
    status: int,
    access: Access,
    user: bool,
) -> None:
    assert case.stage_1 is not None
    fault = fault_from_status(status, 0, stage=1, access=access)
    gva, gpa = case.probes["address"][these], predictions.gpa[these]
    answers["stage"][these] = fault.stage
    if fault.stage == 1:
        if fault.kind is FaultKind.ADDRESS_SIZE:
            # Not canonical: a general protection fault with error code 0 (SDM Vol. 1, 3.3.7.1).
            answers["code"][these] = GENERAL_PROTECTION << _VECTOR_SHIFT
            return
        error = page_fault_error(case.stage_1, fault.kind, access, user)
        answers["code"][these] = PAGE_FAULT << _VECTOR_SHIFT | error
        answers["gva"][these] = gva
        return
    answers["gpa"][these] = gpa
    if fault.kind is FaultKind.MISCONFIGURATION:
        answers["code"][these] = EPT_MISCONFIGURATION << _REASON_SHIFT
        return
    answers["gva"][these] = gva
    allowed = _allowed(predictions.tables, case.stage_2, gpa)
    codes = np.zeros(len(gpa), np.uint64)
    second = case.stage_2
    for permissions in np.unique(allowed).tolist():
        report = family_of(second.format).hardware_report(
            second.format, fault, access, 0, 0, permissions, second.controls
        )
        codes[allowed == permissions] = report["exit_qualification"]
    answers["code"][these] = codes | np.uint64(EPT_VIOLATION << _REASON_SHIFT)


def _allowed(tables: PhysicalMemory | None, stage_2: Regime, gpas: U64Array) -> U64Array:
    """What all entries on the way allow together, as `Mapped.permissions` has it; 0 where nothing is mapped."""
    assert tables is not None, "who says what is allowed says so by tables"
    found = translate_batch(host_memory(tables), stage_2, gpas)
    attributes = np.where(found.status == 0, found.attributes, 0).astype(np.uint64)
    allowed: U64Array = attributes & np.uint64(RWX) | (attributes & np.uint64(EXECUTE_USER)) >> np.uint64(5)
    return allowed


def _where_writes_go(case: Case, memory: PhysicalMemory) -> U64Array:
    """The HPA that each write leads to if nothing refuses it, to see whether it got there; 0 where that is no data."""
    assert case.stage_1 is not None
    found = translate_two_stage_batch(
        host_memory(memory), case.stage_1, case.stage_2, case.probes["address"], ahead=False
    )
    shown = inside(found.hpa, bochs.DATA) & (case.probes["access"] == Access.WRITE)
    return np.where(shown, found.hpa & ~np.uint64(7), 0)


ORACLE = BochsEpt()
