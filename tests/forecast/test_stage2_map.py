"""The stage-2 map that will be: QEMU's machines against tables written by hand, and a tiny machine for each step."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from opening import or_skip
from stage2.address import Range, align_up
from stage2.config.document import parse_document
from stage2.config.regions import PlannedVm, plan_together, plan_vm
from stage2.config.vm import read_vm
from stage2.forecast.host_memory import reserved
from stage2.forecast.map_ranges import MapRange, RangeKind, Stage2Map
from stage2.forecast.stage2_map import stage2_map
from stage2.images.fdt import parse
from stage2.images.host_tree import HostTree
from stage2.machines.emulator import OWN_QEMU
from trees import CPUS, MACHINES, PACKAGES, board_tree, bus, host_tree, qemu_tree, small_tree
from waiting import HANG_S

GIB = 1 << 30


def vm_file(
    memory: str, devices: str = "passthrough = []\ndisabled = []", base: str = "", kernel: str = ""
) -> PlannedVm:
    """A VM file in the present format, unless `base` and `devices` make it another."""
    entry = memory[1:].split(",")[0]
    text = f"""\
[base]
id = 1
name = "linux"
cpu_num = 1
{base}
[kernel]
entry_point = {entry}
kernel_path = "linux"
kernel_load_addr = {entry}
{kernel}
memory_regions = [{memory}]
[devices]
{devices}
"""
    return plan_vm(read_vm(parse_document(text, "vm.toml")))


def map_of(vm: PlannedVm, arch: str, tree: HostTree | None = None, taken: Sequence[Range] = ()) -> Stage2Map:
    """The map of a VM that is planned on the host of a tree."""
    if tree is not None:
        (vm,) = plan_together([vm], [bank.span for bank in tree.ram], [*reserved(tree), *taken])
    return stage2_map(vm, arch, tree, taken)


def rows(found: Stage2Map) -> list[tuple[int, int, str, int | None, str]]:
    """What the map says, without its reasons: start, end, kind, HPA, whose."""
    return [(piece.span.start, piece.span.end, piece.kind.value, piece.hpa, piece.name) for piece in found.ranges]


def require_whole(found: Stage2Map) -> None:
    """Fail unless the pieces are the window, each with its reason."""
    at = found.window.start
    for piece in found.ranges:
        assert piece.span.start == at
        assert piece.reason
        assert (piece.kind is RangeKind.HOLE) == (not piece.flags)
        at = piece.span.end
    assert at == found.window.end


# --- QEMU's machines -----------------------------------------------------------------------------------------

RISCV_VM = """
[[devices.virtual]]
id = "virtblk0"
model = "virtio-blk"
"""


def riscv_map(folder: Path) -> Stage2Map:
    vm = vm_file(
        "[0x9000_0000, 0x4000_0000, 0x7, 0]",
        'passthrough = []\ndisabled = [{ path = "/soc/pci@30000000" }]' + RISCV_VM,
        'guest_type = "virtualized"\nphys_cpu_ids = [1]',
    )
    return map_of(vm, "riscv64", HostTree.read(qemu_tree("riscv64", folder)))


def arm_map(folder: Path) -> Stage2Map:
    memory = "[0x9000_0000, 0x1000_0000, 0x7, 1]"
    vm = vm_file(memory, base='guest_type = "passthrough"', kernel="dtb_load_addr = 0x9000_0000")
    return map_of(vm, "aarch64", HostTree.read(qemu_tree("aarch64", folder)))


def test_a_virtualized_guest_on_qemus_riscv_machine_has_its_ram_and_holes(tmp_path: Path) -> None:
    found = riscv_map(tmp_path)
    require_whole(found)
    assert found.conflicts == ()
    pci = "/soc/pci@30000000"
    assert rows(found) == [
        (0x0, 0x300_0000, "hole", None, "nothing"),
        (0x300_0000, 0x301_0000, "hole", None, pci),
        (0x301_0000, 0xC00_0000, "hole", None, "nothing"),
        (0xC00_0000, 0xC60_0000, "hole", None, "PLIC"),
        (0xC60_0000, 0x1000_0000, "hole", None, "nothing"),
        (0x1000_0000, 0x1000_1000, "hole", None, "console 16550"),
        (0x1000_1000, 0x1100_0000, "hole", None, "nothing"),
        (0x1100_0000, 0x1100_1000, "hole", None, "virtual device virtblk0 (virtio-blk)"),
        (0x1100_1000, 0x3000_0000, "hole", None, "nothing"),
        (0x3000_0000, 0x4000_0000, "hole", None, pci),
        (0x4000_0000, 0x8000_0000, "hole", None, pci),
        (0x8000_0000, 0x9000_0000, "hole", None, "nothing"),
        (0x9000_0000, 0xD000_0000, "ram", 0x8000_0000, "RAM ram0"),
        (0xD000_0000, 0x4_0000_0000, "hole", None, "nothing"),
        (0x4_0000_0000, 0x8_0000_0000, "hole", None, pci),
        (0x8_0000_0000, 1 << 50, "hole", None, "nothing"),
    ]
    nothing, off = "no file and no tree puts anything here: accesses trap", "of a node that the file disables"
    played = "the hypervisor plays it: every access traps; where the host's"
    assert [piece.reason for piece in found.ranges] == [
        nothing,
        f"the PCI window {off}",
        nothing,
        f"{played} PLIC /soc/plic@c000000 is",
        nothing,
        f"{played} console /soc/serial@10000000 is, which /chosen names",
        nothing,
        "the lowest free page of riscv64's pool [0x11000000, 0x20000000), in order of ids: every access traps",
        nothing,
        f"the registers {off}",
        f"the PCI window {off}",
        nothing,
        "allocated, taken to be the first fit in host RAM at a multiple of 2 MiB",
        nothing,
        f"the PCI window {off}",
        nothing,
    ]


def test_a_passthrough_guest_on_qemus_arm_machine_has_all_but_what_the_hypervisor_plays(tmp_path: Path) -> None:
    found = arm_map(tmp_path)
    require_whole(found)
    assert found.conflicts == ()
    assert [(piece.span.start, piece.span.end, piece.kind.value, piece.hpa) for piece in found.mappings] == [
        (0x0, 0x800_0000, "passthrough", 0x0),
        (0x801_0000, 0x808_0000, "passthrough", 0x801_0000),
        (0x900_1000, 0x4000_0000, "passthrough", 0x900_1000),
        (0x4000_0000, 0x5000_0000, "ram", 0x4000_0000),
        (0x5000_0000, 1 << 44, "passthrough", 0x5000_0000),
    ]
    assert [row for row in rows(found) if row[2] == "hole"] == [
        (0x800_0000, 0x801_0000, "hole", None, "GICD"),
        (0x808_0000, 0x80A_0000, "hole", None, "ITS"),
        (0x80A_0000, 0x900_0000, "hole", None, "GICR"),
        (0x900_0000, 0x900_1000, "hole", None, "console PL011"),
    ]
    every, own = 'guest_type = "passthrough" maps the whole window one to one', "of a node that the guest is given"
    played = "the hypervisor plays it: every access traps; where the host's"
    virtio = [
        (at, at + 0x1000, f"/virtio_mmio@{at:x}",
         f"the registers {own}, one to one, in whole pages ([{at:#x}, {at + 0x200:#x}) are its own)")
        for at in range(0xA00_0000, 0xA00_4000, 0x1000)
    ]  # fmt: skip
    assert [(piece.span.start, piece.span.end, piece.name, piece.reason) for piece in found.ranges] == [
        (0x0, 0x800_0000, "/flash@0", f"the registers {own}, one to one"),
        (0x800_0000, 0x801_0000, "GICD", f"{played} GICv3 /intc@8000000 is"),
        (0x801_0000, 0x808_0000, "the window", every),
        (0x808_0000, 0x80A_0000, "ITS", f"{played} GICv3 /intc@8000000 is"),
        (0x80A_0000, 0x900_0000, "GICR", f"{played} GICv3 /intc@8000000 is"),
        (0x900_0000, 0x900_1000, "console PL011", f"{played} console /pl011@9000000 is, which /chosen names"),
        (0x900_1000, 0x901_0000, "the window", every),
        (0x901_0000, 0x901_1000, "/pl031@9010000", f"the registers {own}, one to one"),
        (0x901_1000, 0x902_0000, "the window", every),
        (
            0x902_0000, 0x902_1000, "/fw-cfg@9020000",
            f"the registers {own}, one to one, in whole pages ([0x9020000, 0x9020018) are its own)",
        ),
        (0x902_1000, 0x903_0000, "the window", every),
        (0x903_0000, 0x903_1000, "/pl061@9030000", f"the registers {own}, one to one"),
        (0x903_1000, 0xA00_0000, "the window", every),
        *virtio,
        (0xA00_4000, 0x1000_0000, "the window", every),
        (0x1000_0000, 0x3F00_0000, "/pcie@10000000", f"the PCI window {own}, one to one"),
        (0x3F00_0000, 0x4000_0000, "the window", every),
        (
            0x4000_0000, 0x5000_0000, "RAM ram0",
            "map_type 1: its address in the file is a placeholder, GPA = HPA is where it is allocated, taken to be the "
            "first fit in host RAM at a multiple of 2 MiB",
        ),
        (0x5000_0000, 0x8000_0000, "host RAM", f"{every}: host RAM that is not this VM's, within its reach"),
        (0x8000_0000, 0x40_1000_0000, "the window", every),
        (0x40_1000_0000, 0x40_2000_0000, "/pcie@10000000", f"the registers {own}, one to one"),
        (0x40_2000_0000, 0x80_0000_0000, "the window", every),
        (0x80_0000_0000, 0x100_0000_0000, "/pcie@10000000", f"the PCI window {own}, one to one"),
        (0x100_0000_0000, 1 << 44, "the window", every),
    ]  # fmt: skip
    assert found.window_reason == "/cpus/cpu@0 is a cortex-a72, which has 44 bits of physical addresses"
    assert found.at(0x5000_0000).reason == (
        'guest_type = "passthrough" maps the whole window one to one: host RAM that is not this VM\'s, within its reach'
    )


_LINE = re.compile(r"^\s+([0-9a-f]{16})-([0-9a-f]{16}) \(prio -?\d+, (?:i/o|ramd|romd|ram|rom|container)\): (.+)$")


def memory_tree(arch: str) -> dict[int, set[int]]:
    """What QEMU's `info mtree` says is where: first address -> the ends of what begins there."""
    program = or_skip(lambda: OWN_QEMU.program(f"qemu-system-{arch}", PACKAGES[arch]))
    firmware = ["-bios", "none"] if arch == "riscv64" else []
    done = subprocess.run(
        [
            *program.command, "-machine", MACHINES[arch], "-cpu", CPUS[arch], "-m", "1G", "-smp", "2", "-display",
            "none", "-S", "-monitor", "stdio", "-serial", "null", *firmware,
        ],
        input="info mtree\nquit\n", text=True, check=True, capture_output=True, timeout=HANG_S,
    )  # fmt: skip
    ends: dict[int, set[int]] = {}
    for line in done.stdout.splitlines():
        if (match := _LINE.match(line)) is not None:
            ends.setdefault(int(match[1], 16), set()).add(int(match[2], 16) + 1)
    return ends


