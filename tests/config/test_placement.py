"""Identical memory since head: its GPA is a placeholder, the allocator decides, and the kernel moves along."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stage2.address import Range
from stage2.cli.main import call
from stage2.config.document import parse_document
from stage2.config.generation import Generation
from stage2.config.load import load_platform, load_vm
from stage2.config.regions import PlannedVm, plan_together, plan_vm
from stage2.config.vm import read_vm
from stage2.errors import ConfigError
from stage2.flags import MapType
from stage2.forecast.placing import on_host

TEXT = """\
[base]
id = {id}
name = "vm{id}"
cpu_num = 1
[kernel]
entry_point = {entry:#x}
kernel_load_addr = {load:#x}
{kernel}
memory_regions = [
{memory}
]
"""
IDENTICAL = "[0x8000_0000, 0x1000_0000, 0x7, 1],"
RAM = Range(0x4000_0000, 0xC000_0000)


def vm_of(
    memory: str = IDENTICAL,
    *,
    kernel: str = "",
    id: int = 1,
    entry: int = 0x8021_0000,
    load: int = 0x8020_0000,
    generation: Generation = Generation.PRESENT,
) -> PlannedVm:
    text = TEXT.format(id=id, entry=entry, load=load, memory=memory, kernel=kernel)
    return plan_vm(read_vm(parse_document(text, f"{id}.toml"), generation))


def spans(vm: PlannedVm) -> list[str]:
    return [f"{region.name} {region.range}" for region in vm.plan.regions]


def notices(vm: PlannedVm) -> list[str]:
    return [str(notice) for notice in vm.notices]


def test_without_a_host_identical_memory_lies_where_it_is_written_if_it_can() -> None:
    vm = vm_of()
    assert spans(vm) == ["ram0 [0x80000000, 0x90000000)"]
    assert vm.plan.is_assumed(vm.plan.regions[0])
    assert notices(vm)[-1] == (
        "1.toml:10: kernel.memory_regions[0]: since head the GPA of identical memory is a placeholder and upstream's "
        "allocator decides: 'ram0' is assumed to lie where it is written, HPA and GPA"
    )


def test_the_seed_has_identical_memory_where_it_is_written_and_nothing_moves() -> None:
    vm = vm_of(generation=Generation.SEED)
    assert (spans(vm), vm.kernel.entry_point) == (["ram0 [0x80000000, 0x90000000)"], 0x8021_0000)
    assert not vm.plan.is_assumed(vm.plan.regions[0])
    assert notices(vm) == []
    assert plan_together([vm], [Range(0x4000_0000, 0xC000_0000)]) == [vm]


@pytest.mark.parametrize("generation", [Generation.HEAD, Generation.TG, Generation.PRESENT])
def test_on_a_host_it_is_the_first_memory_that_fits_outside_what_is_taken(generation: Generation) -> None:
    vm = vm_of(generation=generation)
    (placed,) = plan_together([vm], [RAM], [Range(0x4000_0000, 0x4010_0000), Range(0x4800_0000, 0x4800_1000)])
    assert spans(placed) == ["ram0 [0x48200000, 0x58200000)"]
    (region,) = placed.plan.regions
    assert region.host_range == region.range
    assert placed.kernel.kernel_load_addr == 0x4820_0000
    assert placed.kernel.entry_point == 0x4821_0000
    assert notices(placed) == [
        "1.toml:7: kernel.kernel_load_addr: upstream moves the kernel with 'ram0': it is loaded at 0x48200000 and "
        "entered at 0x48210000; the seed would load it as written",
        "1.toml:10: kernel.memory_regions[0]: since head the GPA of identical memory is a placeholder and upstream's "
        "allocator decides: 'ram0' is assumed to lie at [0x48200000, 0x58200000), HPA and GPA; the seed would have it "
        "at [0x80000000, 0x90000000), as written",
    ]
    assert plan_together([placed], [RAM], [Range(0x4000_0000, 0x5000_0000)])[0].kernel.entry_point == 0x5001_0000


def test_the_same_placeholder_may_be_given_several_times_and_by_several_vms() -> None:
    vms = [vm_of(IDENTICAL * 2), vm_of(id=2)]
    assert spans(vms[0]) == ["ram1 [0x40000000, 0x50000000)", "ram0 [0x80000000, 0x90000000)"]
    first, second = plan_together(vms)
    assert spans(first) == spans(vms[0])
    assert spans(second) == ["ram0 [0x50000000, 0x60000000)"]
    first, second = plan_together(vms, [RAM])
    assert spans(first) == ["ram0 [0x40000000, 0x50000000)", "ram1 [0x50000000, 0x60000000)"]
    assert spans(second) == ["ram0 [0x60000000, 0x70000000)"]


def test_it_keeps_off_everything_else_that_the_vm_has() -> None:
    fixed = "[0x4000_0000, 0x20_0000, 0x7, 0], [0x4040_0000, 0x20_0000, 0x7, 2],"
    (vm,) = plan_together([vm_of(IDENTICAL + fixed)], [RAM])
    assert spans(vm)[-1] == "ram0 [0x40600000, 0x50600000)"
    assert [region.map_type for region in vm.plan.regions][:2] == [MapType.MAP_ALLOC, MapType.MAP_RESERVED]


def test_what_finds_no_room_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        plan_together([vm_of()], [Range(0x4000_0000, 0x4800_0000)])
    assert str(caught.value) == (
        "1.toml:10: kernel.memory_regions[0]: no 0x10000000 bytes in one piece are free in host RAM [0x40000000, "
        "0x48000000) for identical memory 'ram0': make it smaller, or use map_type 0"
    )


@pytest.mark.parametrize(
    ("kernel", "generation", "load"),
    [
        ("enable_bios = true\nbios_load_addr = 0x8000_0000", Generation.PRESENT, 0x8020_0000),
        ("enable_bios = true", Generation.PRESENT, 0x8020_0000),
        ("bios_load_addr = 0x8000_0000", Generation.PRESENT, 0x8000_0000),
        ("bios_load_addr = 0x8000_0000", Generation.HEAD, 0x8020_0000),
        ("", Generation.HEAD, 0x8000_0000),
    ],
)
def test_a_kernel_with_a_bios_before_it_moves_two_mib_further(kernel: str, generation: Generation, load: int) -> None:
    vm = vm_of(kernel=kernel, generation=generation)
    assert (vm.kernel.kernel_load_addr, vm.kernel.entry_point) == (load, load + 0x1_0000)


def test_nothing_moves_where_the_first_region_is_not_identical_or_uefi_starts_the_guest() -> None:
    other = vm_of("[0x8000_0000, 0x100_0000, 0x7, 0],\n[0, 0x100_0000, 0x7, 1],")
    uefi = 'enable_bios = true\nboot_protocol = "uefi"\nbios_path = "u"\nbios_load_addr = 0x8000_0000'
    for vm in (other, vm_of(kernel=uefi)):
        assert (vm.kernel.kernel_load_addr, vm.kernel.entry_point) == (0x8020_0000, 0x8021_0000)
    with pytest.raises(ConfigError, match=r"entry point 0x80210000 is outside the guest's memory; its RAM is \[0x4000"):
        plan_together([vm_of(kernel=uefi)], [RAM])


def test_the_linux_of_x86_lies_as_far_into_the_region_as_its_addresses_say() -> None:
    memory = "[0, 0x800_0000, 7, 1], [0, 0x10_0000, 7, 0],"
    ramdisk = 'ramdisk_path = "r"\nramdisk_load_addr = 0x400_0000'
    vm = vm_of(memory, kernel=ramdisk, entry=0x8000, load=0x20_0000)
    assert spans(vm) == ["ram1 [0x0, 0x100000)", "ram0 [0x40000000, 0x48000000)"]
    assert (vm.kernel.entry_point, vm.kernel.kernel_load_addr) == (0x8000, 0x4020_0000)
    assert vm.kernel.ramdisk is not None
    assert vm.kernel.ramdisk.load_addr == 0x4400_0000


@pytest.mark.parametrize(
    ("generation", "address", "told"),
    [
        (Generation.PRESENT, 0x4400_0000, "9: kernel.ramdisk_load_addr: the ramdisk moves along, to 0x44000000"),
        (Generation.HEAD, None, "9: kernel.ramdisk_load_addr: the ramdisk is to be loaded at 0x84000000, outside the"),
    ],
)
def test_a_ramdisk_moves_along_since_the_present_format(generation: Generation, address: int | None, told: str) -> None:
    vm = vm_of(kernel='ramdisk_path = "r"\nramdisk_load_addr = 0x8400_0000', generation=generation)
    if address is None:
        with pytest.raises(ConfigError, match=told):
            plan_together([vm], [RAM])
        return
    (placed,) = plan_together([vm], [RAM])
    assert placed.kernel.ramdisk is not None
    assert placed.kernel.ramdisk.load_addr == address
    assert any(told in text for text in notices(placed))


def test_upstream_works_out_where_the_device_tree_goes() -> None:
    vm = vm_of(kernel="dtb_load_addr = 0x8800_0000")
    assert vm.kernel.dtb is not None
    assert vm.kernel.dtb.load_addr is None
    assert notices(vm)[1] == (
        "1.toml:8: kernel.dtb_load_addr: not used: upstream puts the device tree into identical memory where it fits"
    )


@pytest.mark.parametrize(
    ("flags", "seed"),
    [(3, "map it rw----"), (0x37, "leave this region out"), (0, "map it ------"), (64, "refuse them")],
)
def test_flags_of_ram_are_not_used_since_head(flags: int, seed: str) -> None:
    vm = vm_of(f"[0x8000_0000, 0x100_0000, {flags}, 0],", generation=Generation.HEAD)
    assert [region.flags.short for region in vm.plan.regions] == ["rwxu--"]
    said = hex(flags) if flags > 9 else str(flags)
    assert notices(vm) == [
        f"1.toml:10: kernel.memory_regions[0][2]: flags {said} are not used since head: RAM is rwxu--; the seed would "
        f"{seed}"
    ]


def test_a_file_that_shows_no_generation_is_read_as_the_seeds_and_that_is_said_where_it_matters() -> None:
    plain = read_vm(parse_document(TEXT.format(id=1, entry=0, load=0, kernel="", memory="[0, 0x1000, 7, 0],"), "v"))
    assert (plain.generation, plain.notices) == (Generation.SEED, ())
    text = TEXT.format(id=1, entry=0, load=0, kernel="", memory="[0, 0x1000, 7, 1],\n[0x1000, 0x1000, 3, 0],")
    assert [str(notice) for notice in read_vm(parse_document(text, "v")).notices] == [
        "v:9: kernel.memory_regions: nothing tells whether this is of the seed or of head, and it is read as the "
        "seed's: since head ram0, ram1 would have other flags or another place; [stage2] generation or --generation "
        "says which it is"
    ]


@pytest.fixture
def platform(tmp_path: Path) -> Path:
    file = tmp_path / "host.toml"
    file.write_text(
        'arch = "riscv64"\nplatform = "p"\n[plat]\nphys-memory-base = 0x4000_0000\nphys-memory-size = 0x8000_0000\n'
        "kernel-base-paddr = 0x4008_0000\n[hypervisor]\nbss-size = 0x40_0000\n"
    )
    return file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "vm.toml"
    file.write_text(TEXT.format(id=1, entry=0x8021_0000, load=0x8020_0000, kernel="", memory=IDENTICAL))
    return file


def test_the_hypervisors_kernel_and_what_is_reserved_are_left_alone(file: Path, platform: Path) -> None:
    vm = load_vm(file, generation=Generation.HEAD)
    host = load_platform(platform)
    assert spans(on_host([vm], host)[0]) == ["ram0 [0x40800000, 0x50800000)"]
    assert spans(on_host([vm], host, [Range(0x4800_0000, 0x4820_0000)])[0]) == ["ram0 [0x48200000, 0x58200000)"]
    assert spans(on_host([vm], None)[0]) == ["ram0 [0x80000000, 0x90000000)"]


def test_the_tables_map_it_where_it_is_assumed_to_lie(
    file: Path, platform: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(file), "--platform", str(platform), "--generation", "head"]
    assert call(["walk", *words, "--gpa", "0x4080_0000", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["result"]["hpa"] == 0x4080_0000
    assert call(["show", *words, "--json"]) == 0
    (vm,) = json.loads(capsys.readouterr().out)["vms"]
    assert [(region["start"], region["assumed"]) for region in vm["regions"]] == [(0x4080_0000, True)]
    assert vm["entry_point"] == 0x4081_0000
    small = platform.read_text().replace("0x8000_0000\nkernel", "0x1000_0000\nkernel")
    platform.write_text(small)
    assert call(["show", *words]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "This VM cannot be run on this host" in shown
    assert "no 0x10000000 bytes in one piece are free in host RAM" in shown
    assert call(["walk", *words, "--gpa", "0"]) == 2
