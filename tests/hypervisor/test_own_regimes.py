"""The registers of a hypervisor's own tables, read back, give the tables' format, root and controls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from platforms import make_platform, platform_text
from stage2.address import Hpa
from stage2.errors import ConfigError, OutOfRangeError
from stage2.formats.arm.stage1_control import HCR_E2H, Stage1Regime, regimes
from stage2.formats.arm.stage2_control import HCR_TGE
from stage2.formats.riscv.registers import decode_satp
from stage2.hypervisor.layout import of_platform
from stage2.hypervisor.space import HypervisorSpace
from stage2.memory.frames import FrameAllocator
from stage2.memory.physical import PhysicalMemory
from stage2.tables.result import Mapped

HIGH = 0xFFFF_0000_0000_0000


@contextmanager
def space_of(folder: Path, text: str, fmt: str | None = None) -> Iterator[HypervisorSpace]:
    platform = make_platform(folder, text)
    with PhysicalMemory(platform.memory) as memory:
        found = HypervisorSpace(of_platform(platform), platform, FrameAllocator(memory), fmt=fmt)
        yield found
        found.destroy()


@pytest.mark.parametrize(("fmt", "cr4"), [("x86-4level", 1 << 5), ("x86-5level", 1 << 5 | 1 << 12)])
def test_long_mode_needs_pae_write_protection_and_no_execute(tmp_path: Path, fmt: str, cr4: int) -> None:
    # SDM Vol. 3A, 11.8.5 "Initializing IA-32e Mode"; LA57 is CR4 bit 12 (5.1.1).
    with space_of(tmp_path, platform_text("x86_64"), fmt) as space:
        registers = space.registers()
        assert registers == {
            "CR3": space.tables[0].root,
            "CR0": 1 << 31 | 1 << 16 | 1,
            "CR4": cr4,
            "EFER": 1 << 11 | 1 << 10 | 1 << 8,
        }


@pytest.mark.parametrize("fmt", [None, "sv39", "sv48", "sv57"])
def test_satp_read_back_is_the_regime(tmp_path: Path, fmt: str | None) -> None:
    with space_of(tmp_path, platform_text("riscv64"), fmt) as space:
        satp = decode_satp(space.registers()["satp"])
        assert (satp.format.name, satp.root, satp.identifier) == (fmt or "sv39", space.tables[0].root, 0)


def test_low_addresses_run_in_the_el2_regime_with_one_root(tmp_path: Path) -> None:
    with space_of(tmp_path, platform_text("aarch64")) as space:
        registers = space.registers()
        assert registers.keys() == {"TTBR0_EL2", "TCR_EL2", "MAIR_EL2", "SCTLR_EL2"}
        # D24.2 "TCR_EL2": bits 31 and 23 are res1.
        assert registers["TCR_EL2"] & (1 << 31 | 1 << 23) == 1 << 31 | 1 << 23
        read = regimes(
            2,
            tcr=registers["TCR_EL2"],
            ttbr0=registers["TTBR0_EL2"],
            sctlr=registers["SCTLR_EL2"],
            mair=registers["MAIR_EL2"],
        )
        (regime,) = space.regimes
        assert read.regime is Stage1Regime.EL2
        assert read.on
        assert read.low is not None
        assert (read.low.format.name, read.low.root) == (regime.format.name, regime.root)
        assert hex(read.low.controls) == hex(regime.controls)


@pytest.mark.parametrize("with_low", [False, True])
def test_high_addresses_run_in_the_el2_and_el0_regime(tmp_path: Path, with_low: bool) -> None:
    # The linear map is in the high half; with_low links the kernel in the low one.
    text = platform_text("aarch64", offset=HIGH, vaddr=0x4000_0000 if with_low else None)
    with space_of(tmp_path, text) as space:
        registers = space.registers()
        assert registers["HCR_EL2"] == HCR_E2H | HCR_TGE
        assert ("TTBR0_EL2" in registers) is with_low
        read = regimes(
            2,
            tcr=registers["TCR_EL2"],
            ttbr0=registers.get("TTBR0_EL2", 0),
            ttbr1=registers["TTBR1_EL2"],
            sctlr=registers["SCTLR_EL2"],
            hcr=registers["HCR_EL2"],
        )
        assert read.regime is Stage1Regime.EL2_0
        halves = [half for half in (read.low, read.high) if half is not None]
        assert [(half.root, hex(half.controls)) for half in halves] == [
            (regime.root, hex(regime.controls)) for regime in space.regimes
        ]
        assert [half.format.name for half in halves] == ["arm-s1-4k-48"] * with_low + ["arm-s1-4k-48-high"]


def test_each_half_translates_its_own_addresses(tmp_path: Path) -> None:
    with space_of(tmp_path, platform_text("aarch64", offset=HIGH, vaddr=0x4000_0000)) as space:
        for hva, hpa in (
            (0x4000_0000, 0x8020_0000),
            (HIGH + 0x8500_0000, 0x8500_0000),
            (HIGH + 0x1000_0000, 0x1000_0000),
        ):
            result = space.explain(hva).result
            assert isinstance(result, Mapped)
            assert result.hpa == hpa
        assert not isinstance(space.explain(0x4400_0000).result, Mapped)
        assert not isinstance(space.explain(HIGH + 0x4000_0000).result, Mapped)


def test_the_el2_regime_has_execute_never_in_one_bit_and_no_user(tmp_path: Path) -> None:
    # D8.4.1: at EL2 with one privilege level, bit 54 is XN, AP[1] is res1, nG is res0.
    with space_of(tmp_path, platform_text("aarch64")) as space:
        text, data = space.layout.part(".text"), space.layout.part(".data")
        assert text is not None
        assert data is not None
        code, plain = (space.explain(part.span.start).steps[-1].entry for part in (text, data))
        assert [entry >> 54 & 1 for entry in (code, plain)] == [0, 1]
        for entry in (code, plain):
            assert (entry >> 6 & 1, entry >> 11 & 1, entry >> 53 & 1) == (1, 0, 0)


@pytest.mark.parametrize(
    ("arch", "fmt", "says"),
    [
        ("x86_64", "sv39", "sv39 is no format of x86_64, which the platform is"),
        ("x86_64", "ept4", "ept4 is a format of stage 2: the hypervisor's own tables are of stage 1"),
        ("aarch64", "arm-s1-64k-48", "has pages of 64 KiB: the hypervisor is laid out in pages of 4 KiB"),
    ],
)
def test_a_format_that_cannot_be_is_refused_by_name(tmp_path: Path, arch: str, fmt: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says), space_of(tmp_path, platform_text(arch), fmt):
        pass


def test_addresses_that_no_format_translates_are_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match="are more than arm-s1-4k-48 can translate"),
        space_of(tmp_path, platform_text("aarch64", offset=1 << 52)),
    ):
        pass


def test_linear_translation_knows_ram_and_devices_only(tmp_path: Path) -> None:
    with space_of(tmp_path, platform_text("riscv64")) as space:
        assert space.virt_to_phys(space.phys_to_virt(Hpa(0x1000_0000))) == 0x1000_0000
        with pytest.raises(OutOfRangeError, match="16 bytes at HPA 0x87fffff8 are neither RAM nor a device"):
            space.phys_to_virt(Hpa(0x87FF_FFF8), 16)
        with pytest.raises(OutOfRangeError, match="HPA 0x20000000"):
            space.phys_to_virt(Hpa(0x2000_0000))