def test_qemus_own_memory_tree_agrees_on_every_device(tmp_path: Path) -> None:
    for arch, found in (("riscv64", riscv_map(tmp_path)), ("aarch64", arm_map(tmp_path))):
        ends = memory_tree(arch)
        devices = [piece for piece in found.ranges if piece.step == 7 or piece.name.startswith("/")]
        assert len(devices) > 5
        for piece in devices:
            reached = {piece.span.start}  # some nodes have several of QEMU's regions, one after the other
            for _ in range(32):
                reached |= {end for start in reached for end in ends.get(start, ()) if end <= piece.span.end}
            # The tree has room for more CPUs' redistributors than there are: two, of two frames of 64 KiB each.
            end = piece.span.start + 2 * 0x2_0000 if piece.name == "GICR" else piece.span.end
            assert end in {align_up(one, 0x1000) for one in reached}, piece


# --- one step after the other ----------------------------------------------------------------------------------


def tree_of(folder: Path, arch: str = "riscv64") -> HostTree:
    return host_tree(folder, small_tree(arch))


def piece_at(found: Stage2Map, gpa: int) -> MapRange:
    piece = found.at(gpa)
    assert piece.span.contains(gpa)
    return piece


@pytest.mark.parametrize(
    ("arch", "bits", "why"),
    [
        ("riscv64", 41, "/cpus/cpu@0 has riscv,sv39, with which a guest's addresses have 41 bits"),
        ("aarch64", 39, "/cpus/cpu@0 is a cortex-a53, for which tables of 3 levels are made"),
    ],
)
def test_the_window_ends_where_the_weakest_cpu_ends(tmp_path: Path, arch: str, bits: int, why: str) -> None:
    found = map_of(vm_file("[0x9000_0000, 0x20_0000, 0x7, 0]"), arch, tree_of(tmp_path, arch))
    assert (found.window, found.window_reason) == (Range(0, 1 << bits), why)
    beyond = found.at(1 << bits)
    assert (beyond.kind, beyond.reason) == (RangeKind.HOLE, f"the VM's addresses end at {1 << bits:#x}: {why}")


