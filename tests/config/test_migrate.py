"""Older VM files in upstream's present format: the same VM, the same comments, and a list of what is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from stage2.cli.main import call
from stage2.config.document import parse_document
from stage2.config.generation import Generation
from stage2.config.load import load_vm
from stage2.config.migrate import Migration, migrate
from stage2.config.regions import plan_vm
from stage2.config.vm import read_vm
from stage2.errors import ConfigError

CONFIGS = Path(__file__).parents[2].parent / "shared" / "axvisor-configs"
FILES = sorted(CONFIGS.glob("*/vms/*.toml"))

OLD = """\
# About the VM.
[base]
# Its number.
id = 1 # one
name = "vm"
# 0 host, 1 RTOS, 2 Linux.
vm_type = 1 # RTOS
phys_cpu_sets = [1]

#
# The kernel.
#
[kernel]
entry_point = 0x8020_0000
kernel_load_addr = 0x8020_0000 # here
image_location = "fs"
dtb_path = ""
# The disk.
disk_path = "disk.img"
memory_regions = [
    [0x8000_0000, 0x100_0000, 0x7, 0], # RAM
]

# The devices.
[devices]
# Registers.
passthrough_devices = [
    ["/soc/serial@0"],
    ["uart", 0x900_0000, 0x900_0000, 0x1000, 1],
]
excluded_devices = [["/soc/pci@1"]]
emu_devices = [
    ["disk 0", 0xa00_0000, 0x200, 5, 0xe1, []],
    ["gicd", 0x800_0000, 0x1_0000, 0, 0x21, []],
]
# How interrupts come.
interrupt_mode = "passthrough"
"""
NEW = """\
# About the VM.
[base]
# Its number.
id = 1 # one
name = "vm"
# 0 host, 1 RTOS, 2 Linux.
guest_type = "virtualized"
phys_cpu_sets = [1]
cpu_num = 1

#
# The kernel.
#
[kernel]
entry_point = 0x8020_0000
kernel_load_addr = 0x8020_0000 # here
image_location = "fs"
memory_regions = [
    [0x8000_0000, 0x100_0000, 0x7, 0], # RAM
]

# The devices.
[devices]
passthrough = [{path = "/soc/serial@0"}]
disabled = [{path = "/soc/pci@1"}]

