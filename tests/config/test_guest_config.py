"""Upstream's present format, `GuestConfig`: what loads, and what is refused with which words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stage2.cli.main import call
from stage2.config.boot import BootProtocol
from stage2.config.devices import InterruptMode
from stage2.config.document import parse_document
from stage2.config.generation import Generation
from stage2.config.guest_config import GuestType
from stage2.config.load import choose_format, load_vm
from stage2.config.regions import plan_vm
from stage2.config.together import check_together
from stage2.config.vm import VmConfig, read_vm
from stage2.errors import ConfigError, ImageError

TEXT = """\
[base]
id = 1
name = "vm"
cpu_num = 1
{base}
[kernel]
entry_point = 0x8020_0000
kernel_load_addr = 0x8020_0000
memory_regions = [[0x8000_0000, 0x100_0000, 7, 0]]
{kernel}
[devices]
{devices}
{more}
"""


def text_of(base: str = "", kernel: str = "", devices: str = "", more: str = "") -> str:
    return TEXT.format(base=base, kernel=kernel, devices=devices, more=more)


def vm_of(base: str = "", kernel: str = "", devices: str = "", more: str = "") -> VmConfig:
    document = parse_document(text_of(base, kernel, devices, more), "vm.toml")
    return read_vm(document, Generation.PRESENT)


def error_of(base: str = "", kernel: str = "", devices: str = "", more: str = "") -> str:
    with pytest.raises(ConfigError) as caught:
        vm_of(base, kernel, devices, more)
    return str(caught.value)


def test_everything_a_guest_config_says_is_understood() -> None:
    vm = vm_of(
        base='guest_type = "passthrough"\nphys_cpu_ids = [2]\nphys_cpu_sets = [4]\ndedicated_cpus = true',
        kernel='cmdline = "quiet"\nimage_location = "fs"\ndtb_load_addr = 0x8000_0000',
        devices='passthrough = [{ path = "/soc/serial@0" }]\ndisabled = [{ path = "/soc/pci@3" }]',
        more='[[devices.virtual]]\nid = "disk@0"\nmodel = "virtio-blk"\npath = "/disk.img"\nfilesystem = "ext4"\n'
        '[[devices.virtual]]\nid = "console0"\nmodel = "pl011-mmio"\nbackend = "host-console"',
    )
    assert (vm.generation, vm.guest_type, vm.vm_type, vm.kind) == (
        Generation.PRESENT,
        GuestType.PASSTHROUGH,
        None,
        "passthrough",
    )
    assert (vm.phys_cpu_ids, vm.phys_cpu_sets, vm.dedicated_cpus) == ((2,), (4,), True)
    assert vm.kernel.boot is not None
    assert vm.kernel.boot.protocol is BootProtocol.DIRECT
    lists = vm.devices
    assert ([node.path for node in lists.nodes], lists.excluded) == (["/soc/serial@0"], ("/soc/pci@3",))
    assert [(device.id, device.model, device.is_console) for device in lists.virtual] == [
        ("disk@0", "virtio-blk", False),
        ("console0", "pl011-mmio", True),
    ]
    assert lists.virtual[0].options == {"path": "/disk.img", "filesystem": "ext4"}
    assert lists.interrupt_mode is InterruptMode.PASSTHROUGH


def test_what_is_left_out_has_upstreams_default() -> None:
    document = parse_document("[kernel]\nmemory_regions = [[0, 0x100_0000, 7, 0]]", "vm.toml")
    vm = read_vm(document, Generation.PRESENT)
    assert (vm.id, vm.name, vm.guest_type, vm.cpu_num) == (0, "vm0", GuestType.VIRTUALIZED, 1)
    assert (vm.kernel.entry_point, vm.kernel.kernel_load_addr) == (0, 0)
    assert vm.devices.interrupt_mode is InterruptMode.EMULATED
    assert [str(notice) for notice in vm.notices] == [
        "vm.toml:1: base: the VM has no name: it is called vm0 here",
        "vm.toml:1: base: the VM has no vCPU (cpu_num is 0 when it is left out) and cannot run: one is taken here",
    ]


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ('guest_type = "virtualized"', GuestType.VIRTUALIZED),
        ("vm_type = 0", GuestType.PASSTHROUGH),
        ("vm_type = 1", GuestType.PASSTHROUGH),
        ("vm_type = 2", GuestType.VIRTUALIZED),
        ("guest_type = 2", GuestType.VIRTUALIZED),
        ('vm_type = "passthrough"', GuestType.PASSTHROUGH),
        ("", GuestType.VIRTUALIZED),
    ],
)
def test_the_old_numbers_and_the_old_key_of_the_guests_type_are_read(said: str, kind: GuestType) -> None:
    assert vm_of(base=said).guest_type is kind


REFUSED = [
    (
        {"base": "cpu_nums = 2"},
        "vm.toml:5: base.cpu_nums: upstream refuses this key, for [base] has none of that name in the present format"
        " (did you mean cpu_num?)",
    ),
    (
        {"base": 'arch = "riscv64"'},
        "vm.toml:5: base.arch: upstream refuses this key, for [base] has none of that name in the present format: "
        'arch is ours: write [stage2] arch = "..." in vm.stage2.toml',
    ),
    (
        {"kernel": 'disk_path = "d"'},
        "vm.toml:10: kernel.disk_path: upstream refuses this key, for [kernel] has none of that name in the present "
        "format: it is gone, a virtio-blk of [[devices.virtual]] takes its place; `stage2 migrate` writes this file in "
        "the present format",
    ),
    (
        {"devices": 'interrupt_mode = "passthrough"'},
        "vm.toml:12: devices.interrupt_mode: upstream refuses this key, for [devices] has none of that name in the "
        "present format: it is gone, [base] guest_type decides; `stage2 migrate` writes this file in the present "
        "format",
    ),
    (
        {"more": "[extra]"},
        "vm.toml:13: extra: upstream refuses this key, for the file has none of that name in the present format: "
        "take it out",
    ),
    (
        {"more": "[stage2]"},
        "vm.toml:13: stage2: is a table of ours, and upstream refuses a file in the present format that has it: "
        "move it to vm.stage2.toml",
    ),
    (
        {"more": '[[region]]\nname = "x"'},
        "vm.toml:13: region: is a table of ours, and upstream refuses a file in the present format that has it: "
        "move it to vm.stage2.toml",
    ),
    (
        {"base": 'guest_type = "linux"'},
        'vm.toml:5: base.guest_type: \'linux\' is none of "virtualized", "passthrough"',
    ),
    (
        {"base": "vm_type = 3"},
        "vm.toml:5: base.vm_type: type 3 does not exist: 0 and 1 mean passthrough, 2 means virtualized; write "
        'guest_type = "passthrough" or "virtualized"',
    ),
    (
        {"base": 'guest_type = "passthrough"\nvm_type = 1'},
        "vm.toml:6: base.vm_type: is the old name of guest_type, which is in line 5 too: keep that one",
    ),
    (
        {"base": "dedicated_cpus = true"},
        "vm.toml:5: base.dedicated_cpus: needs phys_cpu_sets, one mask of host CPUs for each virtual CPU",
    ),
    (
        {"base": "phys_cpu_sets = [0]\ndedicated_cpus = true"},
        "vm.toml:5: base.phys_cpu_sets[0]: mask 0 names no CPU, and dedicated_cpus needs one for each virtual CPU",
    ),
    (
        {"kernel": 'boot_protocol = "uefi"'},
        'vm.toml:10: kernel.boot_protocol: "uefi" and enable_bios, which is not set, contradict each other: set '
        "enable_bios = true",
    ),
    (
        {"kernel": 'enable_bios = true\nboot_protocol = "direct"'},
        'vm.toml:11: kernel.boot_protocol: "direct" and enable_bios, which is true, contradict each other: set '
        "enable_bios = false",
    ),
    (
        {"kernel": 'boot_protocol = "efi"'},
        'vm.toml:10: kernel.boot_protocol: \'efi\' is none of "direct", "multiboot", "uefi" (did you mean uefi?)',
    ),
    (
        {"kernel": 'enable_bios = true\nboot_protocol = "uefi"'},
        'vm.toml:11: kernel.boot_protocol: boot protocol "uefi" needs uefi_firmware_path, the firmware (or bios_path)',
    ),
    (
        {"kernel": 'enable_bios = true\nboot_protocol = "uefi"\nuefi_firmware_path = "u"'},
        'vm.toml:11: kernel.boot_protocol: boot protocol "uefi" needs bios_load_addr, the GPA where the firmware is '
        "put",
    ),
    (
        {"kernel": 'enable_bios = true\nbios_path = "b"'},
        "vm.toml:11: kernel.bios_path: bios_path needs bios_load_addr, the GPA where the BIOS is put",
    ),
    (
        {"devices": 'passthrough = [{ path = "soc/serial" }]'},
        "vm.toml:12: devices.passthrough[0].path: 'soc/serial' is no device-tree path: it begins with a slash",
    ),
    (
        {"devices": 'passthrough = [{ path = "/" }]'},
        'vm.toml:12: devices.passthrough[0].path: "/" is the whole device tree: name a node, or leave the list empty '
        "for everything",
    ),
    (
        {"devices": 'passthrough = [{ path = "/a", irq = 4 }]'},
        "vm.toml:12: devices.passthrough[0].irq: upstream refuses this key, for an entry of passthrough has none of "
        "that name in the present format: take it out",
    ),
    (
        {"devices": 'passthrough = [["/a"]]'},
        "vm.toml:12: devices.passthrough[0]: an array of 1 found, a table wanted",
    ),
    (
        {"devices": 'passthrough = [{ path = "/a" }]\ndisabled = [{ path = "/a" }]'},
        "vm.toml:13: devices.disabled[0].path: '/a' is passed through by vm.toml:12 too: keep one",
    ),
    (
        {"more": '[[devices.virtual]]\nid = "a b"\nmodel = "virtio-net"'},
        "vm.toml:14: devices.virtual[0].id: 'a b' is no id: letters, digits and - _ . @ are allowed",
    ),
    (
        {"more": '[[devices.virtual]]\nid = "a"\nmodel = "Virtio-Net"'},
        "vm.toml:15: devices.virtual[0].model: 'Virtio-Net' is no model: lower-case letters, digits and - . are "
        "allowed",
    ),
    (
        {"more": '[[devices.virtual]]\nid = "a"\nmodel = "virtio-nett"'},
        "vm.toml:15: devices.virtual[0].model: upstream has no model 'virtio-nett' (did you mean virtio-net?): it has "
        "pl011-mmio, uart16550-mmio, uart16550-pio, ivc-channel, virtio-blk, virtio-net",
    ),
    (
        {"more": '[[devices.virtual]]\nmodel = "virtio-net"'},
        "vm.toml:13: devices.virtual[0]: this [[devices.virtual]] has no id: a name of its own",
    ),
    (
        {"more": '[[devices.virtual]]\nid = "a"\nmodel = "virtio-net"\n' * 2},
        "vm.toml:17: devices.virtual[1].id: the id 'a' is taken by vm.toml:13: give each virtual device its own",
    ),
    (
        {"more": '[[devices.virtual]]\nid = "a"\nmodel = "virtio-blk"\nsize = 3'},
        "vm.toml:16: devices.virtual[0].size: virtio-blk has no such option: it has path, filesystem, transport, "
        "backend, capacity, capacity_sectors",
    ),
    (
        {"more": '[[devices.virtual]]\nid = "a"\nmodel = "virtio-net"\nguest_mac = [1, 2]'},
        "vm.toml:16: devices.virtual[0].guest_mac: 2 elements found, an array of 6 bytes wanted",
    ),
    (
        {
            "more": "".join(
                f'[[devices.virtual]]\nid = "{id}"\nmodel = "pl011-mmio"\nbackend = "host-console"\n' for id in "ab"
            )
        },
        "vm.toml:20: devices.virtual[1].backend: 'a' of vm.toml:13 has the backend \"host-console\" already: one "
        "device of a VM may have the host's console",
    ),
]


@pytest.mark.parametrize(("parts", "message"), REFUSED, ids=[message.split(": ")[1] for _, message in REFUSED])
def test_what_upstream_refuses_is_refused_with_its_line_and_what_to_do(parts: dict[str, str], message: str) -> None:
    assert error_of(**parts) == message


@pytest.mark.parametrize(
    "option",
    [
        "irq_id",
        "base_gpa",
        "base_hpa",
        "legacy_base_gpa",
        "legacy_length",
        "mmio_base",
        "pio_base",
        "msi_device_id",
        "msi_event_id",
        "lpi_id",
    ],
)
def test_an_option_that_names_what_upstream_gives_out_is_refused(option: str) -> None:
    assert error_of(more=f'[[devices.virtual]]\nid = "a"\nmodel = "virtio-blk"\n{option} = 3') == (
        f"vm.toml:16: devices.virtual[0].{option}: upstream's planner chooses addresses and interrupts of virtual "
        "devices and refuses this option: leave it out"
    )


FIRMWARE = 'enable_bios = true\nbios_path = "b"\nbios_load_addr = 0x8000_0000'


@pytest.mark.parametrize(
    ("kernel", "arch", "problem"),
    [
        ("", "riscv64", None),
        ('cmdline = ""', "x86_64", None),
        ("", "x86_64", '6: kernel: direct boot on x86_64 needs cmdline, the kernel\'s command line: cmdline = "..."'),
        (FIRMWARE, "x86_64", None),
        (
            FIRMWARE,
            "aarch64",
            '10: kernel.enable_bios: boot protocol "multiboot" is for x86_64 only, and this VM is aarch64: use direct '
            "boot (enable_bios = false)",
        ),
        (FIRMWARE + '\nboot_protocol = "uefi"', "x86_64", None),
        (
            FIRMWARE + '\nboot_protocol = "uefi"',
            "riscv64",
            '13: kernel.boot_protocol: boot protocol "uefi" is for x86_64 and loongarch64 only, and this VM is '
            "riscv64: use direct boot (enable_bios = false)",
        ),
    ],
)
def test_a_boot_protocol_is_of_some_architectures_only(kernel: str, arch: str, problem: str | None) -> None:
    vm = plan_vm(vm_of(kernel=kernel))
    if problem is None:
        choose_format(vm, arch)
        return
    with pytest.raises(ConfigError) as caught:
        choose_format(vm, arch)
    assert str(caught.value) == f"vm.toml:{problem}"


def test_the_firmware_of_uefi_is_named_by_its_own_key_first() -> None:
    both = FIRMWARE + '\nboot_protocol = "uefi"\nuefi_firmware_path = "u"'
    assert [str(vm_of(kernel=text).kernel.bios.path) for text in (FIRMWARE, both)] == ["b", "u"]  # type: ignore[union-attr]


def test_a_bios_is_not_loaded_where_the_kernel_is_started_directly() -> None:
    vm = vm_of(kernel='bios_path = "b"')
    assert vm.kernel.bios is None
    assert [str(notice) for notice in vm.notices] == [
        "vm.toml:10: kernel.bios_path: not used: the kernel is started directly, for enable_bios is not true"
    ]


def test_a_host_cpu_is_dedicated_to_one_vm_only() -> None:
    text = text_of(base="phys_cpu_sets = [{}]\ndedicated_cpus = true").replace("cpu_num", "# cpu_num")
    vms = []
    for number, mask in ((1, 0b0110), (2, 0b1100)):
        one = text.replace("id = 1", f"id = {number}").replace("[{}]", f"[{mask}]").replace('"vm"', f'"vm{number}"')
        vms.append(plan_vm(read_vm(parse_document(one, f"{number}.toml"), Generation.PRESENT)))
    with pytest.raises(ConfigError) as caught:
        check_together(vms)
    assert str(caught.value) == (
        "2.toml:1: base: VM 2 'vm2' and VM 1 'vm1' of 1.toml:1 both have host CPU 2 dedicated to them: give them masks "
        "of different CPUs in phys_cpu_sets"
    )


PATHS = 'kernel_path = "${workspace}/out/${kind}.bin"'


def test_a_variable_of_a_path_is_defined_by_the_caller_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "vm.toml"
    file.write_text(text_of(base='guest_type = "virtualized"', kernel=PATHS))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "linux.bin").touch()
    monkeypatch.setenv("kind", "linux")
    monkeypatch.setenv("workspace", "/nowhere")
    path = load_vm(file, defines={"workspace": str(tmp_path)}).kernel.kernel_path
    assert path is not None
    assert path.resolve() == tmp_path / "out" / "linux.bin"
    assert str(path) == "${workspace}/out/${kind}.bin"


def test_a_variable_without_a_value_is_an_error_once_the_file_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("workspace", raising=False)
    path = vm_of(kernel=PATHS.replace("${kind}", "a")).kernel.kernel_path
    assert path is not None
    assert path.find() is None
    with pytest.raises(ImageError) as caught:
        path.resolve()
    assert str(caught.value) == (
        "vm.toml:10: kernel.kernel_path: nothing says what ${workspace} is: give --define workspace=PATH, or set "
        "workspace in the environment"
    )


def test_our_own_tables_are_read_from_the_file_beside(tmp_path: Path) -> None:
    file = tmp_path / "vm.toml"
    file.write_text(text_of(base='guest_type = "virtualized"'))
    beside = tmp_path / "vm.stage2.toml"
    beside.write_text(
        '[stage2]\narch = "riscv64"\npage_size = "4k"\nodd = 1\n'
        '[[region]]\nname = "more"\ngpa = 0x9000_0000\nsize = 0x1000\n[other]\n'
    )
    vm = load_vm(file)
    assert (vm.generation, vm.arch, vm.options.page_size) == (Generation.PRESENT, "riscv64", 0x1000)
    assert [region.name for region in vm.plan.regions] == ["ram0", "more"]
    assert [str(notice).replace(f"{tmp_path}/", "") for notice in vm.notices] == [
        "vm.stage2.toml:4: stage2.odd: unknown key, ignored",
        "vm.stage2.toml:9: other: unknown key, ignored",
    ]
    with pytest.raises(
        ConfigError, match=r"is tables of ours .*, read with the VM file NAME\.toml beside it; wanted here: a VM "
    ):
        load_vm(beside)


def test_our_own_tables_are_in_one_file_only(tmp_path: Path) -> None:
    file, beside = tmp_path / "vm.toml", tmp_path / "vm.stage2.toml"
    file.write_text(text_of(devices="emu_devices = []", more='[stage2]\npage_size = "4k"'))
    assert load_vm(file).options.page_size == 0x1000
    beside.write_text('[stage2]\narch = "riscv64"\n')
    with pytest.raises(ConfigError) as caught:
        load_vm(file)
    assert str(caught.value) == (
        f"{file}:13: stage2: is a table of ours, and there is {beside} for these: move it there"
    )


@pytest.mark.parametrize(
    ("parts", "generations"),
    [
        ({}, "seed head"),
        ({"base": "vm_type = 2"}, "seed head"),
        ({"devices": "emu_devices = []"}, "seed head"),
        ({"base": 'guest_type = "virtualized"'}, "present"),
        ({"base": "dedicated_cpus = false"}, "present"),
        ({"devices": "passthrough = []"}, "present"),
        ({"devices": "disabled = []"}, "present"),
        ({"more": '[[devices.virtual]]\nid = "a"\nmodel = "virtio-net"'}, "present"),
        ({"kernel": 'boot_protocol = "direct"'}, "present"),
        ({"kernel": 'boot_protocol = "direct"', "devices": "emu_devices = []"}, "tg"),
        ({"base": "dedicated_cpus = false", "devices": 'interrupt_mode = "passthrough"'}, "tg"),
    ],
)
def test_a_file_shows_its_generation_by_keys_that_only_some_have(parts: dict[str, str], generations: str) -> None:
    vm = read_vm(parse_document(text_of(**parts), "vm.toml"))
    assert " ".join(generation.value for generation in vm.generations) == generations


def test_the_callers_generation_goes_before_the_files_and_that_before_what_it_shows() -> None:
    document = parse_document(text_of(devices="passthrough = []", more='[stage2]\ngeneration = "head"'), "vm.toml")
    assert read_vm(document).generations == (Generation.HEAD,)
    assert read_vm(document, Generation.SEED).generations == (Generation.SEED,)


def test_keys_of_two_formats_are_told_for_what_they_are() -> None:
    vm = read_vm(parse_document(text_of(base="dedicated_cpus = false", devices="emu_devices = []"), "vm.toml"))
    assert [str(notice) for notice in vm.notices] == [
        "vm.toml:5: base.dedicated_cpus: known, but not used: it is of the present format, and the device lists are of "
        "one before: upstream refuses a file that has both; `stage2 migrate` writes it in the present format"
    ]


def test_the_commands_take_a_generation_and_definitions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "vm.toml"
    file.write_text(text_of(devices="emu_devices = []"))
    assert call(["show", str(file), "--generation", "present"]) == 2
    assert "devices.emu_devices: upstream refuses this key" in capsys.readouterr().err
    file.write_text(text_of(kernel=PATHS.replace("${kind}", "a"), devices="passthrough = []"))
    assert call(["run", str(file), "--arch", "riscv64", "--define", f"workspace={tmp_path}"]) == 2
    assert f"looked for {tmp_path}/out/a.bin" in capsys.readouterr().err
    assert call(["walk", str(file), "--gpa", "0", "--define", "workspace"]) == 2
    assert capsys.readouterr().err == (
        "stage2: error: --define workspace: NAME=VALUE is wanted, as workspace=/path/to/upstream\n"
    )


def test_show_tells_a_guest_config_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "vm.toml"
    file.write_text(
        text_of(
            base='guest_type = "passthrough"',
            devices='passthrough = [{ path = "/soc/serial@0" }]\ndisabled = [{ path = "/soc/pci@3" }]',
            more='[[devices.virtual]]\nid = "net0"\nmodel = "virtio-net"\nguest_mac = [2, 0, 0, 0, 0, 1]',
        )
    )
    assert call(["show", str(file), "--json"]) == 0
    (vm,) = json.loads(capsys.readouterr().out)["vms"]
    assert (vm["vm_type"], vm["guest_type"], vm["generations"], vm["interrupt_mode"]) == (
        None,
        "passthrough",
        ["present"],
        "passthrough",
    )
    assert [(device["name"], device["kind"]) for device in vm["devices"]] == [
        ("/soc/serial@0", "passthrough"),
        ("net0", "virtual"),
    ]
    assert call(["show", str(file)]) == 0
    text = capsys.readouterr().out
    for told in ("passthrough guest, 1 vCPU", "net0 (virtio-net)", "kept off", "/soc/pci@3 (device tree node)"):
        assert told in text


def test_an_architecture_that_is_said_twice_is_the_same() -> None:
    with pytest.raises(ConfigError) as caught:
        read_vm(parse_document(text_of(base='arch = "riscv64"', more='[stage2]\narch = "x86_64"'), "vm.toml"))
    assert str(caught.value) == "vm.toml:5: base.arch: is riscv64, and [stage2] arch is x86_64: keep one"
