"""The qemu engine: Debian's amd64 kernel and bare-metal guests under SVM, by our nested tables."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from linux_guest import require_linux
from stage2.cli.run import run as run_command
from stage2.config.document import parse_document
from stage2.config.load import load_vm
from stage2.config.platform import PlatformConfig
from stage2.config.regions import PlannedVm, plan_vm
from stage2.config.stage2_format import named_format
from stage2.config.vm import read_vm
from stage2.engines.qemu import x86_host
from stage2.engines.qemu.board import board_host, give_cores, open_machines
from stage2.engines.run import run_all
from stage2.errors import EngineError, HostToolError, OwnerConflictError
from stage2.images.acpi import HPET, IO_APIC, LOCAL_APIC
from stage2.machines.emulator import Emulator
from stage2.machines.x86_board import DOORS, LEGACY_HOLE, OWN, X86Board
from stage2.memory.owners import Owner, OwnerKind
from stage2.memory.physical import PhysicalMemory
from stage2.space.region import Populate
from stage2.vm.boot import load_images
from stage2.vm.host import Options, build
from stage2.vm.images import read_images
from stage2.vm.report import VmReport
from waiting import HANG_S

EXAMPLE = Path(__file__).parents[2] / "examples" / "linux-x86_64.toml"
DEMO = Path(__file__).parents[2] / "src" / "stage2" / "vm" / "guests" / "demo-x86_64.toml"
POWER_OFF = "ba04060000 b800200000 66ef"  # mov $0x604,%edx; mov $0x2000,%eax; out %ax,%dx
HALT = "f4"
GUEST = """\
[base]
id = 1
name = "bare"
vm_type = 1
cpu_num = 1
arch = "x86_64"
[kernel]
entry_point = 0x8000_0000
image_location = "memory"
kernel_path = "bare.bin"
kernel_load_addr = 0x8000_0000
memory_regions = [[0x8000_0000, 0x10_0000, 0x7, 0]]
[stage2]
generation = "seed"
on_violation = "{policy}"
[devices]
emu_devices = [["uart", 0x1000_0000, 0x1000, 10, 0, []]]
"""


@pytest.fixture(autouse=True)
def board() -> None:
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("qemu-system-x86_64 is not installed")


def options(populate: Populate | None = None, page: int | None = None, fmt: str = "npt4") -> Options:
    return Options(populate, page, named_format(fmt), shared_memory=True)


def platform_of(config: PlannedVm) -> PlatformConfig:
    return board_host([config], "x86_64")[0]


def run(
    config: PlannedVm, populate: Populate | None = None, page: int | None = None, *, seconds: float = HANG_S
) -> VmReport:
    with build([config], platform=platform_of(config), options=options(populate, page)) as host:
        give_cores(host)
        load_images(host.vms[0], config, read_images(config))
        (report,) = run_all(host, max_seconds=seconds, engine="qemu").reports
        proof = host.prove()
    assert proof.proved_for_cpus, str(proof)
    return report


def bare(code: str, folder: Path, policy: str = "stop", *, seconds: float = HANG_S) -> VmReport:
    """Run code that begins in 32-bit protected mode, at 0x8000_0000."""
    (folder / "bare.bin").write_bytes(bytes.fromhex(code))
    (folder / "bare.toml").write_text(GUEST.format(policy=policy))
    return run(load_vm(folder / "bare.toml"), seconds=seconds)


@pytest.mark.parametrize("populate", list(Populate), ids=lambda one: one.value)
def test_linux_boots_to_power_off(populate: Populate) -> None:
    require_linux("linux-x86_64")
    report = run(load_vm(EXAMPLE), populate, 4096 if populate is Populate.LAZY else None)
    assert (report.exit, report.reason) == ("off", "the guest asked for shutdown"), report.console[-2000:]
    assert (report.engine, report.format) == ("qemu", "npt4")
    assert "stage2-guest: memory work ok" in report.console
    assert "Hypervisor detected" not in report.console, "it knows none by that name, and finds what it has by itself"
    assert (report.stage2_faults > 5000) is (populate is Populate.LAZY)
    assert not report.violations


def test_the_demo_guest_finds_every_kind_of_region_as_on_the_other_engine() -> None:
    report = run(load_vm(DEMO))
    assert report.console.endswith("demo guest: done\n"), report.console
    assert "FAILED" not in report.console
    assert [(one.access, one.gpa, one.action) for one in report.violations] == [
        ("write", 0x2000_0000, "discarded"), ("read", 0x3000_0008, "injected"), ("fetch", 0x1000_0000, "injected"),
    ]  # fmt: skip


# --- policies ---------------------------------------------------------------------------------------------------------

# mov $1,%eax; mov 0x30000000,%eax; cmp $-1,%eax; jne halt; power off; halt: hlt
READ_HOLE = f"b801000000 a100000030 83f8ff 750d {POWER_OFF} 9090 {HALT}"


def test_a_hole_stops_a_guest(tmp_path: Path) -> None:
    report = bare(READ_HOLE, tmp_path)
    assert (report.exit, report.reason) == ("stopped", "read of GPA 0x30000000 (hole: no region) at PC 0x80000005")


def test_a_read_of_a_hole_that_is_discarded_gets_ones(tmp_path: Path) -> None:
    report = bare(READ_HOLE, tmp_path, "discard")
    assert report.exit == "off", report.reason
    assert [(one.gpa, one.gva, one.action) for one in report.violations] == [(0x3000_0000, 0x3000_0000, "discarded")]


def test_an_injected_fault_is_a_general_protection_fault(tmp_path: Path) -> None:
    """Without an IDT it becomes a double fault and then a shutdown."""
    report = bare(READ_HOLE, tmp_path, "inject")
    assert report.exit == "stopped"
    assert report.reason == "a triple fault at RIP 0x80000005: the guest's IDT leads nowhere"


def test_the_monitors_own_memory_is_a_hole_to_a_guest(tmp_path: Path) -> None:
    mailbox = (OWN.start + 0x10_0000).to_bytes(4, "little").hex()
    report = bare(f"c705{mailbox}01000000 {POWER_OFF}", tmp_path)
    assert report.exit == "stopped"
    assert report.reason.startswith(f"write of GPA {OWN.start + 0x10_0000:#x} (hole: no region)"), report.reason


def test_pages_whose_writes_are_tracked_are_found_and_written_to(tmp_path: Path) -> None:
    """Each takes one fault, whose relaxed entry owes a flush of the ASID."""
    # movl $1,0x80010000; movl $2,0x80012000; movl $3,0x80012000; cmpl $3,0x80012000; jne halt; power off; halt: hlt
    code = f"c7050000018001000000 c7050020018002000000 c7050020018003000000 833d0020018003 750c{POWER_OFF} {HALT}"
    (tmp_path / "bare.bin").write_bytes(bytes.fromhex(code))
    (tmp_path / "bare.toml").write_text(GUEST.format(policy="stop"))
    config = load_vm(tmp_path / "bare.toml")
    with build([config], platform=platform_of(config), options=options(Populate.EAGER, 4096)) as host:
        give_cores(host)
        (vm,) = host.vms
        load_images(vm, config, read_images(config))
        vm.space.track_writes(0x8000_0000, 0x10_0000)
        (report,) = run_all(host, max_seconds=HANG_S, engine="qemu").reports
        written = vm.space.harvest_writes(0x8000_0000, 0x10_0000)
    assert report.exit == "off", report.reason
    assert [page for page, dirty in enumerate(written) if dirty] == [0x10, 0x12]
    assert report.stage2_faults == 2


def test_a_page_that_is_taken_away_is_gone_for_a_guest_that_reads_it_in_a_loop(tmp_path: Path) -> None:
    """Its translation is in the TLB, and nothing but the edit makes the guest exit."""
    # movb $0x4f,%al; mov $0x3f8,%edx; out %al,%dx; 1: mov 0x80010000,%eax; jmp 1b
    (tmp_path / "bare.bin").write_bytes(bytes.fromhex("b04f baf8030000 ee a100000180 ebf9"))
    (tmp_path / "bare.toml").write_text(GUEST.format(policy="stop"))
    config = load_vm(tmp_path / "bare.toml")
    runs = threading.Event()
    with build(
        [config], platform=platform_of(config), options=options(Populate.EAGER, 4096), sink=lambda *_: runs.set()
    ) as host:
        give_cores(host)
        (vm,) = host.vms
        load_images(vm, config, read_images(config))

        def take_away() -> None:
            assert runs.wait(HANG_S)
            time.sleep(0.5)
            vm.space.unmap(0x8001_0000, 0x1000)

        thread = threading.Thread(target=take_away)
        thread.start()
        (report,) = run_all(host, max_seconds=HANG_S, engine="qemu").reports
        thread.join()
    assert (report.exit, report.reason) == ("stopped", "read of GPA 0x80010000 (hole: no region) at PC 0x80000008")


# --- ports ------------------------------------------------------------------------------------------------------------


def test_the_doorbell_is_not_for_a_guest_to_ring(tmp_path: Path) -> None:
    """A hundred writes to each of its ports exit as any other port's do, and read as ones."""
    first, last = DOORS.start.to_bytes(4, "little").hex(), DOORS.end.to_bytes(4, "little").hex()
    # mov $first,%edx; 1: mov $100,%ecx; 2: out %al,%dx; loop 2b; in %dx,%al; cmp $0xff,%al; jne halt; inc %edx;
    # cmp $last,%edx; jne 1b; power off; halt: hlt
    code = f"ba{first} b964000000 ee e2fd ec 3cff 7519 42 81fa{last} 75ea {POWER_OFF} 90909090 {HALT}"
    report = bare(code, tmp_path)
    assert (report.exit, report.reason) == ("off", "the guest asked for shutdown")


