"""Sparse host physical memory."""

import gc
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from stage2.address import GIB, MIB, SIZE_4K, Hpa, Range
from stage2.errors import (
    EmptyRangeError,
    FrameError,
    MisalignedError,
    OutOfMemoryError,
    OutOfRangeError,
    OverlapError,
)
from stage2.memory.physical import PhysicalMemory
from waiting import HANG_S

LOW = Range(0x8000_0000, 0x8040_0000)
HIGH = Range(0x1_0000_1000, 0x1_0030_5000)
Backing = Literal["anonymous", "memfd"]


@pytest.fixture(params=["anonymous", "memfd"])
def memory(request: pytest.FixtureRequest) -> Iterator[PhysicalMemory]:
    with PhysicalMemory([HIGH, LOW], backing=request.param) as made:
        yield made


def test_geometry(memory: PhysicalMemory) -> None:
    assert memory.ranges == (LOW, HIGH)
    assert memory.base == LOW.start
    assert memory.span == HIGH.end - LOW.start
    assert memory.size == LOW.size + HIGH.size
    assert memory.range_table.tolist() == [[LOW.start, LOW.end], [HIGH.start, HIGH.end]]
    assert memory.range_table.dtype == np.uint64
    assert memory.range_table.flags.c_contiguous
    assert memory.words.size * 8 == memory.span
    assert memory.words.dtype == np.uint64
    assert memory.words.ctypes.data == memory.hva
    assert (memory.hva - memory.base) % (2 * MIB) == 0, "huge pages of host and guest must coincide"


def test_touching_ranges_are_joined() -> None:
    with PhysicalMemory([Range(0x3000, 0x5000), Range(0x1000, 0x3000), Range(0x6000, 0x7000)]) as memory:
        assert memory.ranges == (Range(0x1000, 0x5000), Range(0x6000, 0x7000))
        assert memory.contains(0x2FFF, 2)


@pytest.mark.parametrize(
    ("ranges", "error", "text"),
    [
        ([], EmptyRangeError, "at least one range"),
        ([Range(0x1000, 0x3000), Range(0x2000, 0x4000)], OverlapError, r"\[0x1000, 0x3000\) and \[0x2000, 0x4000\)"),
        ([Range(0x1800, 0x3000)], MisalignedError, "0x1800"),
        ([Range(0x1000, 0x3001)], MisalignedError, "0x3001"),
        ([Range(0, 1 << 62)], OutOfRangeError, "56 bits"),
        ([Range(0, 1 << 56)], OutOfMemoryError, "cannot reserve 65536 TiB"),
        ([Range(0, 0x1000), Range((1 << 48) - 0x1000, 1 << 48)], OutOfMemoryError, "cannot reserve 256 TiB"),
    ],
)
@pytest.mark.parametrize("backing", ["anonymous", "memfd"])
def test_impossible_memory_is_refused(ranges: list[Range], error: type[Exception], text: str, backing: Backing) -> None:
    files = len(os.listdir("/proc/self/fd"))
    with pytest.raises(error, match=text):
        PhysicalMemory(ranges, backing=backing)
    assert len(os.listdir("/proc/self/fd")) == files


def test_untouched_memory_reads_as_zero(memory: PhysicalMemory) -> None:
    assert memory.read(Hpa(LOW.start), 100) == bytes(100)
    assert memory.load_u64(Hpa(HIGH.end - 8)) == 0


def test_what_is_written_is_read_and_seen_by_every_window(memory: PhysicalMemory) -> None:
    hpa = Hpa(HIGH.start + 0x100)
    memory.write(hpa, b"\x88\x77\x66\x55\x44\x33\x22\x11")
    assert memory.load_u64(hpa) == 0x1122334455667788
    assert int(memory.words[(hpa - memory.base) >> 3]) == 0x1122334455667788
    memory.store_u64(hpa, 0xFFFF_FFFF_FFFF_FFFE)
    assert memory.read(hpa, 8) == b"\xfe" + b"\xff" * 7
    memory.view(hpa, 8)[0] = 1
    assert memory.load_u64(hpa) == 0xFFFF_FFFF_FFFF_FF01


@pytest.mark.parametrize(
    "data",
    [
        b"abcdefgh",
        bytearray(b"abcdefgh"),
        memoryview(b"a-b-c-d-e-f-g-h-")[::2],
        np.frombuffer(b"abcdefgh", dtype=np.uint64),
        np.frombuffer(b"abcdefgh", dtype=">u2").reshape(2, 2),
        np.frombuffer(b"a-b-c-d-e-f-g-h-", dtype=np.uint8)[::2],
    ],
)
def test_anything_with_bytes_can_be_written(memory: PhysicalMemory, data: bytes) -> None:
    memory.write(Hpa(LOW.start + 3), data)
    assert memory.read(Hpa(LOW.start + 2), 10) == b"\0abcdefgh\0"


