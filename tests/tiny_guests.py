"""Guests of a few instruction words, and their VM files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

UART = 0x1000_0000
"""Where each of them has an emulated serial port."""
RAM = 0x8000_0000

# AArch64, as assembled (DDI 0487 C6.2).
SPIN = [0x1400_0000]  # b .
SLEEP = [0xD503_207F, 0x17FF_FFFF]  # wfi; b .-4
FLOOD = [0xD2A2_0001, 0x5280_0F00, 0x3900_0020, 0x17FF_FFFF]  # x1 = UART; w0 = 'x'; strb w0, [x1]; b .-4
HAMMER = [0xD2A2_0001, 0xB940_0020, 0x17FF_FFFF]  # x1 = UART; ldr w0, [x1]; b .-4
EAT = [0xD2B0_0021, 0xF900_0020, 0x9140_0421, 0x17FF_FFFE]  # x1 = RAM + 64 KiB; str x0, [x1]; x1 += 4096; b .-8
ZEROS = [0]  # udf
JUMP_AWAY = [0xD2A6_0000, 0xD61F_0000]  # x0 = 0x3000_0000; br x0
EXCLUSIVE = [0xD2A2_0001, 0x885F_7C20]  # x1 = UART; ldxr w0, [x1]: its syndrome names no register

# RISC-V.
RISCV_SPIN = [0x0000_006F]  # j .

# x86.
X86_SPIN = [0xFEEB]  # jmp .


def write_vm(
    folder: Path, name: str, words: Sequence[int], *, number: int = 1, arch: str = "aarch64", stage2: str = ""
) -> Path:
    """The file of a VM with 8 MiB that begins with these words.

    Args:
        folder: where it and the image are put.
        name: the VM's.
        words: its instructions.
        number: the VM's, each its own where several run.
        arch: what the words are for.
        stage2: more lines of `[stage2]`.
    """
    return write_image(folder, name, b"".join(word.to_bytes(4, "little") for word in words), number, arch, stage2)


def write_image(
    folder: Path, name: str, image: bytes, number: int = 1, arch: str = "aarch64", stage2: str = ""
) -> Path:
    """The same with an image of any bytes."""
    (folder / f"{name}.bin").write_bytes(image)
    file = folder / f"{name}.toml"
    file.write_text(f"""\
[base]
id = {number}
name = "{name}"
vm_type = 1
cpu_num = 1
arch = "{arch}"
[kernel]
entry_point = {RAM:#x}
image_location = "memory"
kernel_path = "{name}.bin"
kernel_load_addr = {RAM:#x}
memory_regions = [[{RAM:#x}, 0x80_0000, 0x7, 0]]
[devices]
emu_devices = [["uart", {UART:#x}, 0x1000, 10, 0, []]]
passthrough_devices = []
[stage2]
generation = "seed"
{stage2}
""")
    return file
