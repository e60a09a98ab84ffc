"""The qemu engine: RISC-V Linux in VS-mode, by our tables, on QEMU's emulated MMU."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from demo_guest import GUESTS
from riscv_on_qemu import EXAMPLE, KINDS, require_qemu, run, take_board, with_options

import effort
from linux_guest import require_linux
from stage2.address import Gpa
from stage2.config.document import parse_document
from stage2.config.load import load_vm
from stage2.config.regions import PlannedVm, plan_vm
from stage2.config.vm import read_vm
from stage2.engines.qemu.board import board_host, give_cores
from stage2.engines.run import run_all
from stage2.space.region import Populate
from stage2.vm.boot import load_images
from stage2.vm.host import Options, build
from stage2.vm.images import read_images
from stage2.vm.uart16550 import Uart
from stage2.vm.vm import Vm
from waiting import HANG_S, until


@pytest.fixture(autouse=True)
def board() -> None:
    require_qemu()


@pytest.mark.parametrize("kind", KINDS if effort.FACTOR > 1 else KINDS[1:])
def test_linux_boots_to_power_off_with_all_its_memory(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    take_board(kind, monkeypatch)
    require_linux()
    report = run(load_vm(EXAMPLE), Populate.EAGER)
    assert (report.exit, report.reason) == ("off", "the guest asked for shutdown"), report.console[-2000:]
    assert "stage2-guest: memory work ok" in report.console
    assert report.stage2_faults == 0


def test_linux_boots_to_power_off_without_any_memory_to_begin_with() -> None:
    require_linux()
    report = run(load_vm(EXAMPLE), Populate.LAZY)
    assert (report.exit, report.reason) == ("off", "the guest asked for shutdown"), report.console[-2000:]
    assert report.engine == "qemu"
    assert "stage2-guest: memory work ok" in report.console
    assert report.stage2_faults > 5000


WITH_SHELL = """\
[base]
id = 1
name = "shell"
vm_type = 2
cpu_num = 1
arch = "riscv64"
[kernel]
entry_point = 0x8020_0000
image_location = "fs"
kernel_path = "fetched:linux-riscv64"
kernel_load_addr = 0x8020_0000
ramdisk_path = "fetched:linux-riscv64"
cmdline = "quiet console=ttyS0 panic=-1 cryptomgr.notests stage2.init=shell"
memory_regions = [[0x8000_0000, 0x1000_0000, 0x7, 0]]
[devices]
emu_devices = [
    ["plic", 0x0c00_0000, 0x60_0000, 0, 0x1, []],
    ["uart", 0x1000_0000, 0x1000, 10, 0x2, []],
]
passthrough_devices = []
[stage2]
generation = "head"
"""


def test_a_shell_listens_to_an_emulated_uart_that_interrupts_through_an_emulated_plic() -> None:
    require_linux()
    typed: list[threading.Thread] = []

    def prepare(vm: Vm) -> None:
        console, uart = vm.console, vm.bus.device_at(Gpa(0x1000_0000))
        assert isinstance(uart, Uart)

        def type_in() -> None:
            until(lambda: "~ # " in console.text, "no prompt")
            uart.receive(b"/bin/busybox grep ttyS0 /proc/interrupts\r")
            until(lambda: console.text.count("~ # ") > 1, "no answer")
            uart.receive(b"/bin/busybox poweroff -f\r")

        typed.append(threading.Thread(target=type_in, daemon=True))
        typed[0].start()

    report = run(plan_vm(read_vm(parse_document(WITH_SHELL, "shell.toml"))), prepare=prepare)
    assert (report.exit, report.reason) == ("off", "the guest asked for shutdown"), report.console[-2000:]
    (line,) = (line for line in report.console.splitlines() if "SiFive PLIC" in line)
    assert int(line.split()[1]) > 10
    assert report.devices["plic"] > 20


TWO_HARTS = WITH_SHELL.replace("cpu_num = 1", "cpu_num = 2").replace(" stage2.init=shell", "")


def test_two_harts_are_started_interrupt_each_other_and_drop_each_others_translations() -> None:
    require_linux()
    report = run(plan_vm(read_vm(parse_document(TWO_HARTS, "two.toml"))))
    assert report.exit == "off", report.console[-2000:]
    assert "riscv64, 2 cpu," in report.console
    assert "stage2-guest: memory work ok" in report.console


def quiet(config: PlannedVm) -> PlannedVm:
    """With a kernel that prints little: every character is a call of the firmware that we are."""
    return replace(config, kernel=replace(config.kernel, cmdline=f"quiet {config.kernel.cmdline}"))


def test_two_linux_vms_with_a_share_beside_the_hostile_guest_are_isolated_at_each_edit() -> None:
    require_linux()
    files = [EXAMPLE.with_name(f"share-linux-{side}.toml") for side in "ab"]
    configs = [quiet(with_options(load_vm(file), fault_around=0x4_0000)) for file in files]
    configs.append(load_vm(GUESTS / "hostile-riscv64.toml"))
    platform, _ = board_host(configs, "riscv64")
    with build(configs, platform=platform, options=Options(Populate.LAZY, shared_memory=True)) as host:
        give_cores(host)
        for vm, config in zip(host.vms, host.configs, strict=True):
            load_images(vm, config, read_images(config))
        outcome = run_all(host, max_seconds=HANG_S, engine="qemu", paranoid=True)
    writer, reader, hostile = outcome.reports
    assert [report.exit for report in outcome.reports] == ["off"] * 3, writer.console[-1000:] + reader.console[-1000:]
    assert "share: pattern written" in writer.console
    assert "share: 32 words of the other VM ok" in reader.console
    assert hostile.console.splitlines()[-1].startswith("hostile guest: accesses that went through: ")
    assert outcome.proof is not None
    assert outcome.proof.proved_for_cpus
    assert outcome.proofs > 300
    assert writer.stage2_faults < 1000