def test_only_cpus_that_the_vm_may_run_on_make_its_window_small(tmp_path: Path) -> None:
    root = small_tree()
    second = root.find("cpus/cpu@1")
    assert second is not None
    second.set("mmu-type", "riscv,sv57")
    tree = host_tree(tmp_path, root)
    for base, bits in (("phys_cpu_sets = [2]", 50), ("phys_cpu_ids = [0]", 41), ("", 41)):
        vm = vm_file("[0x9000_0000, 0x20_0000, 0x7, 0]", base=base)
        assert map_of(vm, "riscv64", tree).window.end == 1 << bits


def test_ram_beyond_the_window_is_a_conflict(tmp_path: Path) -> None:
    vm = vm_file("[0x9000_0000, 0x20_0000, 0x7, 0], [0x200_0000_0000, 0x20_0000, 0x7, 0]")
    (conflict,) = map_of(vm, "riscv64", tree_of(tmp_path)).conflicts
    assert conflict.message == (
        "RAM ram1 [0x20000000000, 0x20000200000) is beyond the VM's addresses, which end at 0x20000000000: "
        "/cpus/cpu@0 has riscv,sv39, with which a guest's addresses have 41 bits"
    )


def test_ram_is_placed_at_the_first_2_mib_that_are_not_reserved(tmp_path: Path) -> None:
    root = small_tree()
    kept = root.child("reserved-memory").set("#address-cells", 2).set("#size-cells", 2).set("ranges")
    kept.child("firmware@80000000").set_u64("reg", 0x8000_0000, 0x8_0000).set("no-map")
    tree = host_tree(tmp_path, root, [(0x8040_0000, 0x1000)])
    vm = vm_file("[0x9000_0000, 0x20_0000, 0x7, 0], [0xa000_0000, 0x40_0000, 0x7, 0]")
    found = map_of(vm, "riscv64", tree, taken=[Range(0x8060_0000, 0x8080_0000)])
    assert [(piece.name, piece.hpa, piece.assumed) for piece in found.ranges if piece.kind is RangeKind.RAM] == [
        ("RAM ram0", 0x8020_0000, True), ("RAM ram1", 0x8080_0000, True),
    ]  # fmt: skip


