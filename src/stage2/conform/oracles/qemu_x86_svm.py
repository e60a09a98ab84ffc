"""The oracle of nested paging: QEMU's SVM. Guests in long mode over nested tables, 4 and 5 levels each."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...address import GIB, MIB, Range
from ...errors import EncodingError
from ...flags import RWX, Access
from ...formats import by_name, family_of
from ...formats.outcome import FaultKind
from ...formats.x86 import longmode
from ...formats.x86.registers import PageTableBase
from ...machines import x86_svm
from ...machines.x86_svm import EXIT_GP, EXIT_NPF, EXIT_PF, Guest, X86SvmMachine
from ...tables.batch import translate_two_stage_batch
from ...tables.compiled import host_memory
from ...tables.regime import Regime
from ...tables.result import fault_from_status
from ...tables.walk import AT_STAGE_2
from ..oracle import Case, Machine, Pair, Places, Predictions
from ..probe import ANSWER, Answers
from .emulated import Emulated
from .long_mode import (
    code_fixtures,
    control_registers,
    expected_if_made,
    faults,
    inside,
    kinds,
    nxe,
    page_fault_error,
    tag,
    with_physical_bits,
)

TABLES = Range.sized(0x2800_0000, 16 * MIB)
DATA = Range.sized(0x4000_0000, GIB)
_CODE_GPA = {4: 0x2AAA_AAA0_0000, 5: 0x3_2AAA_AAA0_0000}
_CODE_KERNEL = {4: 0xFFFF_A980_0000_0000, 5: 0xFFA9_8000_0000_0000}
"""Where the guest's code is, by the levels of the format: in entries of the root that little else goes through."""
_CODE_USER = {levels: address + 0x5555_0000 for levels, address in _CODE_KERNEL.items()}
_EXIT_SHIFT = 48
"""A fault's code in an answer is EXITINFO1 with the exit code above it."""
_NO_TAG = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
"""The value of a fetch that found other code than a tag."""
_ID = 1 << 4
_ASID = 1


class QemuX86Svm(Emulated):
    """QEMU's SVM as an oracle."""

    kind, maker = "qemu-x86-svm", "qemu"
    program = X86SvmMachine.PROGRAM, X86SvmMachine.PACKAGE
    title = "QEMU, AMD's SVM and nested paging"
    pairs: tuple[Pair, ...] = tuple(
        Pair(f"{first} over {second}", first, second, ("smep", "smap", "no-wp", "no-nx"), ("no-nx",), weight)
        for first, second, weight in (
            ("x86-4level", "npt4", 2.0),
            ("x86-5level", "npt4", 1.0),
            ("x86-4level", "npt5", 1.0),
            ("x86-5level", "npt5", 1.0),
        )
    )
    translates = False
    translates_by_access = False
    translate_marks = False
    batch = 2000
    unjudged: tuple[str, ...] = (
        "memory types: QEMU caches nothing, so PAT, PCD and PWT change nothing (APM Vol. 2, 15.25.8)",
        "TLB invalidation: QEMU drops all translations at every VMRUN, whatever TLB_CONTROL and the ASID say",
        "GPAs that npt4 has no bits for: QEMU ignores their bits 51:48",
        "tables outside RAM: what an access to nothing answers is the board's business",
        "nested paging under stage 1 turned off: a guest in long mode always has both stages",
    )

    def open(self) -> X86SvmMachine:
        return X86SvmMachine(self.emulator)

    def places(self, machine: Machine, pair: Pair) -> Places:
        code, gpa = x86_svm.GUEST_CODE, _CODE_GPA[by_name(pair.second).levels]
        levels = by_name(pair.first or "").levels
        fixtures = code_fixtures(_CODE_KERNEL[levels], _CODE_USER[levels], gpa, code)
        return Places(TABLES, DATA, fixtures, x86_svm.PHYSICAL_BITS)

    def controls(self, pair: Pair, stage: int) -> int:
        """The controls that cases of a pair start from: those of an AMD processor with this one's MAXPHYADDR."""
        fmt = longmode.X86_4LEVEL if stage == 1 else longmode.NPT4
        amd = fmt.default_controls | longmode.AMD
        return with_physical_bits(amd, longmode.MAXPHYADDR_SHIFT, x86_svm.PHYSICAL_BITS)

    def tag(self, index: int) -> int:
        """`mov eax, index and a mark; ud2`, and a byte to make it eight. QEMU translates no further than UD2."""
        return tag(index, b"\x0f\x0b\xf4")

    def allows(self, case: Case, predictions: Predictions) -> npt.NDArray[np.bool_]:
        """Accesses that are made lead to where cases may be, and faults are such as this processor has."""
        kind = predictions.status & 0xFF
        at_stage_2 = predictions.status & AT_STAGE_2 != 0
        told = (kind != FaultKind.TABLE_OUTSIDE_MEMORY) & ~(at_stage_2 & (kind == FaultKind.ADDRESS_SIZE))
        told &= ~_goes_astray_by_bit_8(case, predictions, kind == FaultKind.MISCONFIGURATION)
        return np.where(kind == 0, inside(predictions.hpa, TABLES, DATA), told)

    def answers(self, machine: Machine, case: Case) -> Answers:
        assert isinstance(machine, X86SvmMachine)
        assert case.stage_1 is not None
        machine.enter(guest(case.stage_1, case.stage_2))
        probes = case.probes
        fetch = probes["access"] == Access.FETCH
        values = np.where(fetch, 0, probes["value"])
        values[fetch] = _landing(machine, case, probes["address"][fetch])
        results = machine.probe(probes["address"], values, kinds(probes))
        outcome, syndrome = results["outcome"], results["syndrome"]
        made, nested, page_fault = outcome == 0, outcome == EXIT_NPF, outcome == EXIT_PF
        # Code that is no tag ends otherwise; only at an address that is not canonical the fetch itself does.
        above = probes["address"].astype(np.int64) >> (case.stage_1.format.input_bits - 1)
        strange = fetch & ~made & ~nested & ~page_fault & ((above == 0) | (above == -1))
        answers = np.zeros(len(probes), ANSWER)
        value = np.where(strange, _NO_TAG, results["value"])
        made |= strange
        answers["ok"] = made
        answers["stage"] = np.where(made, 0, np.where(nested, 2, 1))
        answers["value"] = np.where(made & (probes["access"] != Access.WRITE), value, 0)
        code = outcome << np.uint64(_EXIT_SHIFT) | syndrome[:, 0]
        answers["code"] = np.where(made, 0, code & ~np.where(nested, _undefined(case), np.uint64(0)))
        answers["gva"] = np.where(page_fault, syndrome[:, 1], 0)
        answers["gpa"] = np.where(nested, syndrome[:, 1], 0)
        return answers

    def expected(self, case: Case, predictions: Predictions) -> Answers:
        assert case.stage_1 is not None
        probes, status = case.probes, predictions.status
        answers = expected_if_made(probes, predictions)
        for found, access, user, these in faults(probes, status):
            stage, code, tells_gva = _fault(case.stage_1, case.stage_2, found, access, user)
            answers["stage"][these] = stage
            answers["code"][these] = code if stage == 1 else code & ~int(_undefined(case))
            if tells_gva:
                answers["gva"][these] = probes["address"][these]
            if stage == 2:
                answers["gpa"][these] = predictions.gpa[these]
        return answers


