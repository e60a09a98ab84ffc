"""LiME and AVML dumps. AVML's own program cannot be had here: its ranges are packed by the library that unpacks them,
whose Snappy is the one that AVML is built on.
"""

from __future__ import annotations

import os
import random
import struct
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from dump_inputs import look
from hypothesis import given
from hypothesis import strategies as st
from made_dumps import PAGE, avml, lime, page

from stage2.address import Range
from stage2.errors import SourceError
from stage2.inspect import snappy_blocks
from stage2.inspect.file_bytes import FileBytes
from stage2.inspect.opened import read_file
from stage2.inspect.source import MemorySource

PAGES = b"".join(page(number) for number in range(48))
NOISE = random.Random(3).randbytes(PAGE * 32)
HOLES = "dump is AVML's, which leaves out blocks of zeros: a hole in it may have been zeros"


def read(data: bytes) -> MemorySource:
    return read_file(FileBytes.of("dump", data))


def refused(data: bytes) -> str:
    with pytest.raises(SourceError) as caught:
        read(data)
    return str(caught.value)


@pytest.fixture(scope="module")
def cramjam() -> Any:
    return import_module("cramjam") if os.environ.get("CI") else pytest.importorskip("cramjam")


def packed(cramjam: Any, first: int, data: bytes) -> bytes:
    return avml(first, bytes(cramjam.snappy.compress(data)), len(data))


def test_ranges_of_lime_are_where_their_headers_say() -> None:
    found = read(lime(0x1000, PAGES) + lime(0x8000_0000, page(99)))
    assert found.ranges() == (Range(0x1000, 0x1000 + len(PAGES)), Range(0x8000_0000, 0x8000_1000))
    assert found.read(0x1000, len(PAGES)) == PAGES
    assert found.word_at(0x8000_0008) == 99 << 32 | 1
    assert found.notices == ()


def test_a_truncated_lime_dump_keeps_what_is_there() -> None:
    whole = lime(0x1000, PAGES) + lime(0x8000_0000, page(99))
    found = read(whole[:-100])
    assert found.ranges()[-1] == Range(0x8000_0000, 0x8000_0F9C)
    assert found.notices == ("dump was cut off: 0x64 bytes of memory that it lists are missing, of 1 of its 2 pieces",)
    short = read(whole[: 32 + len(PAGES) + 20])
    assert short.notices == ("dump was cut off in the header at offset 0x30020",)


def test_what_follows_behind_the_last_range_and_is_none_is_told_and_left() -> None:
    found = read(lime(0x1000, page(1)) + b"what is this, then? no header of any kind")
    assert found.ranges() == (Range(0x1000, 0x2000),)
    assert found.notices == ("dump has no header of LiME or AVML at offset 0x1020: what follows is not read",)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (lime(0, page(0), version=7), "has no header of LiME or AVML at offset 0x0: version 7 of EMiL is not known"),
        (lime(0x2000, page(0), last=0x1000), "has no header of LiME or AVML at offset 0x0"),
        (b"EMiL", "was cut off in the header at offset 0x0"),
        (lime(0, b"", last=(1 << 64) - 1), "was cut off: none of the memory that it lists is in it"),
        (
            lime(0, b"", magic=b"AVML", version=2, last=0xFFF),
            "was cut off in the chunk at offset 0x20: of [0x0, 0x1000) 0x0 bytes are there",
        ),
    ],
)
def test_what_holds_nothing_is_refused_in_a_sentence(data: bytes, why: str) -> None:
    assert refused(data) == f"dump {why}"


def test_a_range_of_all_addresses_gives_what_is_there() -> None:
    found = read(lime(0, page(4), last=(1 << 64) - 1))
    assert found.ranges() == (Range(0, PAGE),)
    assert "was cut off" in found.notices[0]


def test_more_ranges_than_the_limit_are_refused() -> None:
    one = struct.pack("<4sIQQQ", b"EMiL", 1, 0, 0, 0) + b"x"
    assert refused(one * ((1 << 20) + 1)) == "dump lists more than 1048576 pieces of memory: they are not read"


