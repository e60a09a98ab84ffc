"""Building VMs on a host from their files, and placing images in their memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from stage2.address import GIB, MIB, Range
from stage2.config.load import load_platform, load_vm
from stage2.errors import ConfigError, ImageError
from stage2.flags import Access, MapType
from stage2.images.fdt import parse
from stage2.memory.owners import Owner, OwnerKind
from stage2.space.faults import Resolution
from stage2.space.region import Populate
from stage2.vm.boot import load_images
from stage2.vm.host import Host, Options, build
from stage2.vm.images import read_images

VM = """
[base]
id = {id}
name = "{name}"
vm_type = 1
cpu_num = 1
arch = "riscv64"
[kernel]
entry_point = 0x8000_0000
image_location = "fs"
kernel_path = "kernel.bin"
kernel_load_addr = {load}
{kernel}
memory_regions = [ [0x8000_0000, 0x80_0000, 0x7, {map_type}] ]
[devices]
emu_devices = []
passthrough_devices = {passthrough}
{tail}
"""


def write_vm(
    folder: Path,
    *,
    name: str = "a",
    id: int = 1,
    load: str = "0x8000_0000",
    kernel: str = "",
    map_type: int = 0,
    passthrough: str = "[]",
    tail: str = "",
    image: bytes = b"code" * 64,
) -> Path:
    (folder / "kernel.bin").write_bytes(image)
    path = folder / f"{name}.toml"
    text = VM.format(id=id, name=name, load=load, kernel=kernel, map_type=map_type, passthrough=passthrough, tail=tail)
    path.write_text(text)
    return path


def loaded(*paths: Path, options: Options | None = None) -> Host:
    configs = [load_vm(path) for path in paths]
    images = [read_images(config) for config in configs]
    host = build(configs, archs=[found.arch for found in images], options=options)
    for vm, config, found in zip(host.vms, configs, images, strict=True):
        load_images(vm, config, found)
    return host


def test_a_vm_gets_its_kernel_and_a_device_tree_and_only_the_pages_they_need(tmp_path: Path) -> None:
    with loaded(write_vm(tmp_path)) as host:
        (vm,) = host.vms
        assert vm.memory.read(0x8000_0000, 8) == b"codecode"
        assert vm.boot.device_tree is not None
        tree = parse(vm.memory.read(vm.boot.device_tree, 4096))
        memory = tree.find("memory")
        assert memory is not None
        assert memory.cells("reg") == (0, 0x8000_0000, 0, 8 * MIB)
        assert vm.space.page_table.statistics().mapped_bytes == 2 * 4096


def test_eager_memory_is_there_at_once_in_blocks(tmp_path: Path) -> None:
    with loaded(write_vm(tmp_path), options=Options(Populate.EAGER)) as host:
        assert host.vms[0].space.page_table.statistics().leaves == {2 * MIB: 4}


def test_the_page_size_option_bounds_the_leaves(tmp_path: Path) -> None:
    with loaded(write_vm(tmp_path), options=Options(Populate.EAGER, 4096)) as host:
        assert host.vms[0].space.page_table.statistics().leaves == {4096: 2048}


def test_closing_a_host_gives_everything_back(tmp_path: Path) -> None:
    host = loaded(write_vm(tmp_path), write_vm(tmp_path, name="b", id=2, map_type=1))
    assert host.frames.used_bytes > 8 * MIB
    memory, frames = host.memory, host.frames
    for vm in host.vms:
        vm.close()
    assert frames.used_bytes == 0
    assert list(frames.owners) == []
    host.close()
    assert not memory.contains(0x1_0000_0000)


def test_identical_memory_is_the_host_memory_of_the_same_address(tmp_path: Path) -> None:
    with loaded(write_vm(tmp_path, map_type=1)) as host:
        assert host.memory.read(0x8000_0000, 4) == b"code"  # type: ignore[arg-type]  # HPA = GPA
        assert host.frames.owners.at(0x8000_0000) == Owner(OwnerKind.VM, "a")


def test_two_vms_with_identical_memory_at_one_place_are_refused_naming_both(tmp_path: Path) -> None:
    first, second = write_vm(tmp_path, map_type=1), write_vm(tmp_path, name="b", id=2, map_type=1)
    with pytest.raises(ConfigError) as caught:
        loaded(first, second)
    text = str(caught.value)
    assert "'a'" in text or '"a"' in text or "a.toml" in text
    assert "b" in text
    assert "[0x80000000, 0x80800000)" in text


def test_two_vms_may_not_drive_one_device_and_the_error_names_the_holder(tmp_path: Path) -> None:
    device = '[["uart", 0x1000_0000, 0x1000_0000, 0x1000, 1]]'
    first = write_vm(tmp_path, passthrough=device)
    second = write_vm(tmp_path, name="b", id=2, passthrough=device)
    with pytest.raises(ConfigError, match=r"b\.toml:\d+.*VM a holds \[0x10000000, 0x10001000\)"):
        loaded(first, second)


def test_a_declared_share_is_one_piece_of_memory_in_both_vms(tmp_path: Path) -> None:
    def share(peer: str, gpa: str, access: str) -> str:
        return f'[[share]]\nname = "box"\nsize = 0x1000\ngpa = {gpa}\naccess = "{access}"\npeers = ["{peer}"]\n'

    first = write_vm(tmp_path, tail=share("b", "0x9000_0000", "rw"))
    second = write_vm(tmp_path, name="b", id=2, tail=share("a", "0xA000_0000", "r"))
    with loaded(first, second) as host:
        one, two = host.vms
        one.memory.write(0x9000_0000, b"hello")
        assert two.memory.read(0xA000_0000, 5) == b"hello"
        left, right = one.space.query(0x9000_0000), two.space.query(0xA000_0000)
        assert left is not None
        assert right is not None
        assert left.hpa == right.hpa
        assert (left.flags.short, right.flags.short) == ("rw----", "r-----")
        assert host.frames.owners.at(left.hpa) == Owner(OwnerKind.SHARE, "box")


def test_without_any_architecture_the_user_is_told_the_three_ways_to_name_one(tmp_path: Path) -> None:
    path = write_vm(tmp_path)
    path.write_text(path.read_text().replace('arch = "riscv64"\n', ""))
    config = load_vm(path)
    with pytest.raises(ConfigError, match=r"--arch .*--platform.*arch ="):
        build([config])
    with build([config], arch="x86_64") as host:
        assert host.vms[0].space.format.name == "ept4"


def test_a_kernels_own_header_names_the_architecture(tmp_path: Path) -> None:
    header = bytearray(64)
    header[0x10:0x18] = (0x4000).to_bytes(8, "little")
    header[0x38:0x3C] = b"RSC\x05"
    path = write_vm(tmp_path, image=bytes(header))
    path.write_text(path.read_text().replace('arch = "riscv64"\n', ""))
    with loaded(path) as host:
        assert host.vms[0].arch == "riscv64"


def test_a_kernel_of_another_architecture_is_refused(tmp_path: Path) -> None:
    header = bytearray(64)
    header[0x10:0x18] = (0x4000).to_bytes(8, "little")
    header[0x38:0x3C] = b"ARM\x64"
    with pytest.raises(ConfigError, match=r"header says aarch64, but the VM is to be riscv64"):
        loaded(write_vm(tmp_path, image=bytes(header)))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"image": b""}, "is empty"),
        ({"image": b"x" * (9 * MIB)}, "does not fit"),
        ({"kernel": 'ramdisk_path = "no-such-file"'}, "image not found"),
        ({"kernel": 'ramdisk_path = "kernel.bin"\nramdisk_load_addr = 0x8000_0000'}, "overlaps the kernel"),
        ({"kernel": 'bios_path = "kernel.bin"'}, "bios_load_addr"),
    ],
)
def test_an_image_that_cannot_be_placed_is_one_error_with_file_and_line(
    tmp_path: Path, changes: dict[str, str], says: str
) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        loaded(write_vm(tmp_path, **changes))  # type: ignore[arg-type]  # a test's table
    assert caught.value.file is not None
    assert caught.value.line is not None


def test_a_missing_kernel_names_where_it_was_looked_for(tmp_path: Path) -> None:
    path = write_vm(tmp_path)
    (tmp_path / "kernel.bin").unlink()
    with pytest.raises(ImageError, match=r"a\.toml:\d+: kernel\.kernel_path: image not found"):
        loaded(path)


def test_a_host_without_the_identical_memory_refuses_and_shows_its_ram(tmp_path: Path) -> None:
    platform = tmp_path / "platform.toml"
    platform.write_text(
        'arch = "riscv64"\nplatform = "p"\n[plat]\nfamily = "p"\nphys-memory-base = 0x1_0000_0000\n'
        "phys-memory-size = 0x800_0000\n[devices]\nmmio-regions = []\n"
    )
    config = load_vm(write_vm(tmp_path, map_type=1))
    with pytest.raises(ConfigError, match=r"does not exist: RAM is \[0x100000000, 0x108000000\)"):
        build([config], platform=load_platform(platform))


def test_the_hypervisors_own_image_is_given_to_nobody(tmp_path: Path) -> None:
    platform = tmp_path / "platform.toml"
    platform.write_text(
        'arch = "riscv64"\nplatform = "p"\n[plat]\nfamily = "p"\nphys-memory-base = 0x8000_0000\n'
        "phys-memory-size = 0x800_0000\nkernel-base-paddr = 0x8020_0000\n[devices]\nmmio-regions = []\n"
    )
    config = load_vm(write_vm(tmp_path, map_type=1))
    with pytest.raises(ConfigError, match=r"hypervisor holds \[0x80200000, 0x80491000\)"):
        build([config], platform=load_platform(platform))


def test_a_platform_file_may_say_how_large_the_hypervisors_kernel_is(tmp_path: Path) -> None:
    platform = tmp_path / "platform.toml"
    text = (
        'arch = "riscv64"\nplatform = "p"\n[plat]\nfamily = "p"\nphys-memory-base = 0x8000_0000\n'
        "phys-memory-size = 0x800_0000\nkernel-base-paddr = 0x8100_0000\n[devices]\nmmio-regions = []\n"
    )
    platform.write_text(text)
    with build([load_vm(write_vm(tmp_path))], platform=load_platform(platform)) as host:
        assert host.frames.owners.of(Owner(OwnerKind.HYPERVISOR)) == [Range(0x8100_0000, 0x8129_1000)]
        assert [str(notice) for notice in host.notices] == [
            f"{platform}:7: plat.kernel-base-paddr: the hypervisor's kernel is taken to occupy "
            "[0x81000000, 0x81291000): [hypervisor] may say its parts' sizes"
        ]
    sizes = {"text": 0x5000, "rodata": 0x1001, "data": 0, "tdata": 0, "tbss": 0, "percpu": 65, "boot-stack": 0x4000}
    said = "".join(f"{name}-size = {size}\n" for name, size in (sizes | {"bss": 1}).items())
    platform.write_text(f"{text}[hypervisor]\nsmp = 40\n{said}")
    with build([load_vm(write_vm(tmp_path))], platform=load_platform(platform)) as host:
        # Code 5 pages, constants 2, per-CPU areas 40 x 128 bytes in 2, stack 4, zeroed data 1.
        assert host.frames.owners.of(Owner(OwnerKind.HYPERVISOR)) == [Range.sized(0x8100_0000, 14 * 0x1000)]
        assert host.notices == []
    # --smp goes before the file: two copies of .percpu fit in a page.
    with build([load_vm(write_vm(tmp_path))], platform=load_platform(platform).with_cpus(2)) as host:
        assert host.frames.owners.of(Owner(OwnerKind.HYPERVISOR)) == [Range.sized(0x8100_0000, 13 * 0x1000)]
        assert host.kernel is not None
        assert host.kernel.smp == 2


def test_memory_at_fixed_addresses_is_set_aside_before_anything_is_allocated(tmp_path: Path) -> None:
    platform = tmp_path / "platform.toml"
    # Just enough: the allocator has to take its frames from beside the identical region.
    platform.write_text(
        'arch = "riscv64"\nplatform = "p"\n[plat]\nfamily = "p"\nphys-memory-base = 0x8000_0000\n'
        "phys-memory-size = 0x120_0000\n[devices]\nmmio-regions = []\n"
    )
    configs = [load_vm(write_vm(tmp_path)), load_vm(write_vm(tmp_path, name="b", id=2, map_type=1))]
    with build(configs, platform=load_platform(platform), options=Options(Populate.EAGER)) as host:
        first, second = host.vms
        held = host.frames.owners.of(second.space.owner)
        assert held == [Range.sized(0x8000_0000, 8 * MIB)]
        assert all(not span.overlaps(held[0]) for span in host.frames.owners.of(first.space.owner))


def test_a_files_memory_limit_and_fault_around_reach_the_address_space(tmp_path: Path) -> None:
    tail = "[stage2]\nmemory_limit = 0x8000\nfault_around = 0x4000\n"
    with loaded(write_vm(tmp_path, tail=tail)) as host:
        space = host.vms[0].space
        # Kernel and device tree have taken two pages of eight.
        assert space.handle_page_fault(0x8010_0000, Access.READ).resolution is Resolution.POPULATED
        assert space.page_table.statistics().mapped_bytes == 6 * 4096
        assert space.handle_page_fault(0x8020_0000, Access.READ).resolution is Resolution.POPULATED
        # The window around it would be too much, the page itself is not.
        assert space.page_table.statistics().mapped_bytes == 7 * 4096
        assert space.handle_page_fault(0x8030_0000, Access.READ).resolution is Resolution.POPULATED
        assert space.handle_page_fault(0x8040_0000, Access.READ).resolution is Resolution.OUT_OF_MEMORY
    with loaded(write_vm(tmp_path, tail='[stage2]\nfault_around = "adaptive"\n')) as host:
        assert host.vms[0].space.policy.adaptive
    wrongs = (
        ("fault_around = 0x3000", "power of two"),
        ('fault_around = "large"', '"adaptive"'),
        ("memory_limit = 5", "0x1000"),
    )
    for wrong, says in wrongs:
        with pytest.raises(ConfigError, match=says):
            load_vm(write_vm(tmp_path, tail=f"[stage2]\n{wrong}\n"))


def test_host_memory_of_64_gib_costs_nothing_until_it_is_touched(tmp_path: Path) -> None:
    path = write_vm(tmp_path)
    path.write_text(path.read_text().replace("0x80_0000, 0x7", f"{64 * GIB:#x}, 0x7"))
    with loaded(path) as host:
        (vm,) = host.vms
        regions = [region for region in vm.space.memory_regions if region.map_type is MapType.MAP_ALLOC]
        assert regions[0].size == 64 * GIB
        assert host.memory.resident_bytes() < 64 * MIB