def guest(stage_1: Regime, stage_2: Regime) -> Guest:
    """The registers that make a processor translate by two regimes."""
    nested = family_of(stage_2.format).stage_2_registers(
        stage_2.format, stage_2.root, stage_2.controls, stage_2.identifier or _ASID
    )

    def cr4_of(regime: Regime) -> int:
        return x86_svm.CR4 | (x86_svm.CR4_LA57 if regime.format.levels == 5 else 0)

    cr0, cr4, efer = control_registers(stage_1, x86_svm.CR0, cr4_of(stage_1), x86_svm.EFER)
    return Guest(
        cr0=cr0,
        cr3=PageTableBase(stage_1.root).value(),
        cr4=cr4,
        efer=efer,
        nested_cr3=nested["N_CR3"],
        asid=nested["ASID"],
        host_cr4=cr4_of(stage_2),
        host_efer=x86_svm.EFER | nxe(stage_2),
        code_kernel=_CODE_KERNEL[stage_1.format.levels],
        code_user=_CODE_USER[stage_1.format.levels],
    )


def _goes_astray_by_bit_8(case: Case, predictions: Predictions, these: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which of these probes go on to a table outside memory, or to no data, if bit 8 of an entry means nothing.

    QEMU does not refuse the bit (`known.qemu_x86_svm`). QEMU 10 ends when a nested table is no memory, and a write may
    arrive in tables, or in the monitor.
    """
    found = np.zeros(len(these), np.bool_)
    if not these.any():
        return found
    assert case.stage_1 is not None
    assert predictions.tables is not None
    words = predictions.tables.words
    held = np.flatnonzero(words & np.uint64(longmode.G))
    before = words[held]
    words[held] &= ~np.uint64(longmode.G)
    try:
        walked = translate_two_stage_batch(
            host_memory(predictions.tables), case.stage_1, case.stage_2, case.probes["address"][these], ahead=False
        )
    finally:
        words[held] = before
    outside = walked.status & 0xFF == FaultKind.TABLE_OUTSIDE_MEMORY
    found[these] = outside | (walked.status == 0) & ~inside(walked.hpa, DATA)
    return found


def _undefined(case: Case) -> np.uint64:
    """Bits of EXITINFO1 without meaning: fetches are told apart only where tables can forbid them (APM 8.4.2)."""
    return np.uint64(0 if case.stage_2.controls & longmode.NXE else _ID)


def _landing(machine: X86SvmMachine, case: Case, addresses: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Where fetches are expected to find code, so that QEMU drops what it has translated there; 0 for nowhere."""
    assert case.stage_1 is not None
    found = translate_two_stage_batch(host_memory(machine.memory), case.stage_1, case.stage_2, addresses, ahead=False)
    return np.where(inside(found.hpa, TABLES, DATA) & (found.status == 0), found.hpa & ~np.uint64(7), 0)


def _fault(stage_1: Regime, stage_2: Regime, status: int, access: Access, user: bool) -> tuple[int, int, bool]:
    """Stage, code, and whether the GVA is told, of a fault."""
    fault = fault_from_status(status, 0, stage=1, access=access)
    if fault.stage == 1 and fault.kind is FaultKind.ADDRESS_SIZE:
        # Not canonical: a general protection fault (SDM Vol. 1, 3.3.7.1), with error code 0.
        return 1, EXIT_GP << _EXIT_SHIFT, False
    try:
        if fault.stage == 2:
            # EXITINFO1 does not say what the nested tables allow.
            report = family_of(stage_2.format).hardware_report(stage_2.format, fault, access, None, 0, RWX)
            return 2, EXIT_NPF << _EXIT_SHIFT | report["EXITINFO1"], False
        error = page_fault_error(stage_1, fault.kind, access, user)
        return 1, EXIT_PF << _EXIT_SHIFT | error, True
    except EncodingError:
        # No hardware reports such a fault, so no answer equals this.
        return fault.stage, 0, False


ORACLE = QemuX86Svm()