def test_a_port_is_emulated_and_its_register_keeps_what_the_access_does_not_reach(tmp_path: Path) -> None:
    """mov $0x55aa0000,%eax; mov $0x604,%edx; in %dx,%ax; cmp $0x55aa0001,%eax; jne halt; power off; halt: hlt."""
    report = bare(f"b80000aa55 ba04060000 66ed 3d0100aa55 750d {POWER_OFF} 9090 {HALT}", tmp_path)
    assert report.exit == "off", report.reason


def test_what_a_guest_prints_on_com1_is_its_console(tmp_path: Path) -> None:
    # mov $0x3f8,%edx; mov $'!',%al; out %al,%dx; power off
    assert bare(f"baf8030000 b021 ee {POWER_OFF}", tmp_path).console == "!"


def test_a_string_instruction_at_an_emulated_port_stops_a_guest(tmp_path: Path) -> None:
    report = bare("baf8030000 6c", tmp_path)  # mov $0x3f8,%edx; insb
    assert report.exit == "stopped"
    assert report.reason == "INS at port 0x3f8, RIP 0x80000005: string instructions reach no emulated port"


# --- what the processor tells -----------------------------------------------------------------------------------------


def test_cpuid_names_the_hypervisor_and_hides_what_is_the_hosts(tmp_path: Path) -> None:
    code = (
        "b800000040 0fa2 81fb53544147 7535"  # leaf 4000_0000: EBX is "STAG"
        "b801000080 0fa2 f7c104000000 7526"  # no SVM,
        "b80a000080 0fa2 09d0 751b"  # and nothing to tell of it
        "b801000000 0fa2 f7c128002000 750c"  # no MONITOR, VMX, x2APIC
        f"{POWER_OFF} {HALT}"
    )
    assert bare(code, tmp_path).exit == "off"


