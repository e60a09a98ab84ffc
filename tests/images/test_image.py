"""Images that a loader must not take at their word."""

from __future__ import annotations

import gzip
import struct

import pytest

from stage2.errors import ImageError
from stage2.images import kernel, wrappers
from stage2.images.kernel import inspect

RISCV = 243


def elf64(segments: list[tuple[int, int, int, int]], body: bytes = b"", order: str = "<") -> bytes:
    """A 64-bit RISC-V ELF; segments are (offset, physical address, file size, memory size)."""
    magic = b"\x7fELF\x02" + (b"\x01" if order == "<" else b"\x02") + b"\x01" + bytes(9)
    head = struct.pack(order + "HHIQQQIHHHHHH", 2, RISCV, 1, 0x8000_0000, 64, 0, 0, 64, 56, len(segments), 64, 0, 0)
    table = b"".join(
        struct.pack(order + "IIQQQQQQ", 1, 7, offset, address, address, size, memory, 4096)
        for offset, address, size, memory in segments
    )
    return magic + head + table + body


def test_an_elf_files_segments_lie_where_it_says_with_room_for_bss() -> None:
    at = 64 + 56
    image = inspect(elf64([(at, 0x8000_0000, 4, 0x1000)], b"code"))
    assert (image.arch, image.entry, image.absolute) == ("riscv64", 0x8000_0000, True)
    (segment,) = image.segments
    assert (segment.address, segment.data, segment.size) == (0x8000_0000, b"code", 0x1000)


def test_a_32_bit_elf_file_is_not_taken_for_a_64_bit_one() -> None:
    head = struct.pack("<HHIIIIIHHHHHH", 2, RISCV, 1, 0x1000, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    segment = struct.pack("<8I", 1, 0, 0x1000, 0x1000, 84, 84, 7, 4)
    with pytest.raises(ImageError, match="32-bit"):
        inspect(b"\x7fELF\x01\x01\x01" + bytes(9) + head + segment)


def test_a_big_endian_elf_file_is_refused() -> None:
    with pytest.raises(ImageError, match="big-endian"):
        inspect(elf64([(0, 0x8000_0000, 64, 64)], order=">"))


def test_segments_that_repeat_the_same_bytes_are_bounded_in_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "MAX_IMAGE", 1 << 16)
    body = bytes(1 << 14)
    inspect(elf64([(0, 0, 1 << 14, 1 << 14)] * 4, body))
    with pytest.raises(ImageError, match="together"):
        inspect(elf64([(0, 0, 1 << 14, 1 << 14)] * 5, body))


def test_all_members_of_a_gzip_file_are_unpacked_and_padding_is_not() -> None:
    packed = gzip.compress(b"first") + gzip.compress(b"second")
    assert inspect(packed).segments[0].data == b"firstsecond"
    assert inspect(packed + bytes(100)).segments[0].data == b"firstsecond"
    with pytest.raises(ImageError, match="cut short"):
        inspect(packed[:-9])
    with pytest.raises(ImageError, match="members"):
        inspect(gzip.compress(b"") * 100)


def test_a_gzip_bomb_is_refused_at_the_bound_alone_or_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wrappers, "MAX_IMAGE", 1 << 16)
    assert len(inspect(gzip.compress(bytes(1 << 16))).segments[0].data) == 1 << 16
    for bomb in (gzip.compress(bytes((1 << 16) + 1)), gzip.compress(bytes(1 << 15)) * 3):
        with pytest.raises(ImageError, match="unpacks to more"):
            inspect(bomb)