def test_packed_ranges_are_read_as_if_they_were_not(cramjam: Any) -> None:
    found = read(packed(cramjam, 0x1000, PAGES) + lime(0x10_0000, NOISE) + packed(cramjam, 0x20_0000, NOISE))
    plain = read(lime(0x1000, PAGES) + lime(0x10_0000, NOISE) + lime(0x20_0000, NOISE))
    assert found.ranges() == plain.ranges()
    for span in plain.ranges():
        assert found.read(span.start, span.size) == plain.read(span.start, span.size)
    spots = random.Random(5)
    places = [spots.choice(plain.ranges()) for _ in range(200)]
    at = np.array([span.start + 8 * spots.randrange((span.size - PAGE) // 8) for span in places], np.uint64)
    for entries in (1, 512):
        assert np.array_equal(found.tables(at, entries), plain.tables(at, entries))
    assert [found.word_at(int(one)) for one in at] == [plain.word_at(int(one)) for one in at]
    assert found.notices == (HOLES,)


def test_unpacked_blocks_are_kept_up_to_a_limit(cramjam: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snappy_blocks, "_KEPT", 3 << 16)
    found = read(packed(cramjam, 0, PAGES * 8))
    assert isinstance(found, snappy_blocks.BlockSource)
    assert found.read(0, len(PAGES) * 8) == PAGES * 8
    assert len(found._unpacked) == 3
    assert found._kept == 3 << 16


def test_a_truncated_packed_range_keeps_the_chunks_that_are_whole(cramjam: Any) -> None:
    whole = packed(cramjam, 0x1000, NOISE)
    found = read(whole[: len(whole) - 1000])
    assert found.ranges() == (Range(0x1000, 0x1000 + (1 << 16)),)
    assert found.read(0x1000, 1 << 16) == NOISE[: 1 << 16]
    assert found.notices[0] == (
        "dump was cut off in the chunk at offset 0x10032: of [0x1000, 0x21000) 0x10000 bytes are there"
    )


def test_a_chunk_whose_checksum_is_wrong_is_told_when_it_is_read(cramjam: Any) -> None:
    data = bytearray(packed(cramjam, 0x1000, NOISE))
    data[200] ^= 1
    found = read(bytes(data))
    with pytest.raises(SourceError, match="damaged in the chunk at offset 0x2a"):
        found.read(0x1000, 8)
    assert found.read(0x1000 + (1 << 16), 8) == NOISE[1 << 16 :][:8]


@pytest.mark.parametrize(
    "stream",
    [
        b"\x00\x00\x00\x00",
        b"\x00\x10\x00\x00" + bytes(4) + b"\xff\xff\xff\xff\x0f" + bytes(64),
        b"\x01\xff\xff\xff",
        b"\x02\x04\x00\x00" + bytes(64),
        b"\xff\x06\x00\x00sNaPpX" + bytes(64),
        b"\x00\x10\x00\x00" + bytes(4) + b"\x81\x80\x08" + bytes(64),
    ],
)
def test_a_stream_that_is_none_ends_the_reading_with_its_place(stream: bytes) -> None:
    problem = refused(avml(0x1000, stream, PAGE))
    assert problem.startswith("dump ")
    assert "the chunk at offset 0x20" in problem or "an unknown chunk at offset 0x20" in problem


def test_chunks_that_say_nothing_are_skipped_up_to_a_limit(cramjam: Any) -> None:
    stream = bytes(cramjam.snappy.compress(page(3)))
    found = read(avml(0x1000, b"\xfe\x03\x00\x00abc" * 10 + stream, PAGE))
    assert found.read(0x1000, PAGE) == page(3)
    with pytest.raises(SourceError, match="has more than 4194304 chunks"):
        read(avml(0x1000, b"\xfe\x00\x00\x00" * ((1 << 22) + 1), PAGE))


def test_without_the_library_a_packed_dump_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise ImportError

    monkeypatch.setattr(snappy_blocks, "_cramjam", absent)
    chunk = b"\x01" + (4 + 8).to_bytes(3, "little") + bytes(4) + b"12345678"
    problem = refused(avml(0x1000, chunk, 8))
    assert problem.startswith(
        "dump has blocks packed with Snappy, which needs the package cramjam: pip install 'cramjam"
    )


@given(st.integers(0, 200), st.binary(min_size=1, max_size=12), st.booleans())
def test_any_damage_ends_in_a_source_within_the_file_or_in_a_sentence(at: int, damage: bytes, long: bool) -> None:
    cramjam = pytest.importorskip("cramjam")
    data = bytearray(packed(cramjam, 0x1000, PAGES[: PAGE * 20]) + lime(0x8000_0000, page(1)))
    at = at if long else at % 64
    data[at : at + len(damage)] = damage
    look(bytes(data))