def test_empty_reads_and_writes_are_fine(memory: PhysicalMemory) -> None:
    memory.write(Hpa(LOW.start), b"")
    memory.write(Hpa(LOW.start), np.empty(0, dtype=np.uint64))
    assert memory.read(Hpa(LOW.end), 0) == b""


@pytest.mark.parametrize(
    ("hpa", "size"),
    [
        (0, 1),
        (LOW.start - 1, 2),
        (LOW.end - 1, 2),
        (LOW.end, 1),
        (LOW.start, HIGH.end - LOW.start),
        (HIGH.start - 1, 1),
        (HIGH.end, 1),
        (LOW.start, -1),
        (1 << 64, 1),
        (-8, 8),
    ],
)
def test_addresses_outside_one_range_are_refused(memory: PhysicalMemory, hpa: int, size: int) -> None:
    assert not memory.contains(hpa, size)
    with pytest.raises(OutOfRangeError, match=f"at HPA {hpa:#x} are not all in host memory"):
        memory.read(Hpa(hpa), size)
    with pytest.raises(OutOfRangeError):
        memory.view(Hpa(hpa), size)


def test_a_write_across_the_end_writes_nothing(memory: PhysicalMemory) -> None:
    with pytest.raises(OutOfRangeError):
        memory.write(Hpa(LOW.end - 4), b"12345")
    assert memory.read(Hpa(LOW.end - 4), 4) == bytes(4)


def test_words_are_aligned_and_64_bits_wide(memory: PhysicalMemory) -> None:
    for wrong in (LOW.start + 1, LOW.start + 4):
        with pytest.raises(MisalignedError):
            memory.load_u64(Hpa(wrong))
        with pytest.raises(MisalignedError):
            memory.store_u64(Hpa(wrong), 0)
    for value in (-1, 1 << 64):
        with pytest.raises(OutOfRangeError, match="does not fit in 64 bits"):
            memory.store_u64(Hpa(LOW.start), value)
    with pytest.raises(OutOfRangeError):
        memory.load_u64(Hpa(LOW.end))


@given(st.integers(0, LOW.size - 1), st.integers(1, LOW.size))
@settings(max_examples=examples(40), deadline=None)
@pytest.mark.parametrize("backing", ["anonymous", "memfd"])
def test_zeroing_clears_the_span_and_nothing_else(backing: Backing, start: int, size: int) -> None:
    size = min(size, LOW.size - start)
    with PhysicalMemory([LOW], backing=backing) as memory:
        content = np.full(LOW.size, 0xA5, dtype=np.uint8)
        memory.write(Hpa(LOW.start), content)
        memory.zero(Range.sized(LOW.start + start, size))
        content[start : start + size] = 0
        assert memory.read(Hpa(LOW.start), LOW.size) == content.tobytes()


def test_zeroing_gives_large_pieces_back_to_the_host(memory: PhysicalMemory) -> None:
    memory.write(Hpa(LOW.start), np.full(LOW.size, 1, dtype=np.uint8))
    assert memory.resident_bytes() >= LOW.size
    memory.zero(LOW)
    assert memory.resident_bytes() == 0
    with pytest.raises(OutOfRangeError):
        memory.zero(Range(LOW.end - 4096, LOW.end + 4096))


@pytest.mark.parametrize("backing", ["anonymous", "memfd"])
def test_64_gib_cost_nothing_until_touched(backing: Backing) -> None:
    with PhysicalMemory([Range.sized(GIB, 64 * GIB)], backing=backing) as memory:
        assert memory.resident_bytes() == 0
        for gigabyte in range(64):
            memory.store_u64(Hpa((1 + gigabyte) * GIB), gigabyte)
        assert memory.load_u64(Hpa(64 * GIB)) == 63
        # A host that uses huge pages everywhere brings 2 MiB for each touch.
        assert 64 * SIZE_4K <= memory.resident_bytes() <= 64 * 2 * MIB


@pytest.mark.parametrize("backing", ["anonymous", "memfd"])
def test_memory_at_very_high_addresses_works(backing: Backing) -> None:
    top = (1 << 46) - MIB
    with PhysicalMemory([Range(0, MIB), Range.sized(top, MIB)], backing=backing) as memory:
        memory.store_u64(Hpa(top), 42)
        assert int(memory.words[top >> 3]) == 42
        assert memory.resident_bytes() <= 2 * MIB