def test_efer_shows_no_svme_and_the_apic_base_takes_its_own_value_only(tmp_path: Path) -> None:
    code = (
        "b9800000c0 0f32 a900100000 752c"  # EFER: SVME is clear;
        "0d01080000 0f30 0f32 3d01080000 751c"  # SCE and NXE can be set
        "b91b000000 0f32 0f30 3d0009e0fe 750c"  # APIC_BASE: written as it was read
        f"{POWER_OFF} {HALT}"
    )
    assert bare(code, tmp_path).exit == "off"


@pytest.mark.parametrize(
    ("code", "rip"),
    [
        ("b9170101c0 0f32", 0x8000_0005),  # RDMSR of VM_HSAVE_PA
        ("b91b000000 b80009d07f 31d2 0f30", 0x8000_000C),  # the local APIC over the monitor's mailbox
        ("b9800000c0 b800200000 31d2 0f30", 0x8000_000C),  # a reserved bit of EFER
    ],
    ids=["VM_HSAVE_PA", "APIC_BASE", "EFER"],
)
def test_other_registers_are_a_general_protection_fault(code: str, rip: int, tmp_path: Path) -> None:
    report = bare(code, tmp_path)
    assert (report.exit, report.reason) == (
        "stopped", f"a triple fault at RIP {rip:#x}: the guest's IDT leads nowhere",
    )  # fmt: skip


# --- devices ----------------------------------------------------------------------------------------------------------


