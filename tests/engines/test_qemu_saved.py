"""VMs on QEMU's boards are saved while they run, and go on from where they were, there or on another board."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from qemu_guests import EXAMPLES
from riscv_on_qemu import EXAMPLE
from saved_on_qemu import linux, on_a_board, running

import effort
from linux_guest import require_linux
from stage2.config.load import load_vm
from stage2.engines.qemu import arm_saved, riscv_saved
from stage2.errors import EngineError, SnapshotError
from stage2.hypervisor.time import NANOS_PER_MS, TimeValue
from stage2.vm.snapshots.precopy import precopy
from stage2.vm.snapshots.snapshot import Snapshot
from waiting import until

ARCHITECTURES = ("riscv64", "aarch64")


@pytest.fixture(autouse=True)
def boards() -> None:
    for arch in ARCHITECTURES:
        require_linux(f"linux-{arch}")
        if shutil.which(f"qemu-system-{arch}") is None:
            pytest.skip(f"qemu-system-{arch} is not installed")


@pytest.mark.parametrize("arch", ARCHITECTURES if effort.FACTOR > 1 else ARCHITECTURES[1:])
def test_linux_with_two_cpus_goes_on_from_a_snapshot_again_and_on_another_board(arch: str, tmp_path: Path) -> None:
    config = linux(arch)
    file = tmp_path / "linux.snapshot"
    with on_a_board(config, arch) as (vm, machine):
        taken: list[Snapshot] = []
        with running(machine):
            until(lambda: "forks ok" in vm.console.text, "Linux does not come to its forks")
            taken.append(vm.snapshot())
        (moment,) = taken
        console = vm.console.text
        assert "memory work ok" not in console[: moment.state.console_position]
        assert moment.state.machine.more["running"] == [True, True]
        for _ in range(2 if effort.FACTOR > 1 else 1):
            assert "memory work ok" in vm.console.text
            vm.restore(moment)
            assert "memory work ok" not in vm.console.text
            again = vm.snapshot()
            assert not len(again.pages.differing(moment.pages))
            with running(machine):
                pass
        assert "memory work ok" in vm.console.text
        moment.save(file)
    with on_a_board(config, arch) as (vm, machine):
        vm.restore(Snapshot.open(file))
        result = machine.run()
        assert (result.exit, result.reason) == ("off", "the guest asked for shutdown")
        assert "memory work ok" in vm.console.text


@pytest.mark.parametrize("arch", ARCHITECTURES if effort.FACTOR > 1 else ARCHITECTURES[:1])
def test_the_memory_of_a_running_guest_is_copied_in_rounds_and_equal_byte_for_byte(arch: str, tmp_path: Path) -> None:
    file = tmp_path / "linux.copy"
    compared: list[int] = []
    with on_a_board(linux(arch, cpus=1), arch) as (vm, machine), running(machine):
        until(lambda: "stage2-guest: Linux" in vm.console.text, "Linux does not come to user space")

        def compare() -> None:
            now = vm.snapshot(follow=False)
            compared.extend(now.pages.gpas.tolist())
            held.append(now)

        held: list[Snapshot] = []
        report = precopy(vm, file, rounds=4, until=0, then=compare)
    copy = Snapshot.open(file)
    assert len(compared) > 1000
    assert np.array_equal(copy.pages.gpas, held[0].pages.gpas)
    gpas = copy.pages.gpas
    assert np.array_equal(copy.pages.of_gpas(gpas), held[0].pages.of_gpas(gpas))
    assert report.rounds[0].pages > 1000
    assert sum(one.pages for one in report.rounds[1:]) < report.rounds[0].pages


@pytest.mark.parametrize("arch", ARCHITECTURES if effort.FACTOR > 1 else ARCHITECTURES[1:])
def test_a_dirty_log_finds_what_linux_writes(arch: str) -> None:
    with on_a_board(linux(arch, cpus=1), arch) as (vm, machine):
        machine.log_writes(TimeValue(1500 * NANOS_PER_MS))
        with running(machine):
            pass
        assert vm.dirty_log is not None
        report = vm.dirty_log.report
        assert "memory work ok" in vm.console.text
    assert report.harvests > 1
    assert report.pages > 100


def test_a_guest_that_owns_the_boards_controller_is_not_saved_and_says_why() -> None:
    config = load_vm(EXAMPLES / "linux-aarch64.toml")
    owns = "it owns the board's interrupt controller, and nothing else could interrupt it; emulate one (emu_devices)"
    with on_a_board(config, "aarch64") as (vm, machine):
        with pytest.raises(SnapshotError) as caught:
            vm.snapshot()
        assert str(caught.value) == f"VM linux cannot be made to stand still: {owns}"
        with pytest.raises(EngineError) as refused:
            machine.log_writes(TimeValue(NANOS_PER_MS))
        assert str(refused.value) == f"VM linux keeps no dirty log: {owns}"


def test_no_register_of_an_arm_snapshot_leads_anywhere_but_into_the_guest() -> None:
    with on_a_board(linux("aarch64", cpus=1), "aarch64") as (_, machine):
        (values,) = machine.save().cpus
    values = {**values, "spsr": 0x3C5}
    assert arm_saved.problem_of(values) is None
    assert not {"hcr_el2", "vttbr_el2", "elr_el2"} & values.keys()
    for state in (0x3C9, 0x3C8, 0x3CD, 0x1D0, 0x1DA):
        said = f"PSTATE {state:#x} is none of EL0 or EL1 in AArch64 state"
        assert arm_saved.problem_of({**values, "spsr": state}) == said
    assert arm_saved.problem_of({**values, "hcr_el2": 0}) == "it has no hcr_el2"
    assert arm_saved.problem_of({**values, "pc": 1 << 64}) == f"pc cannot be {1 << 64}"


def test_no_register_of_a_riscv_snapshot_leads_anywhere_but_into_the_guest() -> None:
    with on_a_board(load_vm(EXAMPLE), "riscv64") as (vm, machine):
        state = machine.save()
        (values,) = state.cpus
        assert riscv_saved.problem_of(values) is None
        assert "hstatus" not in values
        for name, value, problem in (
            ("hvip", 1 << 12, "hvip cannot be 0x1000"),
            ("vsie", 1 << 2, "vsie cannot be 0x4"),
            ("user", 2, "user cannot be 0x2"),
            ("pc", 1 << 64, f"pc cannot be {1 << 64}"),
            ("vsatp", 15 << 60, f"vsatp {15 << 60:#x}: MODE 15 is reserved; 0 Bare, 8, 9 and 10 are defined"),
        ):
            assert riscv_saved.problem_of({**values, name: value}) == problem
        assert riscv_saved.problem_of({**values, "hgatp": 0}) == "it has no hgatp"
        assert (
            riscv_saved.problem_of({name: 0 for name in values if name != "f31"})
            == "the snapshot does not have its f31"
        )
        snapshot = vm.snapshot()
        assert snapshot.state.machine.started is False
        with pytest.raises(SnapshotError, match="engine unicorn"):
            machine.require(type(state)("unicorn", 0, False, None, state.cpus))
