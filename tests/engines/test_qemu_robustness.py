"""Guests on QEMU's AArch64 board that misbehave, or are none: each ends, with a reason that says what it did."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from qemu_guests import require_qemu, run_files

from stage2.engines.qemu.arm import ArmQemu, unhandled
from stage2.engines.qemu.riscv import unhandled as riscv_unhandled
from stage2.errors import FrameError
from stage2.machines.arm_board import Exit, Why
from stage2.machines.core import Core
from stage2.machines.riscv_board import Exit as RiscvExit
from stage2.vm.report import VmReport
from tiny_guests import EAT, EXCLUSIVE, JUMP_AWAY, SPIN, ZEROS, write_image, write_vm

NO_HANDLER = "fetch of GPA 0x200 (hole: no region) at PC 0x200, the guest's own exception vector (VBAR_EL1 0x0), after "


def ran(file: Path) -> VmReport:
    require_qemu()
    (report,) = run_files([file]).reports
    return report


def test_a_guest_that_begins_with_zeros_is_stopped_with_the_undefined_instruction(tmp_path: Path) -> None:
    report = ran(write_vm(tmp_path, "zeros", ZEROS))
    assert (report.exit, report.reason) == (
        "stopped",
        NO_HANDLER + "unknown reason, such as an undefined instruction at PC 0x80000000 (ESR_EL1 0x2000000, FAR_EL1 "
        "0x0): The exception is no memory fault: unknown reason, such as an undefined instruction.",
    )


def test_random_bytes_for_a_kernel_are_stopped_in_a_sentence(tmp_path: Path) -> None:
    image = bytes(4) + random.Random(0).randbytes(100_000)
    report = ran(write_image(tmp_path, "noise", image))
    assert report.exit == "stopped"
    assert report.reason.startswith(NO_HANDLER)


def test_a_guest_whose_access_cannot_be_emulated_is_stopped_with_its_abort(tmp_path: Path) -> None:
    report = ran(write_vm(tmp_path, "exclusive", EXCLUSIVE))
    assert (report.exit, report.reason) == (
        "stopped",
        NO_HANDLER + "data abort from the same exception level at PC 0x80000004 (ESR_EL1 0x96000010, FAR_EL1 "
        "0x10000000): A read of address 0x10000000 failed: external abort, not on a table walk.",
    )


def test_a_guest_that_jumps_away_is_stopped_where_it_went(tmp_path: Path) -> None:
    report = ran(write_vm(tmp_path, "away", JUMP_AWAY))
    assert (report.exit, report.reason) == ("stopped", "fetch of GPA 0x30000000 (hole: no region) at PC 0x30000000")


def test_a_guest_that_wants_more_than_its_limit_is_stopped_with_region_and_figures(tmp_path: Path) -> None:
    report = ran(write_vm(tmp_path, "eater", EAT, stage2="memory_limit = 0x10_0000"))
    assert report.exit == "stopped"
    assert report.reason == (
        "write of GPA 0x8010e000 (out of memory: ram0 [0x80000000, 0x80800000)) at PC 0x80000004; "
        "VM eater holds 0x100000 bytes and may hold 0x100000: 0x1000 more are too many"
    )


def test_an_exception_that_is_not_dealt_with_names_its_registers() -> None:
    # A trapped access to SVE (exception class 0x19), which no board of ours traps.
    exit_ = Exit(Why.EXCEPTION, 0x19 << 26 | 1 << 25, 0x1234, 0x5670, 0x8000_0040, 0x3C5)
    text = unhandled(exit_)
    assert " at PC 0x80000040 (ESR_EL2 0x66000000, FAR_EL2 0x1234, HPFAR_EL2 0x5670): " in text
    assert "SVE" in text
    assert "\n" not in text


def test_an_exception_of_no_known_class_names_its_registers() -> None:
    text = unhandled(Exit(Why.EXCEPTION, 0x3F << 26, 0, 0, 0x8000_0000, 0))
    assert text.startswith(
        "reserved exception class 0x3f at PC 0x80000000 (ESR_EL2 0xfc000000, FAR_EL2 0x0, HPFAR_EL2 0x0): "
    )


def test_a_trap_on_riscv_that_is_not_dealt_with_names_its_registers() -> None:
    fields = {"scause": 2, "stval": 0x13, "htval": 0, "htinst": 0, "pc": 0x8000_0040}
    names = RiscvExit.__dataclass_fields__
    text = riscv_unhandled(RiscvExit(**{name: fields.get(name, 0) for name in names}))
    assert " at PC 0x80000040 (scause 0x2, stval 0x13, htval 0x0, htinst 0x0): " in text


def test_an_engine_that_fails_for_one_vm_ends_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_qemu()
    serve = ArmQemu._serve

    def fails(self: ArmQemu, core: Core) -> tuple[str, str] | None:
        if self.vm.name == "away":
            raise FrameError("nothing left")
        return serve(self, core)

    monkeypatch.setattr(ArmQemu, "_serve", fails)
    files = [write_vm(tmp_path, "spin", SPIN), write_vm(tmp_path, "away", JUMP_AWAY, number=2)]
    with pytest.raises(FrameError, match=r"^nothing left$"):
        run_files(files)