def test_an_emulated_device_is_reached_by_stores_loads_and_tests(tmp_path: Path) -> None:
    """A UART whose LSR is tested and read before each letter."""
    code = (
        "bf00000010"  # mov $0x10000000,%edi
        "f6470520 741e"  # testb $0x20,5(%rdi); jz halt
        "0fb64705 3c60 7516"  # movzbl 5(%edi),%eax; cmp $0x60,%al; jne halt
        "c6074f"  # movb $'O',(%edi)
        "b84b000000 8807"  # mov $'K',%eax; mov %al,(%edi)
        f"{POWER_OFF}"
        f"{HALT}"
    )
    report = bare(code, tmp_path)
    assert (report.exit, report.console) == ("off", "OK"), report.reason
    assert report.devices["uart"] == 4


# --- how it ends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("f4", "HLT at RIP 0x80000000: there is no interrupt that could wake the guest"),
        ("0f0b", "a triple fault at RIP 0x80000000: the guest's IDT leads nowhere"),
        ("0f01d8", "a triple fault at RIP 0x80000000: the guest's IDT leads nowhere"),  # VMRUN is #UD
    ],
    ids=["hlt", "ud2", "vmrun"],
)
def test_a_guest_that_cannot_go_on_is_stopped(code: str, reason: str, tmp_path: Path) -> None:
    report = bare(code, tmp_path)
    assert (report.exit, report.reason) == ("stopped", reason)


def test_tables_of_another_format_are_refused() -> None:
    config = plan_vm(read_vm(parse_document(GUEST.format(policy="stop"), "bare.toml")))
    with build([config], platform=platform_of(config), options=options(fmt="ept4")) as host:
        give_cores(host)
        with pytest.raises(EngineError) as caught:
            open_machines(host)
    assert str(caught.value) == (
        "VM bare: the qemu engine runs x86-64 guests on npt4 tables, not ept4: leave the format out, or give "
        "--stage2-format npt4"
    )


def test_where_a_pc_has_its_display_the_host_has_no_memory_to_give() -> None:
    config = load_vm(DEMO)
    with (
        build([config], platform=platform_of(config), options=options()) as host,
        pytest.raises(OwnerConflictError),
    ):
        host.frames.claim(LEGACY_HOLE, owner=Owner(OwnerKind.VM, "somebody"))


def test_a_guest_in_a_tight_loop_is_stopped_by_the_time_limit(tmp_path: Path) -> None:
    report = bare("ebfe", tmp_path, seconds=1)
    assert (report.exit, report.reason) == ("time limit", "still running after 1 s")


# --- several cores ----------------------------------------------------------------------------------------------------


def test_linux_starts_a_second_cpu(tmp_path: Path) -> None:
    require_linux("linux-x86_64")
    (tmp_path / "linux.toml").write_text(EXAMPLE.read_text().replace("cpu_num = 1", "cpu_num = 2"))
    report = run(load_vm(tmp_path / "linux.toml"))
    assert report.exit == "off", report.console[-2000:]
    assert "smp: Brought up 1 node, 2 CPUs" in report.console
    assert "x86_64, 2 cpu" in report.console
    assert "stage2-guest: memory work ok" in report.console


def test_two_guests_run_side_by_side_and_neither_reaches_the_other(tmp_path: Path) -> None:
    """Both have RAM at the same GPA, write their own letter into it a thousand times, and find no other."""
    configs = []
    for letter in "AB":
        code = (
            f"b9e8030000 bf00000180 c607{ord(letter):02x} 803f{ord(letter):02x} 7517 e2f6"  # store and compare
            f"baf8030000 b0{ord(letter):02x} ee {POWER_OFF} 90 {HALT}"
        )
        (tmp_path / f"{letter}.bin").write_bytes(bytes.fromhex(code))
        text = GUEST.format(policy="stop").replace("bare", letter).replace("id = 1", f"id = {ord(letter)}")
        (tmp_path / f"{letter}.toml").write_text(text)
        configs.append(load_vm(tmp_path / f"{letter}.toml"))
    with build(configs, platform=board_host(configs, "x86_64")[0], options=options()) as host:
        give_cores(host)
        for vm, config in zip(host.vms, configs, strict=True):
            load_images(vm, config, read_images(config))
        reports = run_all(host, max_seconds=HANG_S, engine="qemu").reports
        assert host.prove().proved_for_cpus
        (first, second) = (vm.space.hpa_of(0x8001_0000) for vm in host.vms)
    assert [(one.exit, one.console) for one in reports] == [("off", "A"), ("off", "B")], [one.reason for one in reports]
    assert first != second