def test_ram_that_the_host_has_no_room_for_is_a_conflict(tmp_path: Path) -> None:
    vm = vm_file("[0x9000_0000, 0x4000_0000, 0x7, 1], [0xe000_0000, 0x20_0000, 0x7, 0]")
    found = map_of(vm, "riscv64", tree_of(tmp_path))
    assert [conflict.message for conflict in found.conflicts] == [
        "RAM ram1 of 2 MiB cannot be had: no stretch of host RAM of that size, aligned to 2 MiB and not reserved, is "
        "free"
    ]


def test_identical_ram_of_the_seed_stays_where_its_file_says(tmp_path: Path) -> None:
    vm = vm_file("[0x9000_0000, 0x20_0000, 0x7, 1]", "emu_devices = []\npassthrough_devices = []", "vm_type = 2")
    found = map_of(vm, "riscv64", tree_of(tmp_path))
    piece = piece_at(found, 0x9000_0000)
    assert (piece.hpa, piece.assumed, piece.flags.short, piece.reason) == (
        0x9000_0000, False, "rwx---", "map_type 1 maps it one to one, at the file's address",
    )  # fmt: skip
    assert found.notices == ()


def test_ram_of_map_type_2_may_be_memory_that_the_tree_reserves(tmp_path: Path) -> None:
    root = small_tree()
    kept = root.child("reserved-memory").set("#address-cells", 2).set("#size-cells", 2).set("ranges")
    kept.child("guest@90000000").set_u64("reg", 0x9000_0000, 0x100_0000)
    vm = vm_file("[0x9000_0000, 0x40_0000, 0x7, 2]")
    found = map_of(vm, "riscv64", host_tree(tmp_path, root))
    assert found.conflicts == ()
    assert piece_at(found, 0x9000_0000).kind is RangeKind.RAM
    rest = piece_at(found, 0x9040_0000)
    assert (rest.kind, rest.step, rest.name, rest.reason) == (
        RangeKind.HOLE, 4, "/reserved-memory/guest@90000000", "memory of the host that is reserved by its device tree",
    )  # fmt: skip


