"""What a VM file says, in both generations and with our own tables."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stage2.config.devices import InterruptMode
from stage2.config.document import parse_document
from stage2.config.generation import Generation
from stage2.config.images import ImagePath
from stage2.config.load import load_vm
from stage2.config.regions import plan_regions
from stage2.config.vm import VmConfig, VmType, read_vm
from stage2.errors import ConfigError, ImageError
from stage2.flags import MappingFlags, MapType
from stage2.space.region import Populate, ViolationPolicy

FIXTURES = Path(__file__).parent / "fixtures"
EXAMPLES = Path(__file__).parents[2] / "examples"

BASE = """\
[base]
id = 1
name = "vm"
{base}
[kernel]
entry_point = 0x8000_0000
kernel_load_addr = 0x8000_0000
memory_regions = [[0x8000_0000, 0x100_0000, 7, 0]]
{kernel}
[devices]
{devices}
{more}
"""


def vm_of(base: str = "", kernel: str = "", devices: str = "", more: str = "") -> VmConfig:
    text = BASE.format(base=base, kernel=kernel, devices=devices, more=more)
    return read_vm(parse_document(text, "vm.toml"))


def error_of(base: str = "", kernel: str = "", devices: str = "", more: str = "") -> str:
    with pytest.raises(ConfigError) as caught:
        vm_of(base, kernel, devices, more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_seed_file_is_understood() -> None:
    vm = load_vm(FIXTURES / "seed.toml")
    assert (vm.id, vm.name, vm.vm_type, vm.cpu_num) == (7, "old", VmType.RTOS, 2)
    assert (vm.phys_cpu_ids, vm.phys_cpu_sets, vm.arch) == (None, (1, 2), None)
    assert vm.generations == (Generation.SEED,)
    assert [device.type_name for device in vm.devices.emulated] == ["VirtioBlk", "GICR"]
    assert vm.devices.emulated[1].config == (1, 2)
    assert [(r.name, r.map_type, r.flags) for r in vm.memory] == [
        ("ram0", MapType.MAP_ALLOC, MappingFlags(7)),
        ("ram1", MapType.MAP_IDENTICAL, MappingFlags(15)),
    ]
    assert [(i.role, str(i.path), i.load_addr) for i in vm.kernel.images] == [
        ("kernel", "kernel.bin", 0x4008_0000),
        ("dtb", "guest.dtb", 0x4000_0000),
    ]


def test_a_head_file_is_understood() -> None:
    vm = load_vm(FIXTURES / "head.toml")
    assert (vm.id, vm.vm_type, vm.phys_cpu_ids) == (12, VmType.RTOS, (0x500, 0x501))
    assert vm.generations == (Generation.HEAD,)
    assert vm.devices.interrupt_mode is InterruptMode.PASSTHROUGH
    assert [node.path for node in vm.devices.nodes] == ["/"]
    assert [(d.gpa, d.hpa, d.size, d.irq) for d in vm.devices.passthrough] == [(0x1803, 0x9803, 0x1000, 0x17)]
    assert [(d.gpa, d.hpa, d.size) for d in vm.devices.addresses] == [(0x32B3_0000, 0x32B3_0000, 0x1000)]
    assert vm.devices.excluded == ("/pcie@10000000",)
    assert [(d.type_name, d.on_ports) for d in vm.devices.emulated] == [
        ("GPPTDistributor", False),
        ("Console", True),
    ]
    assert vm.kernel.kernel_path is None
    assert vm.kernel.image_location == "memory"
    texts = [str(notice) for notice in vm.notices]
    assert any("base.vm_type: type 0x3e7 is unknown and taken for 1 (RTOS)" in text for text in texts)
    assert any("taken for x86 I/O ports" in text for text in texts)


def test_our_own_tables_are_understood() -> None:
    vm = load_vm(FIXTURES / "extensions.toml")
    assert (vm.options.populate, vm.options.violation) == (Populate.EAGER, ViolationPolicy.INJECT)
    assert vm.options.page_size == 1 << 21
    assert vm.arch == "riscv64"
    main, table, uart, trap = vm.extensions.regions
    assert (main.map_type, main.flags.short, main.populate) == (MapType.MAP_ALLOC, "rwx---", Populate.LAZY)
    assert (table.flags.short, table.violation) == ("r-----", ViolationPolicy.DISCARD)
    assert (uart.map_type, uart.hpa, uart.flags.short) == (MapType.MMIO, 0x2000_0000, "rw--d-")
    assert (trap.map_type, int(trap.flags)) == (MapType.EMULATED, 0)
    assert vm.roms[0].image.fetched == "firmware"
    assert vm.roms[0].on_write is ViolationPolicy.STOP
    assert (vm.shares[0].flags.short, vm.shares[0].peers) == ("rw----", ("theirs",))
    assert vm.notices == ()


def test_the_linux_example_is_what_the_readme_says() -> None:
    vm = load_vm(EXAMPLES / "linux-riscv64.toml")
    assert (vm.id, vm.arch, vm.cpu_num, vm.notices) == (1, "riscv64", 1, ())
    assert vm.kernel.cmdline == "earlycon=sbi console=hvc0 panic=-1 cryptomgr.notests"
    assert vm.kernel.kernel_path is not None
    assert vm.kernel.kernel_path.fetched == "linux-riscv64"
    assert vm.kernel.ramdisk is not None
    assert vm.kernel.ramdisk.load_addr is None
    assert [(r.gpa, r.size, int(r.flags)) for r in vm.memory] == [(0x8000_0000, 256 << 20, 7)]


def test_upstreams_readers_ignore_our_tables() -> None:
    """Our tables are new top-level keys, so a reader that ignores unknown keys sees the same VM without them."""
    plain, extended = vm_of(), vm_of(more='[[region]]\nname = "x"\ngpa = 0\nsize = 0x1000\n[stage2]\n')
    assert plain.memory == extended.memory
    assert plain.devices == extended.devices


@pytest.mark.parametrize(("number", "kind"), [(0, VmType.HOST), (1, VmType.RTOS), (2, VmType.LINUX), (3, VmType.RTOS)])
def test_an_unknown_vm_type_is_rtos_as_upstream(number: int, kind: VmType) -> None:
    vm = vm_of(base=f"vm_type = {number}")
    assert vm.vm_type is kind
    assert len(vm.notices) == (number == 3)


@pytest.mark.parametrize(
    ("word", "mode"),
    [
        ("no_irq", InterruptMode.NO_IRQ),
        ("no", InterruptMode.NO_IRQ),
        ("none", InterruptMode.NO_IRQ),
        ("emulated", InterruptMode.EMULATED),
        ("emu", InterruptMode.EMULATED),
        ("passthrough", InterruptMode.PASSTHROUGH),
        ("pt", InterruptMode.PASSTHROUGH),
    ],
)
def test_interrupt_modes_have_aliases(word: str, mode: InterruptMode) -> None:
    assert vm_of(devices=f'interrupt_mode = "{word}"').devices.interrupt_mode is mode


@pytest.mark.parametrize(
    ("devices", "more", "names"),
    [
        ('emu_devices = [["x", 0x1000_0000, 0x1000, 0, 2, []]]', "", "GPPT or Console"),
        ('emu_devices = [["x", 0x1000_0000, 0x1000, 0, 2, []]]', '[stage2]\ngeneration = "seed"', "GPPT"),
        ('emu_devices = [["x", 0x1000_0000, 0x1000, 0, 2, []]]', '[stage2]\ngeneration = "tg"', "Console"),
        ('emu_devices = [["x", 0x1000_0000, 0x1000, 0, 2, []]]\ninterrupt_mode = "no"', "", "Console"),
        ('emu_devices = [["x", 0x1000_0000, 0x1000, 0, 3, []]]\ninterrupt_mode = "no"', "", "FwCfg"),
        ('emu_devices = [["x", 0x1000_0000, 0x1000, 0, 3, []]]', "", "VirtioBlk"),
        ('emu_devices = [["x", 0x1000_0000, 0x1000, 0, 0xe1, []]]', "", "VirtioBlk"),
        ('emu_devices = [["x", 0x1000_0000, 0x1000, 0, 10, []]]\npassthrough_devices = [["/"]]', "", "IVCChannel"),
        ('emu_devices = [["x", 0, 0, 0, 10, []], ["y", 0, 0, 0, 6, []]]', "", "Meta"),
        ('emu_devices = [["x", 0, 0, 0, 10, []], ["y", 0, 0, 0, 0x23, []]]', "", "IVCChannel"),
        (
            'emu_devices = [["x", 0, 0, 0, 1, []], ["y", 0, 0, 0, 6, []]]\ninterrupt_mode = "no"',
            "",
            "GicdV2 or InterruptController",
        ),
    ],
)
def test_a_device_type_is_named_by_the_files_generation(devices: str, more: str, names: str) -> None:
    vm = vm_of(devices=devices, more=more)
    assert vm.devices.emulated[0].type_name == names
    ambiguous = [notice for notice in vm.notices if "nothing tells which" in notice.text]
    assert bool(ambiguous) == (" or " in names)


@pytest.mark.parametrize(("arch", "ports"), [("", True), ('arch = "x86_64"', True), ('arch = "aarch64"', False)])
def test_low_emulated_devices_are_io_ports_unless_the_architecture_has_none(arch: str, ports: bool) -> None:
    vm = vm_of(base=arch, devices='emu_devices = [["com", 0x3f8, 8, 4, 2, []]]')
    assert vm.devices.emulated[0].on_ports is ports


def test_newer_upstream_keys_are_known_but_not_used() -> None:
    vm = vm_of(
        kernel='enable_bios = true\nboot_protocol = "direct"\nuefi_firmware_path = "x"',
        devices='address_space_policy = "pt"\npassthrough_ports = [[0x60, 1]]\nvirtual = []',
    )
    assert vm.generations == (Generation.TG,)
    assert sorted(notice.place.key for notice in vm.notices) == [
        "devices.address_space_policy",
        "devices.passthrough_ports",
        "devices.virtual",
        "kernel.boot_protocol",
        "kernel.enable_bios",
        "kernel.uefi_firmware_path",
    ]
    assert all("known, but not used: " in notice.text for notice in vm.notices)


def test_unknown_keys_are_reported_with_a_hint() -> None:
    vm = vm_of(base="cpu_set = 2", more="[devcies]\n[[regions]]\n")
    assert [str(notice) for notice in vm.notices] == [
        "vm.toml:4: base.cpu_set: unknown key, ignored (did you mean phys_cpu_sets?)",
        "vm.toml:12: devcies: unknown key, ignored (did you mean devices?)",
        "vm.toml:13: regions: unknown key, ignored (did you mean region?)",
    ]


def test_a_device_region_is_passed_through_and_never_executable() -> None:
    vm = vm_of(more='[[region]]\nname="x"\ngpa=0x1000\nsize=0x1000')
    assert all(region.map_type is not MapType.MMIO for region in vm.memory)
    text = BASE.replace("[[0x8000_0000", "[[0, 0x10_f000, 0x37, 1], [0x8000_0000").format(
        base="", kernel="", devices="", more=""
    )
    device = read_vm(parse_document(text, "vm.toml")).memory[0]
    assert (device.name, device.map_type, device.hpa) == ("device0", MapType.MMIO, 0)
    assert device.flags.short == "rw--dn"


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("[0x8000_0000, 0, 7, 0]", "[0][1]: size 0 is no memory"),
        ("[0x8000_0001, 0x1000, 7, 0]", "[0][0]: 0x80000001 is not a multiple of the page size 0x1000"),
        ("[0x8000_0000, 0x1001, 7, 0]", "[0][1]: 0x1001 is not a multiple of the page size 0x1000"),
        ("[0x8000_0000, 0x4000_0000_0000_0000, 7, 0]", "[0][1]: [0x80000000, 0x4000000080000000) goes beyond"),
        ("[0xffff_ffff_ffff_f000, 0x1000_0000, 7, 0]", "[0][0]: [0xfffffffffffff000, 0x1000000000ffff000) leaves"),
        ("[0x8000_0000, 0xffff_ffff_ffff_f000, 7, 0]", "leaves the 64-bit address space"),
        ("[0x100_0000_0000_0000, 0x1000, 7, 1]", "the widest host physical address space"),
        ("[0x8000_0000, 0x1_0000_0000_0000_0000, 7, 0]", "[0][1]: 0x10000000000000000 is out of range"),
        ("[-4096, 0x1000, 7, 0]", "[0][0]: -0x1000 is out of range"),
        ("[0x8000_0000, 0x1000, 0x40, 0]", "[0][2]: flags 0x40 have bits that mean nothing"),
        ("[0x8000_0000, 0x1000, 0, 0]", "[0][2]: flags 0x0 allow neither read, write nor execute"),
        ("[0x8000_0000, 0x1000, 2, 0]", "[0][2]: flags 0x2 allow write without read"),
        ("[0x8000_0000, 0x1000, 0x17, 0]", "[0][2]: flags 0x17 have the device bit (0x10), but map_type 0"),
        ("[0x8000_0000, 0x1000, 0x14, 1]", "[0][2]: device memory must be readable"),
        ("[0x8000_0000, 0x1000, 7, 3]", "[0][3]: map_type 3 does not exist: 0 is MAP_ALLOC"),
        ("[0x8000_0000, 0x1000, 7]", "[0]: 3 elements found, [gpa, size, flags, map_type] wanted"),
        ("7", "[0]: 7 found, [gpa, size, flags, map_type] wanted"),
    ],
)
def test_a_wrong_memory_region_is_told_at_its_element(entry: str, problem: str) -> None:
    text = BASE.replace("[[0x8000_0000, 0x100_0000, 7, 0]]", f"[\n{entry}\n]")
    with pytest.raises(ConfigError) as caught:
        read_vm(parse_document(text.format(base="", kernel="", devices="", more=""), "vm.toml"))
    assert str(caught.value).startswith("vm.toml:9: kernel.memory_regions[0]")
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("where", "text", "line", "problem"),
    [
        ("base", 'arch = "riscv"', 4, 'base.arch: \'riscv\' is none of "riscv64", "aarch64", "x86_64" (did you mean'),
        ("base", "cpu_num = 0", 4, "base.cpu_num: 0 is out of range"),
        ("base", 'phys_cpu_ids = ["a"]', 4, "base.phys_cpu_ids[0]: 'a' found, an integer wanted"),
        ("kernel", 'bios_path = "b"', 9, "kernel.bios_path: bios_path needs bios_load_addr"),
        ("kernel", 'image_location = "ram"', 9, "kernel.image_location: 'ram' is none of"),
        ("kernel", 'kernel_path = "fetched:"', 9, "kernel.kernel_path: an empty path"),
        ("devices", 'interrupt_mode = "yes"', 11, "devices.interrupt_mode: 'yes' is none of"),
        ("devices", 'passthrough_devices = [["uart"]]', 11, "'uart' is no device-tree path"),
        ("devices", 'passthrough_devices = [["uart", 1, 2]]', 11, "3 elements found, [name, base_gpa, base_hpa"),
        ("devices", 'passthrough_devices = [["u", 0, 0, 0, 1]]', 11, "passthrough_devices[0][3]: size 0 is no memory"),
        (
            "devices",
            'emu_devices = [["u", 0, 0, 0, 0x77, []]]',
            11,
            "emu_devices[0][4]: device type 0x77 does not exist",
        ),
        ("devices", 'emu_devices = [["u", 0, 0, 0]]', 11, "4 elements found"),
        ("devices", "passthrough_addresses = [[0]]", 11, "1 elements found, [base_gpa, length] wanted"),
        ("devices", 'excluded_devices = ["/x"]', 11, "excluded_devices[0]: '/x' found"),
        ("more", "[[region]]\ngpa = 0", 12, "region[0]: this [[region]] has no name"),
        ("more", '[[region]]\nname = "a"\ngpa = 0\nsize = 0x1000\ntype = "rom"', 16, "write [[rom]]"),
        ("more", '[[region]]\nname = "a"\ngpa = 0\nsize = 0x1000\nflags = "rq"', 16, 'letters of "rwxudn"'),
        ("more", '[[region]]\nname = "a"\ngpa = 0\nsize = 0x1000\nhpa = 0', 16, 'only a region of type "mmio"'),
        (
            "more",
            '[[region]]\nname = "a"\ngpa = 0\nsize = 0x1000\ntype = "mmio"\nflags = "rx"',
            17,
            "not be executable",
        ),
        ("more", '[[region]]\nname = "a"\ngpa = 0\nsize = 0x1000\ntype = "emulated"\nflags = "r"', 17, "has no flags"),
        ("more", '[[region]]\nname = "a"\ngpa = 0\nsize = 0x1000\ntype = "mmio"\npopulate = "lazy"', 17, "get frames"),
        ("more", '[[region]]\nname = "a"\ngpa = 0\nsize = 0x1000\nflags = "rwd"', 16, "RAM is no device"),
        ("more", '[[rom]]\nname = "a"\ngpa = 0\nsize = 0x1000', 12, "has no image"),
        ("more", '[[rom]]\nname = "a"\ngpa = 0\nsize = 0x1000\nimage = "i"\nflags = "rw"', 17, "read-only memory"),
        ("more", '[[share]]\nname = "a"\ngpa = 0\nsize = 0x1000\naccess = "rwx"\npeers = [2]', 16, "is none of"),
        ("more", '[[share]]\nname = "a"\ngpa = 0\nsize = 0x1000\naccess = "r"\npeers = []', 17, "needs another VM"),
        ("more", '[stage2]\npage_size = "3m"', 13, "is none of"),
    ],
)
def test_a_wrong_value_is_told_with_line_key_and_what_is_allowed(
    where: str, text: str, line: int, problem: str
) -> None:
    message = error_of(**{where: text})
    assert message.startswith(f"vm.toml:{line}: ")
    assert problem in message


def test_two_declarations_cannot_have_one_name() -> None:
    twice = '[[region]]\nname = "a"\ngpa = 0\nsize = 0x1000\n[[rom]]\nname = "a"\ngpa = 0x1000\nimage = "x"'
    assert "vm.toml:16: rom[0]: the name 'a' is taken by vm.toml:12" in error_of(more=twice)


def test_a_vm_without_memory_is_refused() -> None:
    text = BASE.replace("memory_regions = [[0x8000_0000, 0x100_0000, 7, 0]]", "")
    with pytest.raises(ConfigError, match=r"vm\.toml:5: kernel: the VM has no memory"):
        read_vm(parse_document(text.format(base="", kernel="", devices="", more=""), "vm.toml"))


def test_an_image_is_looked_for_beside_its_file_and_then_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, here = tmp_path / "beside", tmp_path / "here"
    beside.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    item = parse_document('\nx = "k.bin"', "f.toml", beside).root.need("x")
    image = ImagePath.read(item)
    with pytest.raises(ImageError, match=r"^f\.toml:2: x: image not found: looked for .*beside/k\.bin and k\.bin$"):
        image.resolve()
    (here / "k.bin").touch()
    assert image.resolve() == Path("k.bin")
    (beside / "k.bin").touch()
    assert image.resolve() == beside / "k.bin"


def test_a_fetched_image_is_a_reference_and_no_file() -> None:
    image = ImagePath.read(parse_document('x = "fetched:linux"', "f.toml").root.need("x"))
    assert (image.fetched, image.candidates, image.find()) == ("linux", (), None)
    with pytest.raises(ImageError, match="run `stage2 fetch linux`"):
        image.resolve()


def test_reading_a_configuration_imports_no_number_crunching() -> None:
    code = (
        "import sys, stage2.config.load, stage2.render.config_json; "
        "sys.exit(bool({'numpy', 'numba'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_examples_of_the_documentation_load() -> None:
    text = (EXAMPLES.parent / "docs" / "configuration.md").read_text()
    smallest, example = (part.split("```")[0] for part in text.split("```toml\n")[1:3])
    assert read_vm(parse_document(smallest, "docs.toml")).notices == ()
    vm = read_vm(parse_document(example, "docs.toml"))
    assert vm.notices == ()
    assert [region.name for region in plan_regions(vm).regions] == ["firmware", "ram0", "dma", "ring"]
