"""Platforms with a hypervisor on them, for tests: one text, with what differs put in."""

from __future__ import annotations

from pathlib import Path

from stage2.config.load import load_platform
from stage2.config.platform import PlatformConfig

PLATFORM = """
arch = "{arch}"
platform = "tiny"
[plat]
phys-memory-base = {base:#x}
phys-memory-size = {size:#x}
kernel-base-paddr = {kernel:#x}
kernel-base-vaddr = "{vaddr:#x}"
phys-virt-offset = "{offset:#x}"
[devices]
mmio-regions = [{mmio}]
"""
OFFSETS = {
    "x86_64": 0xFFFF_8000_0000_0000,
    "aarch64": 0,
    "riscv64": 0xFFFF_FFC0_0000_0000,
}
"""phys-virt-offset of AxVisor's own platforms."""


def platform_text(
    arch: str,
    *,
    base: int = 0x8000_0000,
    size: int = 0x800_0000,
    kernel: int = 0x8020_0000,
    offset: int | None = None,
    vaddr: int | None = None,
    mmio: tuple[tuple[int, int], ...] = ((0x1000_0000, 0x1000),),
) -> str:
    """A platform file; the kernel is in the linear map unless `vaddr` says otherwise."""
    shift = OFFSETS[arch] if offset is None else offset
    return PLATFORM.format(
        arch=arch, base=base, size=size, kernel=kernel, offset=shift,
        vaddr=kernel + shift if vaddr is None else vaddr,
        mmio=", ".join(f"[{start:#x}, {length:#x}]" for start, length in mmio),
    )  # fmt: skip


def make_platform(folder: Path, text: str) -> PlatformConfig:
    """The platform of a text."""
    path = folder / "platform.toml"
    path.write_text(text)
    return load_platform(path)