def test_x86_has_holes_for_its_apics_and_the_pool_begins_behind_ram() -> None:
    vm = vm_file(
        "[0x8000_0000, 0x2000_0000, 0x7, 0]",
        'passthrough = []\n[[devices.virtual]]\nid = "net"\nmodel = "virtio-net"\n'
        '[[devices.virtual]]\nid = "blk"\nmodel = "virtio-blk"\ntransport = "pci"\n'
        '[[devices.virtual]]\nid = "console0"\nmodel = "uart16550-pio"',
        kernel='cmdline = "x"',
    )
    found = map_of(vm, "x86_64")
    assert [row for row in rows(found) if row[4] != "nothing"] == [
        (0x8000_0000, 0xA000_0000, "ram", None, "RAM ram0"),
        (0xA000_0000, 0xA000_1000, "hole", None, "virtual device net (virtio-net)"),
        (0xFEC0_0000, 0xFEC0_1000, "hole", None, "I/O APIC"),
        (0xFEE0_0000, 0xFEE0_1000, "hole", None, "local APIC"),
    ]
    assert piece_at(found, 0x8000_0000).reason == (
        "the board's allocator decides where in host memory it is, and no device tree of the host is given"
    )


def test_virtual_devices_go_to_the_pool_in_order_of_their_ids(tmp_path: Path) -> None:
    devices = "".join(f'[[devices.virtual]]\nid = "{name}"\nmodel = "virtio-net"\n' for name in ("z", "a", "m"))
    found = map_of(vm_file("[0x9000_0000, 0x20_0000, 0x7, 0]", devices), "riscv64", tree_of(tmp_path))
    assert [(row[0], row[4]) for row in rows(found) if "virtual" in row[4]] == [
        (0x1100_0000, "virtual device a (virtio-net)"), (0x1100_1000, "virtual device m (virtio-net)"),
        (0x1100_2000, "virtual device z (virtio-net)"),
    ]  # fmt: skip