def test_two_memories_count_their_own_pages_only() -> None:
    with PhysicalMemory([LOW]) as one, PhysicalMemory([LOW]) as other:
        one.write(Hpa(LOW.start), np.ones(LOW.size, dtype=np.uint8))
        assert other.resident_bytes() == 0


def test_a_hole_cannot_be_touched() -> None:
    """The host ends the process that does: nothing can be stored where there is no memory."""
    script = (
        "from stage2.address import Range\n"
        "from stage2.memory.physical import PhysicalMemory\n"
        "memory = PhysicalMemory([Range(0x0, 0x1000), Range(0x10000, 0x11000)])\n"
        "memory.words[0x1000 >> 3] = 1\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, timeout=HANG_S)
    assert done.returncode == -11


def test_huge_pages_are_only_advice(memory: PhysicalMemory) -> None:
    memory.advise_huge(LOW)
    memory.advise_huge(Range(LOW.start + 1, LOW.start + 2))
    memory.store_u64(Hpa(LOW.start), 1)
    assert memory.load_u64(Hpa(LOW.start)) == 1


def test_the_file_of_a_shared_memory_holds_the_bytes() -> None:
    with PhysicalMemory([LOW, HIGH], backing="memfd") as memory:
        assert memory.fileno is not None
        memory.write(Hpa(HIGH.start), b"guest")
        assert os.pread(memory.fileno, 5, HIGH.start - memory.base) == b"guest"
        os.pwrite(memory.fileno, b"other", HIGH.start - memory.base)
        assert memory.read(Hpa(HIGH.start), 5) == b"other"
    with PhysicalMemory([LOW]) as memory:
        assert memory.fileno is None


def test_closing_is_refused_while_a_view_is_in_use(memory: PhysicalMemory) -> None:
    memory.write(Hpa(LOW.start), b"abc")
    view = memory.view(Hpa(LOW.start), 3)
    part = view[1:]
    with pytest.raises(FrameError, match="1 of its views are still in use"):
        memory.close()
    view.release()
    del view
    with pytest.raises(FrameError):
        memory.close()
    assert bytes(part) == b"bc"
    assert memory.read(Hpa(LOW.start), 3) == b"abc"
    part.release()
    memory.close()


def test_an_error_inside_with_is_not_hidden_by_a_view() -> None:
    def fail() -> None:
        with PhysicalMemory([LOW]) as memory:
            view = memory.view(Hpa(LOW.start), 3)
            raise KeyError(len(view))

    with pytest.raises(KeyError, match="3"):
        fail()


def test_closed_memory_says_so(memory: PhysicalMemory) -> None:
    fd = memory.fileno
    memory.close()
    memory.close()
    assert memory.fileno is None
    if fd is not None:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    for use in (
        lambda: memory.words,
        lambda: memory.read(Hpa(LOW.start), 1),
        lambda: memory.write(Hpa(LOW.start), b"a"),
        lambda: memory.load_u64(Hpa(LOW.start)),
        lambda: memory.store_u64(Hpa(LOW.start), 0),
        lambda: memory.view(Hpa(LOW.start), 1),
        lambda: memory.zero(LOW),
        lambda: memory.advise_huge(LOW),
        memory.resident_bytes,
    ):
        with pytest.raises(FrameError, match="this physical memory is closed"):
            use()
    assert not memory.contains(LOW.start)


def _mapped_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * 4096


def test_the_addresses_go_back_with_the_last_array() -> None:
    gc.collect()
    before = _mapped_bytes()
    memory = PhysicalMemory([Range.sized(0, 1 << 40)])
    memory.store_u64(Hpa(0), 7)
    words = memory.words[:16]
    memory.close()
    assert int(words[0]) == 7, "an array held by a kernel must stay valid"
    assert _mapped_bytes() - before >= 1 << 40
    del words
    gc.collect()
    assert _mapped_bytes() - before < 1 << 39


def test_forgotten_memory_is_given_back() -> None:
    files = len(os.listdir("/proc/self/fd"))
    before = _mapped_bytes()
    for _ in range(20):
        PhysicalMemory([Range.sized(0, 1 << 40)], backing="memfd")
    gc.collect()
    assert _mapped_bytes() - before < 1 << 39
    assert len(os.listdir("/proc/self/fd")) == files


def test_random_stores_equal_a_plain_array() -> None:
    dice = random.Random(1)
    model = bytearray(HIGH.size)
    with PhysicalMemory([LOW, HIGH]) as memory:
        for _ in range(500):
            offset = dice.randrange(HIGH.size)
            data = dice.randbytes(dice.randrange(min(9000, HIGH.size - offset)))
            memory.write(Hpa(HIGH.start + offset), data)
            model[offset : offset + len(data)] = data
        assert memory.read(Hpa(HIGH.start), HIGH.size) == model