def test_who_has_the_local_apics_runs_alone(tmp_path: Path) -> None:
    (tmp_path / "bare.bin").write_bytes(b"\xf4")
    (tmp_path / "bare.toml").write_text(GUEST.format(policy="stop").replace("id = 1", "id = 2"))
    owner = EXAMPLE.read_text().replace("vm_type = 2", "vm_type = 1")
    (tmp_path / "owner.toml").write_text(owner)
    configs = [load_vm(tmp_path / "owner.toml"), load_vm(tmp_path / "bare.toml")]
    with build(configs, platform=board_host(configs, "x86_64")[0], options=options()) as host:
        give_cores(host)
        with pytest.raises(EngineError) as caught:
            open_machines(host)
    assert str(caught.value) == (
        "VM linux is given the cores' local APICs, by which it could stop those of VM bare: run it alone"
    )


# --- upstream's own file ----------------------------------------------------------------------------------------------

UPSTREAM = """\
[base]
id = 1
name = "linux-x86_64-qemu"
guest_type = "passthrough"
cpu_num = 1
phys_cpu_sets = [1]
[kernel]
entry_point = 0x8000
image_location = "fs"
kernel_path = "fetched:linux-x86_64"
ramdisk_path = "fetched:linux-x86_64"
kernel_load_addr = 0x20_0000
enable_bios = false
cmdline = "console=ttyS0"
memory_regions = [
  [0x0000_0000, 0x0800_0000, 0x7, 1],
  [0x0000_0000, 0x0010_0000, 0x7, 0],
]
[devices]
passthrough = []
disabled = []
"""


def test_upstreams_passthrough_guest_is_given_the_boards_devices(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """AxVisor's Linux for x86-64: nothing is added to its file but where the images are."""
    require_linux("linux-x86_64")
    file, told = tmp_path / "linux.toml", tmp_path / "told.json"
    file.write_text(UPSTREAM)
    code = run_command([file], arch="x86_64", max_seconds=HANG_S, json_file=told)
    (vm,) = json.loads(told.read_text())["vms"]
    assert (code, vm["exit"], vm["engine"], vm["format"]) == (0, "off", "qemu", "npt4"), capfd.readouterr()
    given = [region["start"] for region in vm["regions"] if region["map_type"] == "MMIO"]
    assert given == [IO_APIC.start, HPET.start, LOCAL_APIC.start]


# --- either QEMU ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("generation", [7, 10])
def test_either_qemu_runs_a_guest(generation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Chosen(X86Board):
        def __init__(self, memory: PhysicalMemory, **options: Any) -> None:
            super().__init__(memory, emulator=Emulator("qemu", generation), **options)
            assert self.version.startswith(f"{generation}.")

    try:
        Emulator("qemu", generation).program(X86Board.PROGRAM, X86Board.PACKAGE)
    except HostToolError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(x86_host, "X86Board", Chosen)
    assert run(load_vm(DEMO)).console.endswith("demo guest: done\n")


# --- who has the local APIC -------------------------------------------------------------------------------------------

OWNER = (
    GUEST
    + """\
passthrough_devices = [
    ["IO APIC", 0xfec0_0000, 0xfec0_0000, 0x1000, 0],
    ["Local APIC", 0xfee0_0000, 0xfee0_0000, 0x1000, 0],
]
"""
)


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        (0x4_4500, "the guest sent its own CPU an INIT, at RIP "),
        (0x4_4200, "the guest sent its own CPU an SMI, at RIP "),
        (0x4_4400, "a triple fault at RIP "),  # an NMI is the guest's own, and there is no IDT
    ],
    ids=["INIT", "SMI", "NMI"],
)
def test_what_a_guest_sends_to_its_own_cpu_ends_nobody_else(order: int, reason: str, tmp_path: Path) -> None:
    # mov $0x10f,0xfee000f0 (APIC on); mov $order,0xfee00300; 1: jmp 1b
    code = f"c705f000e0fe0f010000 c7050003e0fe{order.to_bytes(4, 'little').hex()} ebfe"
    (tmp_path / "bare.bin").write_bytes(bytes.fromhex(code))
    (tmp_path / "bare.toml").write_text(OWNER.format(policy="stop"))
    report = run(load_vm(tmp_path / "bare.toml"), seconds=20)
    assert report.exit == "stopped", report.reason
    assert report.reason.startswith(reason), report.reason
