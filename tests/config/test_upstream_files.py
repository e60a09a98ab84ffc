"""What each of upstream's own files yields. The files are data beside the repository; without them this is skipped."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from stage2.address import MIB
from stage2.cli.main import call
from stage2.config.generation import Generation
from stage2.config.load import (
    FileKind,
    choose_arch,
    choose_format,
    load_board,
    load_defconfig,
    load_host,
    load_platform,
    load_vm,
    recognise,
)
from stage2.config.platform import default_platform
from stage2.errors import ConfigError
from stage2.flags import MapType
from stage2.render.config_json import vm_json

CONFIGS = Path(__file__).parents[2].parent / "shared" / "axvisor-configs"
GUEST_CONFIGS = CONFIGS.parent / "axvisor-guest-configs"
pytestmark = pytest.mark.skipif(not CONFIGS.is_dir(), reason="upstream's files are not beside the repository")

ALLOC, IDENT, RESRV, MMIO = "MAP_ALLOC", "MAP_IDENTICAL", "MAP_RESERVED", "MMIO"
# file: (regions by map type, MiB of RAM, passthrough devices, device-tree nodes, notices, images)
VMS: dict[str, tuple[dict[str, int], float, int, int, int, str]] = {
    "seed/vms/arceos-aarch64.toml": ({ALLOC: 1, MMIO: 5}, 16, 5, 0, 0, "kernel"),
    "seed/vms/arceos-aarch64-smp.toml": ({ALLOC: 1, MMIO: 5}, 16, 5, 0, 0, "kernel"),
    "seed/vms/arceos-riscv64.toml": ({ALLOC: 1, MMIO: 2}, 16, 2, 0, 0, "kernel"),
    "seed/vms/arceos-riscv64-smp.toml": ({ALLOC: 1, MMIO: 2}, 16, 2, 0, 0, "kernel"),
    "seed/vms/arceos-x86_64.toml": ({ALLOC: 1, MMIO: 3}, 16, 3, 0, 0, "kernel bios"),
    "seed/vms/linux-a1000-aarch64-smp8.toml": ({IDENT: 1, MMIO: 1}, 1792, 1, 0, 1, "kernel dtb"),
    "seed/vms/linux-qemu-aarch64.toml": ({IDENT: 1, MMIO: 5}, 1024, 5, 0, 1, "kernel dtb"),
    "seed/vms/linux-qemu-aarch64-smp2.toml": ({IDENT: 1, MMIO: 5}, 1024, 5, 0, 1, "kernel dtb"),
    "seed/vms/linux-qemu-aarch64-vm2.toml": ({IDENT: 1, MMIO: 5}, 1024, 5, 0, 1, "kernel dtb"),
    # One region has the device bit (a notice), and the key cpu_set is unknown (another).
    "seed/vms/linux-rk3588-aarch64.toml": ({IDENT: 1, MMIO: 6}, 1900, 5, 0, 3, "kernel dtb"),
    "seed/vms/nimbos-aarch64.toml": ({ALLOC: 1, MMIO: 5}, 16, 5, 0, 0, "kernel"),
    "seed/vms/nimbos-riscv64.toml": ({ALLOC: 1, MMIO: 2}, 16, 2, 0, 0, "kernel"),
    "seed/vms/nimbos-x86_64.toml": ({ALLOC: 1, MMIO: 3}, 16, 3, 0, 0, "kernel bios"),
    "seed/vms/starry-aarch64.toml": ({ALLOC: 1, MMIO: 5}, 16, 5, 0, 0, "kernel dtb"),
    "seed/vms/starry-riscv64.toml": ({ALLOC: 1, MMIO: 2}, 16, 2, 0, 0, "kernel dtb"),
    "seed/vms/starry-x86_64.toml": ({ALLOC: 1, MMIO: 5}, 16, 5, 0, 0, "kernel dtb"),
    # From here on notices say that "/" of the device tree maps nothing, where identical memory is assumed to lie, and
    # what moves with it: the kernel to its start, the device tree to where it fits. The seed's files that have any
    # are read as the seed's with a notice, for nothing in them tells.
    "head/vms/arceos-aarch64-e2000-smp1.toml": ({IDENT: 1}, 512, 0, 1, 4, "kernel"),
    "head/vms/arceos-aarch64-e2000-smp2.toml": ({IDENT: 1}, 512, 0, 1, 4, "kernel"),
    "head/vms/arceos-aarch64-qemu-smp1.toml": ({IDENT: 1}, 1024, 0, 1, 4, "kernel"),
    "head/vms/arceos-aarch64-rk3568-smp1.toml": ({IDENT: 1}, 256, 0, 1, 4, "kernel"),
    "head/vms/arceos-aarch64-rk3568-smp2.toml": ({IDENT: 1}, 256, 0, 1, 4, "kernel"),
    "head/vms/arceos-aarch64-tac_e400-smp1.toml": ({IDENT: 1}, 512, 0, 1, 4, "kernel"),
    "head/vms/linux-aarch64-a1000-smp8.toml": ({IDENT: 1, RESRV: 1, MMIO: 1}, 512 + 1792, 1, 0, 2, "kernel dtb"),
    "head/vms/linux-aarch64-e2000-smp1.toml": ({IDENT: 1}, 1024, 0, 1, 4, "kernel"),
    "head/vms/linux-aarch64-e2000-smp2.toml": ({IDENT: 1}, 1024, 0, 1, 4, "kernel"),
    "head/vms/linux-aarch64-qemu-smp1.toml": ({IDENT: 1}, 256, 0, 1, 4, "kernel"),
    "head/vms/linux-aarch64-rk3568-smp1.toml": ({IDENT: 1}, 1536, 0, 1, 4, "kernel"),
    "head/vms/linux-aarch64-rk3568-smp2.toml": ({IDENT: 1}, 1536, 0, 1, 4, "kernel"),
    "head/vms/linux-aarch64-rk3588-smp8.toml": ({IDENT: 1, RESRV: 1, MMIO: 6}, 3413 + 2 / 256, 6, 0, 3, "kernel dtb"),
    "head/vms/linux-aarch64-tac_e400-smp1.toml": ({IDENT: 1}, 1024, 0, 1, 4, "kernel"),
    "head/vms/nimbos-aarch64-qemu-smp1.toml": ({ALLOC: 1}, 16, 0, 1, 1, "kernel"),
    "head/vms/nimbos-riscv64-qemu-smp1.toml": ({ALLOC: 1, MMIO: 2}, 16, 2, 0, 0, "kernel"),
    "head/vms/nimbos-x86_64-qemu-smp1.toml": ({ALLOC: 1, MMIO: 3}, 16, 3, 0, 0, "kernel bios"),
    "head/vms/rtthread-aarch64-e2000-smp1.toml": ({ALLOC: 1, MMIO: 1}, 256, 0, 1, 1, "kernel"),
}
# file: (arch, base and MiB of RAM, mmio regions, virtio regions, keys of the board only, notices)
PLATFORMS: dict[str, tuple[str, int, int, int, int, int, int]] = {
    "aarch64-bsta1000b-hv": ("aarch64", 0x1_9800_0000, 1408, 6, 0, 4, 1),
    # 0x0a00_3000 is twice in the VirtIO list.
    "aarch64-qemu-virt-hv": ("aarch64", 0x4000_0000, 2048, 7, 32, 0, 2),
    "aarch64-rk3588j-hv": ("aarch64", 0x20_0000, 128, 7, 0, 0, 2),
    "riscv64-qemu-virt": ("riscv64", 0x8000_0000, 128, 6, 8, 0, 0),
    "x86_64-qemu-q35": ("x86_64", 0, 128, 7, 0, 0, 0),
}
BOARDS = {
    "orangepi-5-plus": "aarch64",
    "phytiumpi": "aarch64",
    "qemu-aarch64": "aarch64",
    "qemu-x86_64": "x86_64",
    "roc-rk3568-pc": "aarch64",
}


def test_the_tables_name_every_file() -> None:
    named = {
        *VMS,
        *(f"seed/platforms/{name}.toml" for name in PLATFORMS),
        *(f"head/board/{name}.toml" for name in BOARDS),
    }
    found = {str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.toml")}
    assert found == named | {"seed/defconfig.toml", "head/defconfig.toml"}


@pytest.mark.parametrize("name", VMS)
def test_a_vm_file_yields_what_the_table_says(name: str) -> None:
    vm = load_vm(CONFIGS / name)
    regions = vm.plan.regions
    assert (
        dict(Counter(region.map_type.value for region in regions)),
        sum(region.size for region in regions if region.map_type.is_ram) / MIB,
        len(vm.devices.passthrough),
        len(vm.devices.nodes),
        len(vm.notices),
        " ".join(image.role for image in vm.kernel.images if image.path),
    ) == VMS[name]
    assert vm.arch is None
    assert not any(region.map_type is MapType.MMIO and int(region.flags) & 4 for region in regions)
    assert vm_json(vm)["name"] == vm.name
    host = default_platform([vm])
    for region in regions:
        if region.map_type in (MapType.MAP_IDENTICAL, MapType.MAP_RESERVED):
            assert any(span.covers(region.range) for span in host.memory)


# file: (generation, guest type, MiB of RAM, passed through, kept off, virtual devices)
GUESTS: dict[str, tuple[str, str | None, int, list[str], list[str], list[str]]] = {
    "path-table-selectors": ("present", "passthrough", 512, ["/soc/serial@0"], ["/soc/pci@30000000"], []),
    "qemu-aarch64-linux-smp1": ("present", "passthrough", 256, [], [], []),
    # Its device lists are of the format before.
    "qemu-aarch64-linux-smp2-dedicated": ("tg", None, 256, ["/"], [], []),
    "qemu-riscv64-linux-virtio-blk": ("present", "virtualized", 1024, [], ["/soc/pci@30000000"], ["virtio-blk"]),
    "qemu-x86_64-linux-smp1": ("present", "passthrough", 129, [], [], []),
    "virtio-net-peer-vm1": ("present", "virtualized", 512, [], [], ["virtio-net"]),
}
needs_guest_configs = pytest.mark.skipif(
    not GUEST_CONFIGS.is_dir(), reason="upstream's files of the present format are not beside the repository"
)


@needs_guest_configs
def test_the_table_names_every_file_of_the_present_format() -> None:
    assert {path.stem for path in GUEST_CONFIGS.glob("*.toml")} == set(GUESTS)


@needs_guest_configs
@pytest.mark.parametrize("name", GUESTS)
def test_a_file_of_the_present_format_yields_what_the_table_says(name: str) -> None:
    vm = load_vm(GUEST_CONFIGS / f"{name}.toml")
    assert (
        vm.generation.value,
        None if vm.guest_type is None else vm.guest_type.value,
        sum(region.size for region in vm.plan.regions if region.map_type.is_ram) / MIB,
        [node.path for node in vm.devices.nodes],
        list(vm.devices.excluded),
        [device.model for device in vm.devices.virtual],
    ) == GUESTS[name]
    assert vm_json(vm)["name"] == vm.name


@needs_guest_configs
@pytest.mark.parametrize("name", GUESTS)
def test_upstream_refuses_only_the_file_of_a_format_before(name: str) -> None:
    path = GUEST_CONFIGS / f"{name}.toml"
    if GUESTS[name][0] == "present":
        assert load_vm(path, generation=Generation.PRESENT).generation is Generation.PRESENT
        return
    with pytest.raises(
        ConfigError, match=r"19: devices\.interrupt_mode: upstream refuses this key, for \[devices\] has"
    ):
        load_vm(path, generation=Generation.PRESENT)


@pytest.mark.parametrize("name", VMS)
def test_upstream_refuses_every_file_of_seed_and_head_in_its_present_format(name: str) -> None:
    with pytest.raises(ConfigError, match="upstream refuses this key"):
        load_vm(CONFIGS / name, generation=Generation.PRESENT)


@pytest.mark.parametrize("name", PLATFORMS)
def test_a_platform_file_yields_what_the_table_says(name: str) -> None:
    platform = load_platform(CONFIGS / "seed/platforms" / f"{name}.toml")
    assert (
        platform.arch,
        platform.memory[0].start,
        platform.memory_size // MIB,
        len(platform.mmio),
        len(platform.virtio_mmio),
        len(platform.extra),
        len(platform.notices),
    ) == PLATFORMS[name]


@pytest.mark.parametrize("name", BOARDS)
def test_a_board_file_is_recognised(name: str) -> None:
    path = CONFIGS / "head/board" / f"{name}.toml"
    assert recognise(path) is FileKind.BOARD
    assert load_board(path).arch == BOARDS[name]
    with pytest.raises(ConfigError, match="is a board file"):
        load_vm(path)


# host file: what the VMs of its architecture get. The a1000's guest and those of the e2000 stay below 2^40 too.
FORMATS = {
    "seed/platforms/aarch64-qemu-virt-hv": "arm-s2-4k-40",
    "seed/platforms/aarch64-bsta1000b-hv": "arm-s2-4k-40",
    "seed/platforms/riscv64-qemu-virt": "sv39x4",
    "seed/platforms/x86_64-qemu-q35": "ept4",
    "head/board/qemu-aarch64": "arm-s2-4k-48",
    "head/board/phytiumpi": "arm-s2-4k-40",
    "head/board/qemu-x86_64": "ept4",
}


@pytest.mark.parametrize("host", FORMATS)
def test_a_host_file_decides_the_format_of_every_vm_of_its_architecture(host: str) -> None:
    given = load_host(CONFIGS / f"{host}.toml")
    assert given.arch is not None
    names = [name for name in VMS if name.startswith(host[:5]) and given.arch in name]
    assert names
    for name in names:
        vm = load_vm(CONFIGS / name)
        arch = choose_arch(vm, None, given)
        assert arch == given.arch
        assert choose_format(vm, arch, given).name == FORMATS[host]


@pytest.mark.parametrize(
    ("vm", "host", "gpa", "levels"),
    [
        ("seed/vms/arceos-aarch64", "seed/platforms/aarch64-qemu-virt-hv", 0x4000_0000, [2, 1]),
        ("seed/vms/nimbos-x86_64", "seed/platforms/x86_64-qemu-q35", 0x20_0000, [3, 2, 1]),
        ("seed/vms/nimbos-riscv64", "seed/platforms/riscv64-qemu-virt", 0x9000_0000, [2, 1]),
        ("head/vms/nimbos-aarch64-qemu-smp1", "head/board/qemu-aarch64", 0x4000_0000, [3, 2, 1]),
        ("head/vms/nimbos-aarch64-qemu-smp1", "head/board/phytiumpi", 0x4000_0000, [2, 1]),
        ("head/vms/nimbos-x86_64-qemu-smp1", "head/board/qemu-x86_64", 0x20_0000, [3, 2, 1]),
    ],
)
@pytest.mark.kernels
def test_upstreams_vm_is_walked_and_built_on_its_host(
    vm: str, host: str, gpa: int, levels: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(CONFIGS / f"{vm}.toml"), "--platform", str(CONFIGS / f"{host}.toml"), "--json"]
    assert call(["walk", *files, "--gpa", hex(gpa)]) == 0
    walked = json.loads(capsys.readouterr().out)
    assert walked["format"] == FORMATS[host]
    assert [step["level"] for step in walked["steps"]] == levels
    assert call(["build", *files, "-o", str(tmp_path / "out")]) == 0
    (built,) = json.loads(capsys.readouterr().out)["vms"]
    assert built["format"] == FORMATS[host]


@pytest.mark.parametrize(("generation", "ticks"), [("seed", 100), ("head", 1000)])
def test_a_defconfig_yields_its_ticks(generation: str, ticks: int) -> None:
    config = load_defconfig(CONFIGS / generation / "defconfig.toml")
    assert (config.smp, config.ticks_per_sec, config.task_stack_size, config.notices) == (1, ticks, 0x4_0000, ())
