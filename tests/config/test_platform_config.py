"""The host: platform files, the default host, defconfig, and telling the kinds of files apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from stage2.address import GIB, MIB, Range
from stage2.config.board import read_board
from stage2.config.defconfig import DefConfig, read_defconfig
from stage2.config.document import parse_document
from stage2.config.load import (
    FileKind,
    choose_arch,
    load_platform,
    load_vm,
    recognise,
    recognise_document,
)
from stage2.config.platform import PlatformConfig, default_platform, read_platform
from stage2.config.regions import PlannedVm, plan_vm
from stage2.config.vm import read_vm
from stage2.errors import ConfigError

FIXTURES = Path(__file__).parent / "fixtures"
PLATFORM = """\
arch = "riscv64"
platform = "board"
[plat]
family = "boards"
phys-memory-base = 0x8000_0000
phys-memory-size = 0x800_0000
kernel-base-paddr = 0x8020_0000
kernel-base-vaddr = "0xffff_ffc0_8020_0000"
phys-virt-offset = "0xffff_ffc0_0000_0000"
phys-bus-offset = 0
kernel-aspace-base = "0xffff_ffc0_0000_0000"
kernel-aspace-size = "0x0000_003f_ffff_f000"
[devices]
mmio-regions = [[0x1000_0000, 0x1000]]
virtio-mmio-regions = []
uart-paddr = 0x1000_0000
timer-frequency = 10_000_000
board-reset = 0x2000_0000
board-mode = "smc"
"""


def platform_of(*changes: tuple[str, str]) -> PlatformConfig:
    text = PLATFORM
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return read_platform(parse_document(text, "p.toml"))


def vm_of(memory: str, devices: str = "", more: str = "", vm_id: int = 1) -> PlannedVm:
    entry = memory.strip("[").split(",")[0]
    document = parse_document(
        f'[base]\nid = {vm_id}\nname = "vm{vm_id}"\n[kernel]\nentry_point = {entry}\nkernel_load_addr = {entry}\n'
        f"memory_regions = [{memory}]\n[devices]\npassthrough_devices = [{devices}]\n{more}",
        f"vm{vm_id}.toml",
    )
    return plan_vm(read_vm(document))


def test_a_platform_file_is_understood() -> None:
    platform = platform_of()
    assert (platform.arch, platform.platform, platform.family) == ("riscv64", "board", "boards")
    assert platform.memory == (Range(0x8000_0000, 0x8800_0000),)
    assert (platform.kernel_paddr, platform.kernel_vaddr) == (0x8020_0000, 0xFFFF_FFC0_8020_0000)
    assert platform.phys_virt_offset == 0xFFFF_FFC0_0000_0000
    assert platform.kernel_aspace == Range(0xFFFF_FFC0_0000_0000, 0xFFFF_FFFF_FFFF_F000)
    assert platform.mmio == (Range(0x1000_0000, 0x1000_1000),)
    assert (platform.uart_paddr, platform.gicd_paddr, platform.timer_frequency) == (0x1000_0000, None, 10_000_000)
    assert dict(platform.extra) == {"board-reset": 0x2000_0000, "board-mode": "smc"}
    assert platform.notices == ()


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('"riscv64"', '"mips"', "p.toml:1: arch: 'mips' is none of"),
        ("0x800_0000\n", "0\n", "p.toml:6: plat.phys-memory-size: size 0 is no memory"),
        ("= 0x8020_0000", "= 0x20_0000", "p.toml:7: plat.kernel-base-paddr: 0x200000 is outside the host's memory"),
        ("= 0x8020_0000", "= 0x8020_0010", "p.toml:7: plat.kernel-base-paddr: 0x80200010 is not a multiple of"),
        (
            "[[0x1000_0000,",
            "[[0x87ff_f000,",
            "p.toml:14: devices.mmio-regions[0]: the device [0x87fff000, 0x88000000) overlaps",
        ),
        ('"0x0000_003f_ffff_f000"', '"0x1_0000_0000_0000"', "p.toml:12: plat.kernel-aspace-size"),
        ('"0x0000_003f_ffff_f000"', '"all"', "p.toml:12: plat.kernel-aspace-size: 'all' found"),
        (
            "phys-memory-base",
            "phys-memory-bas",
            "p.toml:3: plat: [plat] has no phys-memory-base ('phys-memory-bas' found)",
        ),
        ("[plat]", "[plot]", "p.toml:1: the file has no plat"),
    ],
)
def test_a_wrong_platform_is_told_with_its_line(old: str, new: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        platform_of((old, new))
    assert str(caught.value).startswith(problem)


def test_oddities_of_a_platform_are_notices() -> None:
    platform = platform_of(
        ("uart-paddr", "uart-padr"),
        ("virtio-mmio-regions = []", "virtio-mmio-regions = [[0x0, 0x200], [0x0, 0x200]]"),
        ('"0xffff_ffc0_8020_0000"', '"0x8020_0000"'),
        ("[devices]", "nonsense = 1\n[devices]"),
    )
    assert sorted(notice.place.key for notice in platform.notices) == [
        "devices.uart-padr",
        "devices.virtio-mmio-regions[1]",
        "plat.kernel-base-vaddr",
        "plat.nonsense",
    ]


def test_the_default_host_has_a_pool_above_what_guests_use() -> None:
    platform = default_platform([vm_of("[0x8000_0000, 0x1000_0000, 7, 0]")], "riscv64")
    assert platform.memory == (Range(4 * GIB, 5 * GIB),)
    assert platform.arch == "riscv64"
    assert platform.file is None


def test_the_default_pool_is_the_sum_and_a_quarter_and_64_mib() -> None:
    edge = (960 * MIB * 4 // 5) & ~0xFFF
    assert default_platform([vm_of(f"[0x8000_0000, {edge}, 7, 0]")]).memory_size == GIB
    assert default_platform([vm_of(f"[0x8000_0000, {edge + 0x1000}, 7, 0]")]).memory_size == 2 * GIB


def test_the_default_pool_avoids_identity_memory_devices_and_the_guests_own_addresses() -> None:
    platform = default_platform(
        [
            vm_of("[0x1_0000_0000, 0x1000, 7, 0]"),
            vm_of("[0x1_4000_0000, 0x1000, 7, 1]", '["d", 0x1000, 0x1_8000_0000, 0x1000, 1]', vm_id=2),
        ]
    )
    assert platform.memory == (
        Range(0x1_4000_0000, 0x1_4020_0000),
        Range(0x1_C000_0000, 0x2_0000_0000),
    )


def test_identity_memory_is_widened_but_never_over_a_device() -> None:
    platform = default_platform([vm_of("[0x8010_0000, 0x1000, 7, 1]", '["d", 0x8010_1000, 0x8010_1000, 0x1000, 1]')])
    assert platform.memory[:2] == (Range(0x8000_0000, 0x8010_1000), Range(0x8010_2000, 0x8020_0000))


def test_a_share_is_counted_once_in_the_default_host() -> None:
    def sharing(vm_id: int) -> PlannedVm:
        share = f'[[share]]\nname = "s"\ngpa = 0\nsize = 0x3000_0000\naccess = "rw"\npeers = [{3 - vm_id}]'
        return vm_of("[0x8000_0000, 0x1000, 7, 0]", more=share, vm_id=vm_id)

    assert default_platform([sharing(1), sharing(2)]).memory_size == 2 * GIB


def test_absurd_memory_has_no_default_host() -> None:
    with pytest.raises(ConfigError, match=r"^vm1\.toml: the VMs want .* at most 64 TiB"):
        default_platform([vm_of("[0x8000_0000, 0x4000_0000_0000, 7, 0]")])


def test_defconfig_is_understood_and_checked() -> None:
    text = "task-stack-size = 0x1000\nticks-per-sec = 1000\nsmp = 4\n"
    assert read_defconfig(parse_document(text, "d.toml")) == DefConfig("d.toml", 4, 1000, 0x1000)
    with pytest.raises(ConfigError, match=r"^d\.toml:3: smp: 0 is out of range"):
        read_defconfig(parse_document(text.replace("smp = 4", "smp = 0"), "d.toml"))
    with pytest.raises(ConfigError, match=r"^d\.toml:1: task-stack-size: 0x1001 is not a multiple"):
        read_defconfig(parse_document(text.replace("0x1000", "0x1001"), "d.toml"))


def test_a_board_file_says_what_it_is() -> None:
    text = 'target = "aarch64-unknown-none-softfloat"\nfeatures = ["ept-level-4"]\nlog = "Info"\n'
    board = read_board(parse_document(text, "b.toml"))
    assert (board.arch, board.features, board.notices) == ("aarch64", ("ept-level-4",), ())
    assert "it describes no memory" in board.meaning


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("[base]\n[kernel]", FileKind.VM),
        (PLATFORM, FileKind.PLATFORM),
        ("smp = 1", FileKind.DEFCONFIG),
        ('target = "x"\nfeatures = []', FileKind.BOARD),
        ("", FileKind.UNKNOWN),
        ("[package]\nname = 'x'", FileKind.UNKNOWN),
    ],
)
def test_files_are_recognised_by_their_keys(text: str, kind: FileKind) -> None:
    assert recognise_document(parse_document(text, "f.toml")) is kind


def test_the_wrong_kind_of_file_is_told_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "f.toml"
    path.write_text(PLATFORM)
    assert recognise(path) is FileKind.PLATFORM
    with pytest.raises(
        ConfigError, match=r"f\.toml: is a platform file .*; wanted here: a VM file .*; give it with --platform"
    ):
        load_vm(path)
    with pytest.raises(ConfigError, match=r"head\.toml: is a VM file .*; wanted here: a platform file .*$"):
        load_platform(FIXTURES / "head.toml")
    path.write_text('target = "x"\nfeatures = []')
    with pytest.raises(ConfigError, match="is a board file"):
        load_vm(path)
    path.write_text("[package]\n")
    with pytest.raises(ConfigError, match="is none of AxVisor's files: it has 'package'; wanted here: a VM file"):
        load_vm(path)


def test_the_architecture_is_never_guessed_and_never_contradicted() -> None:
    plain, ours = load_vm(FIXTURES / "seed.toml"), load_vm(FIXTURES / "extensions.toml")
    assert choose_arch(plain) is None
    assert choose_arch(plain, "aarch64") == "aarch64"
    assert choose_arch(plain, None, platform_of()) == "riscv64"
    assert choose_arch(ours) == "riscv64"
    assert choose_arch(ours, "riscv64", platform_of()) == "riscv64"
    with pytest.raises(ConfigError, match=r"--arch says x86_64, \[base\] arch says riscv64"):
        choose_arch(ours, "x86_64")
    with pytest.raises(ConfigError, match=r"the platform p\.toml says riscv64"):
        choose_arch(plain, "x86_64", platform_of())
    with pytest.raises(ConfigError, match="--arch 'arm' is none of"):
        choose_arch(plain, "arm")