def test_without_controllers_and_console_in_the_tree_upstreams_defaults_are_taken(tmp_path: Path) -> None:
    vm = vm_file("[0x9000_0000, 0x20_0000, 0x7, 0]")
    found = map_of(vm, "riscv64", tree_of(tmp_path))
    plic, uart = piece_at(found, 0xC00_0000), piece_at(found, 0x1000_0000)
    assert plic.reason == (
        "the hypervisor plays it: every access traps; upstream's default address: the host's tree has none"
    )
    assert (uart.name, uart.span) == ("console 16550", Range(0x1000_0000, 0x1000_1000))


def test_console0_takes_the_place_of_the_machines_console(tmp_path: Path) -> None:
    vm = vm_file("[0x9000_0000, 0x20_0000, 0x7, 0]", '[[devices.virtual]]\nid = "console0"\nmodel = "uart16550-mmio"')
    piece = piece_at(map_of(vm, "riscv64", tree_of(tmp_path)), 0x1000_0000)
    assert (piece.name, [str(place) for place in piece.places]) == ("console0 (uart16550-mmio)", ["vm.toml:13"])


def test_ram_where_the_hypervisor_plays_a_device_is_a_conflict_and_ram_came_first(tmp_path: Path) -> None:
    vm = vm_file("[0x0c00_0000, 0x20_0000, 0x7, 0], [0x9000_0000, 0x40_0000, 0x7, 0]")
    found = map_of(vm, "riscv64", tree_of(tmp_path))
    (conflict,) = found.conflicts
    assert conflict.message == (
        "PLIC [0xc000000, 0xc600000) and RAM ram0 [0xc000000, 0xc200000) both claim [0xc000000, 0xc200000): "
        "upstream refuses the VM"
    )
    assert conflict.overlap == Range(0xC00_0000, 0xC20_0000)
    assert piece_at(found, 0xC00_0000).kind is RangeKind.RAM


def serial_tree(folder: Path) -> HostTree:
    root = small_tree()
    bus(root).child("serial@20000000").set_u64("reg", 0x2000_0000, 0x100)
    bus(root).child("dma@20001000").set_u64("reg", 0x2000_1000, 0x1000)
    return host_tree(folder, root)


def test_a_node_given_to_a_virtualized_guest_is_mapped_in_whole_pages(tmp_path: Path) -> None:
    vm = vm_file("[0x9000_0000, 0x20_0000, 0x7, 0]", 'passthrough = [{ path = "/soc/serial@20000000" }]')
    found = map_of(vm, "riscv64", serial_tree(tmp_path))
    piece = piece_at(found, 0x2000_0000)
    assert (piece.kind, piece.span, piece.hpa, piece.flags.short) == (
        RangeKind.PASSTHROUGH, Range(0x2000_0000, 0x2000_1000), 0x2000_0000, "rw-ud-",
    )  # fmt: skip
    assert piece.reason == (
        "the registers of a node that the guest is given, one to one, in whole pages "
        "([0x20000000, 0x20000100) are its own)"
    )
    assert [str(place) for place in piece.places] == ["vm.toml:13", f"{tmp_path}/host.dtb:/soc/serial@20000000"]
    assert piece_at(found, 0x2000_1000).kind is RangeKind.HOLE