[[devices.virtual]]
id = "disk-0"
model = "virtio-blk"
"""
LOST = [
    "vm.toml:19: kernel.disk_path: gone: a virtual device has the disk now, [[devices.virtual]] with an id, model = "
    "\"virtio-blk\" and path = 'disk.img'",
    "vm.toml:29: devices.passthrough_devices[1]: 'uart' at HPA 0x9000000 is left out: devices are passed through by "
    'their path in the host\'s device tree now, passthrough = [{ path = "/..." }]',
    "vm.toml:33: devices.emu_devices[0]: 'disk 0' (VirtioBlk) at GPA 0xa000000: upstream chooses its address and its "
    "interrupt now",
    "vm.toml:33: devices.emu_devices[0]: 'disk 0' is called 'disk-0' now",
    "vm.toml:34: devices.emu_devices[1]: 'gicd' (GPPTDistributor) is left out: the machine has its own, at an address "
    "of its own",
    "vm.toml:37: devices.interrupt_mode: gone: a virtualized guest has the mode emulated, not passthrough",
]


def migrated(text: str, generation: Generation | None = None, ours: str = "") -> Migration:
    document = parse_document(text, "vm.toml")
    beside = parse_document(ours, "vm.stage2.toml") if ours else None
    return migrate(text, document, read_vm(parse_document(text, "vm.toml"), generation, beside), ours)


def lost(found: Migration) -> list[str]:
    return [str(notice) for notice in found.lost]


def test_a_file_keeps_its_comments_and_says_what_is_lost() -> None:
    found = migrated(OLD)
    assert found.text == NEW
    assert lost(found) == LOST
    assert found.ours == ""


def test_a_file_that_is_migrated_is_in_the_present_format_and_no_other() -> None:
    text = migrated(OLD).text
    assert read_vm(parse_document(text, "new.toml")).generation is Generation.PRESENT
    with pytest.raises(ConfigError) as caught:
        migrated(text)
    assert str(caught.value) == "vm.toml: is in the present format already"


def head(devices: str, *, base: str = "", kernel: str = "", memory: str = "[0, 0x100_0000, 7, 0]") -> str:
    return (
        f'[base]\nid = 1\nname = "vm"\n{base}\n[kernel]\nentry_point = 0x8000\nkernel_load_addr = 0x8000\n'
        f'image_location = "fs"\n{kernel}\nmemory_regions = [{memory}]\n[devices]\n{devices}\n'
    )


def test_a_guest_with_the_whole_device_tree_is_a_passthrough_guest() -> None:
    found = migrated(head('passthrough_devices = [["/"], ["/timer"]]\nexcluded_devices = [["/gic"], ["/pci"]]'))
    assert 'guest_type = "passthrough"' in found.text
    assert "passthrough = []\n" in found.text
    assert 'disabled = [\n    {path = "/gic"},\n    {path = "/pci"},\n]' in found.text
    policy = migrated(head('address_space_policy = "pt"\npassthrough_ports = [[0x60, 1]]'))
    assert 'guest_type = "passthrough"' in policy.text
    assert lost(policy) == [
        "vm.toml:13: devices.passthrough_ports: gone: I/O ports are not passed through by number any more"
    ]


@pytest.mark.parametrize(
    ("arch", "kept", "told"),
    [
        ("", True, []),
        ('arch = "x86_64"', True, []),
        (
            'arch = "riscv64"',
            False,
            ["vm.toml:10: kernel.bios_load_addr: the BIOS is left out: on riscv64 the kernel is started directly"],
        ),
    ],
)
def test_a_bios_needs_to_be_enabled_now(arch: str, kept: bool, told: list[str]) -> None:
    found = migrated(head('interrupt_mode = "no"', base=arch, kernel='bios_path = "b"\nbios_load_addr = 0x8000'))
    assert ("enable_bios = true" in found.text, "bios_path" in found.text) == (kept, kept)
    assert lost(found) == told


def test_the_boot_protocols_of_the_format_before_have_their_names_of_now() -> None:
    kernel = 'enable_bios = true\nboot_protocol = "efi" # UEFI\nbios_path = "b"\nbios_load_addr = 0x8000'
    assert 'boot_protocol = "uefi" # UEFI\n' in migrated(head("emu_devices = []", kernel=kernel)).text


def test_what_seeds_regions_said_and_the_present_ones_do_not_is_told() -> None:
    found = migrated(
        head("", memory="\n[0, 0x100_0000, 7, 1],\n[0x1000_0000, 0x1000, 0x37, 1],\n[0x2000_0000, 0x1000, 1, 0],\n"),
        Generation.SEED,
    )
    assert "[0, 0x100_0000, 7, 1],\n[0x2000_0000, 0x1000, 1, 0]," in found.text
    assert lost(found) == [
        "vm.toml:11: kernel.memory_regions[0]: 'ram0' was at HPA 0x0; now the allocator decides where it is, and the "
        "kernel moves with it (map_type 2 keeps the address, of memory that nobody allocates)",
        "vm.toml:12: kernel.memory_regions[1]: left out: a region with the device bit would be RAM now; upstream "
        "skipped it",
        "vm.toml:13: kernel.memory_regions[2]: the flags r----- are not used any more: RAM is rwxu--",
    ]


def test_unknown_keys_and_a_missing_image_location_are_told() -> None:
    text = head("emu_devices = []", base="cpu_set = 1").replace('image_location = "fs"', "odd = 1") + "[more]\nx = 1\n"
    assert lost(migrated(text, Generation.HEAD)) == [
        "vm.toml:4: base.cpu_set: unknown to upstream: left out",
        'vm.toml:5: kernel: image_location is missing, and upstream needs it: "memory" or "fs"',
        "vm.toml:8: kernel.odd: unknown to upstream: left out",
        "vm.toml:13: more: unknown to upstream: left out",
    ]


OURS = '# Ours.\n[stage2]\npage_size = "4k" # small\n\n[[region]]\nname = "more"\ngpa = 0x9000_0000\nsize = 0x1000\n'


def test_our_own_tables_go_to_the_file_beside() -> None:
    stage2 = OURS.replace("page_size", 'generation = "head"\npage_size')
    found = migrated(head("emu_devices = []", base='arch = "riscv64"') + stage2)
    assert not any(table in found.text for table in ("[stage2]", "[[region]]", "arch"))
    assert found.ours == (
        '[stage2]\npage_size = "4k" # small\narch = "riscv64"\n\n[[region]]\nname = "more"\ngpa = 0x9000_0000\n'
        "size = 0x1000\n"
    )
    assert migrated(head("emu_devices = []"), None, '[stage2]\ngeneration = "head"\n').ours == ""
    assert migrated(head("emu_devices = []"), None, OURS).ours == OURS


def test_the_command_writes_both_files_or_prints_the_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = tmp_path / "old.toml", tmp_path / "new.toml"
    old.write_text(head("emu_devices = []", base='arch = "riscv64"'))
    assert call(["migrate", str(old)]) == 0
    printed = capsys.readouterr()
    assert read_vm(parse_document(printed.out, "new.toml")).generation is Generation.PRESENT
    assert printed.err.splitlines() == [
        f"stage2: {old}:1: nothing tells whether this is of the seed or of head: --generation says it",
        f"stage2: {old}: our own tables belong in NEW.stage2.toml beside NEW.toml: -o writes both",
    ]
    assert call(["migrate", str(old), "-o", str(new), "--generation", "head"]) == 0
    assert capsys.readouterr() == ("", "")
    vm = load_vm(new)
    assert (vm.generation, vm.arch) == (Generation.PRESENT, "riscv64")
    assert call(["migrate", str(new)]) == 2
    assert capsys.readouterr().err == f"stage2: error: {new}: is in the present format already\n"


def test_a_file_beside_the_new_one_that_is_of_something_else_is_not_taken_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new, beside = (tmp_path / name for name in ("old.toml", "new.toml", "new.stage2.toml"))
    old.write_text(head("emu_devices = []"))
    beside.write_text('[stage2]\npage_size = "4k"\n')
    assert call(["migrate", str(old), "-o", str(new)]) == 2
    assert "new.stage2.toml: belongs to the new file by its name, and would be read with it" in capsys.readouterr().err
    assert not new.exists()


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parts[-3]}-{file.stem}")
def test_every_file_of_seed_and_head_is_the_same_vm_in_the_present_format(file: Path) -> None:
    text = file.read_text()
    old = load_vm(file)
    new = migrated(text)
    vm = plan_vm(read_vm(parse_document(new.text, "vm.toml"), Generation.PRESENT))
    assert not [line for line in lost(new) if "is not whole yet" in line]
    for one in (old, vm):
        assert one.plan.regions
    ram = [[(r.start, r.size, r.map_type) for r in one.plan.regions if r.map_type.is_ram] for one in (old, vm)]
    assert ram[0] == ram[1]
    assert (vm.id, vm.name, vm.cpu_num, vm.phys_cpu_ids, vm.phys_cpu_sets) == (
        old.id,
        old.name,
        old.cpu_num,
        old.phys_cpu_ids,
        old.phys_cpu_sets,
    )
    if old.generation.moves_identical:
        assert (vm.kernel.entry_point, vm.kernel.kernel_load_addr) == (
            old.kernel.entry_point,
            old.kernel.kernel_load_addr,
        )
    assert new.text.count("#") >= text.count("#") // 3
