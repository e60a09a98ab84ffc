"""What an x86 Linux is told, and the kernel out of its bzImage. That Linux understands it, the boot shows."""

from __future__ import annotations

import gzip
import struct

import pytest

from guest_files import BASE, elf
from stage2.address import SIZE_2M, SIZE_4K, Range
from stage2.errors import ImageError
from stage2.images.acpi import HPET, IO_APIC, LOCAL_APIC, Pc, acpi_tables, is_pc
from stage2.images.linux_x86 import COMMAND_LINE, LEGACY, TABLES, BzImage, boot_params, identity_tables, unpack_bzimage

MEMORY = [Range(0, 0x800_0000), Range(0x1000_0000, 0x2000_0000)]


def bzimage(payload: bytes, *, version: int = 0x20F, flags: int = 1, length: int | None = None) -> bytes:
    """A bzImage with two setup sectors and a payload 0x100 bytes into its protected-mode part."""
    data = bytearray(3 * 512 + 0x100)
    struct.pack_into("<B", data, 0x1F1, 2)
    struct.pack_into("<HBB4sH", data, 0x1FE, 0xAA55, 0xEB, 0x6A, b"HdrS", version)
    struct.pack_into("<H", data, 0x236, flags)
    struct.pack_into("<I", data, 0x238, 2047)
    struct.pack_into("<II", data, 0x248, 0x100, len(payload) if length is None else length)
    return bytes(data) + payload


def kernel() -> BzImage:
    return unpack_bzimage(bzimage(gzip.compress(elf(62))))


def entries(page: bytes) -> list[tuple[Range, int]]:
    found = [struct.unpack_from("<QQI", page, 0x2D0 + 20 * index) for index in range(page[0x1E8])]
    return [(Range.sized(start, size), kind) for start, size, kind in found]


def test_the_kernel_is_unpacked_and_its_header_kept() -> None:
    image = kernel()
    assert image.kernel.entry == BASE
    assert image.header[0x202 - 0x1F1 :][:4] == b"HdrS"
    assert len(image.header) == 0x202 + 0x6A - 0x1F1, "the jump's offset says how long it is"
    assert image.cmdline_most == 2047


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (bzimage(b"x", version=0x208), "the bzImage has no 64-bit entry (boot protocol 2.08)"),
        (bzimage(b"x", flags=0), "the bzImage has no 64-bit entry (boot protocol 2.15)"),
        (bzimage(b"x", length=99), "the bzImage is damaged: its kernel lies outside the file"),
        (bzimage(b""), "the bzImage is damaged: its kernel lies outside the file"),
        (bzimage(b"x" * 64), "the bzImage holds no x86-64 ELF kernel, but: raw binary"),
    ],
    ids=["old", "32-bit", "cut", "empty", "no ELF"],
)
def test_what_is_no_64_bit_kernel_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ImageError) as caught:
        unpack_bzimage(data)
    assert str(caught.value) == message


def test_linux_is_told_of_all_memory_but_a_pcs_legacy_area() -> None:
    page = boot_params(kernel(), memory=MEMORY, ramdisk=Range(0x700_0000, 0x701_0000), rsdp=0xE_0000)
    assert len(page) == SIZE_4K
    assert entries(page) == [
        (Range(0, LEGACY.start), 1), (LEGACY, 2), (Range(LEGACY.end, 0x800_0000), 1), (MEMORY[1], 1),
    ]  # fmt: skip
    assert struct.unpack_from("<Q", page, 0x70) == (0xE_0000,)
    assert struct.unpack_from("<II", page, 0x218) == (0x700_0000, 0x1_0000)
    assert struct.unpack_from("<I", page, 0x228) == (COMMAND_LINE,)
    assert page[0x210] == 0xFF
    assert page[0x211] & 1


def test_more_pieces_of_memory_than_linux_is_told_of_are_refused() -> None:
    memory = [Range.sized(0x100_0000 * index, SIZE_2M) for index in range(1, 129)]
    with pytest.raises(ImageError, match="memory is in 129 pieces; Linux is told of 128 at most"):
        boot_params(kernel(), memory=memory, ramdisk=None, rsdp=0)


def test_a_ramdisk_above_4_gib_is_refused() -> None:
    with pytest.raises(ImageError, match="is to be below 4 GiB"):
        boot_params(kernel(), memory=MEMORY, ramdisk=Range(1 << 32, (1 << 32) + 1), rsdp=0)


@pytest.mark.parametrize("address", [0, 0x12_3456, 0x4000_0000, 0xFEE0_0000, 0xFFFF_FFFF])
def test_the_first_tables_map_four_gib_to_themselves(address: int) -> None:
    tables = identity_tables()
    at = TABLES
    for shift in (39, 30, 21):
        (entry,) = struct.unpack_from("<Q", tables, at - TABLES + 8 * (address >> shift & 511))
        assert entry & 3 == 3
        at = entry & ~0xFFF
    assert entry & 0x80
    assert at == address & ~(SIZE_2M - 1)


@pytest.mark.parametrize("hpet", [HPET.start, None])
def test_every_acpi_table_is_found_from_the_root_and_its_sum_is_zero(hpet: int | None) -> None:
    base = 0xE_0000
    data = acpi_tables(
        Pc(cpus=[0, 1], wakeup=0xFEC1_0000, local_apic=LOCAL_APIC.start, io_apic=IO_APIC.start, hpet=hpet,
           events=0x600, control=0x604, reset=(0xCF9, 6), clock=True), base
    )  # fmt: skip

    def table(at: int) -> bytes:
        (length,) = struct.unpack_from("<I", data, at - base + 4)
        found = data[at - base : at - base + length]
        assert len(found) == length
        assert sum(found) & 0xFF == 0, found[:4]
        return found

    assert data[:8] == b"RSD PTR "
    assert sum(data[:20]) & 0xFF == 0
    assert sum(data[:36]) & 0xFF == 0
    root = table(struct.unpack_from("<Q", data, 24)[0])
    found = {table(at)[:4]: table(at) for at in struct.unpack_from(f"<{(len(root) - 36) // 8}Q", root, 36)}
    assert set(found) == {b"FACP", b"APIC"} | ({b"HPET"} if hpet else set())
    assert table(struct.unpack_from("<Q", found[b"FACP"], 140)[0])[:4] == b"DSDT"
    assert struct.unpack_from("<I", found[b"APIC"], 36) == (LOCAL_APIC.start,)
    kinds = []
    at = 44
    while at < len(found[b"APIC"]):
        kinds.append(found[b"APIC"][at])
        at += found[b"APIC"][at + 1]
    assert kinds == [0, 0, 1, 2, 2, 16]


def test_a_pc_is_who_has_both_interrupt_controllers() -> None:
    assert is_pc(lambda span: span in (LOCAL_APIC, IO_APIC))
    assert not is_pc(lambda span: span == LOCAL_APIC)
    assert not is_pc(lambda span: span == IO_APIC)