def test_a_disabled_node_is_a_hole_in_what_its_bus_gives(tmp_path: Path) -> None:
    vm = vm_file(
        "[0x9000_0000, 0x20_0000, 0x7, 0]",
        'passthrough = [{ path = "/soc" }]\ndisabled = [{ path = "/soc/dma@20001000" }]',
    )
    found = map_of(vm, "riscv64", serial_tree(tmp_path))
    assert piece_at(found, 0x2000_0000).kind is RangeKind.PASSTHROUGH
    hole = piece_at(found, 0x2000_1000)
    assert (hole.kind, hole.step, hole.reason) == (
        RangeKind.HOLE, 9, "the registers of a node that the file disables",
    )  # fmt: skip


def test_a_node_that_does_not_exist_is_a_conflict_with_what_was_meant(tmp_path: Path) -> None:
    vm = vm_file("[0x9000_0000, 0x20_0000, 0x7, 0]", 'passthrough = [{ path = "/soc/serial@0" }]')
    (conflict,) = map_of(vm, "riscv64", serial_tree(tmp_path)).conflicts
    assert conflict.message == (
        f"'/soc/serial@0': {tmp_path}/host.dtb: has no node '/soc/serial@0' (did you mean /soc/serial@20000000?)"
    )
    assert [str(place) for place in conflict.places] == ["vm.toml:13"]


def test_without_a_tree_a_node_is_named_as_unresolved() -> None:
    vm = vm_file("[0x9000_0000, 0x20_0000, 0x7, 0]", 'passthrough = [{ path = "/soc/serial@0" }]')
    found = map_of(vm, "riscv64")
    assert [str(notice) for notice in found.notices] == [
        "vm.toml:1: base: the window is assumed: tables of 4 levels translate 50 bits, and nothing says what the CPU "
        "has",
        "vm.toml:13: devices.passthrough[0].path: '/soc/serial@0' is a node of the host's device tree, which is not "
        "given: it is unresolved",
    ]


def test_a_console_that_is_given_and_played_is_told(tmp_path: Path) -> None:
    root = small_tree()
    bus(root).child("serial@10000000").set_u64("reg", 0x1000_0000, 0x100)
    root.child("chosen").set("stdout-path", "/soc/serial@10000000")
    vm = vm_file("[0x9000_0000, 0x20_0000, 0x7, 0]", 'passthrough = [{ path = "/soc/serial@10000000" }]')
    found = map_of(vm, "riscv64", host_tree(tmp_path, root))
    assert piece_at(found, 0x1000_0000).kind is RangeKind.HOLE
    assert [notice.text for notice in found.notices] == [
        "'/soc/serial@10000000' is given to the guest, but the hypervisor plays console 16550 there: a hole"
    ]


def test_the_virtual_cpu_interface_of_a_gicv2_is_kept_from_a_passthrough_guest(tmp_path: Path) -> None:
    root = small_tree("aarch64")
    gic = bus(root).child("intc@8000000").set("compatible", "arm,gic-400").set("interrupt-controller")
    gic.set_u64("reg", 0x800_0000, 0x1000, 0x801_0000, 0x2000, 0x803_0000, 0x2000, 0x804_0000, 0x2000)
    vm = vm_file("[0x9000_0000, 0x20_0000, 0x7, 0]", base='guest_type = "passthrough"')
    found = map_of(vm, "aarch64", host_tree(tmp_path, root))
    assert [(row[0], row[4]) for row in rows(found) if row[2] == "hole"] == [
        (0x800_0000, "GICD"), (0x801_0000, "GICC"), (0x803_0000, "GICH"), (0x804_0000, "GICV"),
        (0x900_0000, "console PL011"),
    ]  # fmt: skip


def test_an_older_file_maps_what_it_lists_and_no_machine_around_it(tmp_path: Path) -> None:
    vm = vm_file(
        "[0x9000_0000, 0x20_0000, 0x7, 0]",
        'emu_devices = [["plic", 0xc00_0000, 0x60_0000, 0, 0x30, []]]\n'
        'passthrough_devices = [["uart", 0x2000_0100, 0x3000_0100, 0x100, 5], ["/soc/dma@20001000"]]\n'
        'excluded_devices = [["/soc/serial@20000000"]]',
    )
    found = map_of(vm, "riscv64", serial_tree(tmp_path))
    assert [row for row in rows(found) if row[4] != "nothing"] == [
        (0xC00_0000, 0xC60_0000, "hole", None, "device plic"),
        (0x2000_0000, 0x2000_1000, "hole", None, "/soc/serial@20000000"),
        (0x2000_1000, 0x2000_2000, "passthrough", 0x2000_1000, "/soc/dma@20001000"),
        (0x9000_0000, 0x9020_0000, "ram", 0x8000_0000, "RAM ram0"),
    ]


# --- a board of Debian's --------------------------------------------------------------------------------------


def board_with_memory(folder: Path) -> HostTree:
    """The board's tree with the RAM of its 4 GiB model, which U-Boot writes into it: up to the registers."""
    root = parse(board_tree().read_bytes())
    root.child("memory@200000").set("device_type", "memory").set_u64("reg", 0x20_0000, 0xF000_0000 - 0x20_0000)
    return host_tree(folder, root)


def test_a_passthrough_guest_on_a_board_has_all_but_what_the_hypervisor_plays(tmp_path: Path) -> None:
    # AxVisor's linux-aarch64-rk3568-smp1.toml in the present format. The numbers are the board's: Rockchip RK3568 TRM,
    # "Address Mapping"; its GICD, GICR and UART2. Cortex-A55: 40 bits, so that tables of 3 levels with 39 are made.
    vm = vm_file("[0x8000_0000, 0x6000_0000, 0x7, 1]", base='guest_type = "passthrough"')
    found = map_of(vm, "aarch64", board_with_memory(tmp_path))
    require_whole(found)
    assert found.conflicts == ()
    assert [(piece.span.start, piece.span.end, piece.kind.value, piece.hpa) for piece in found.mappings] == [
        (0x0, 0x20_0000, "passthrough", 0x0),
        (0x20_0000, 0x6020_0000, "ram", 0x20_0000),
        (0x6020_0000, 0xFD40_0000, "passthrough", 0x6020_0000),
        (0xFD41_0000, 0xFD46_0000, "passthrough", 0xFD41_0000),
        (0xFD4E_0000, 0xFE66_0000, "passthrough", 0xFD4E_0000),
        (0xFE66_1000, 1 << 39, "passthrough", 0xFE66_1000),
    ]
    played = "the hypervisor plays it: every access traps; where the host's"
    assert [(*row, found.at(row[0]).reason) for row in rows(found) if row[2] == "hole"] == [
        (0xFD40_0000, 0xFD41_0000, "hole", None, "GICD", f"{played} GICv3 /interrupt-controller@fd400000 is"),
        (0xFD46_0000, 0xFD4E_0000, "hole", None, "GICR", f"{played} GICv3 /interrupt-controller@fd400000 is"),
        (
            0xFE66_0000, 0xFE66_1000, "hole", None, "console PL011",
            f"{played} console /serial@fe660000 is, which /chosen names",
        ),
    ]  # fmt: skip
    own = "the registers of a node that the guest is given, one to one"
    for start, end, name, reason in (
        (0x10_F000, 0x11_0000, "/sram@10f000", f"{own}, in whole pages ([0x10f000, 0x10f100) are its own)"),
        (0xFE01_0000, 0xFE02_0000, "/ethernet@fe010000", own),
        (0xFE31_0000, 0xFE32_0000, "/mmc@fe310000", own),
    ):
        piece = found.at(start)
        assert (piece.span, piece.name, piece.reason) == (Range(start, end), name, reason)
    assert found.window_reason == "/cpus/cpu@0 is a cortex-a55, for which tables of 3 levels are made"
