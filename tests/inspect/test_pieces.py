"""Memory in pieces of a file: what is there, what is not, and that the quick ways say what the slow ones say."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_dumps import PAGE, page

from stage2.address import Range
from stage2.errors import OutOfRangeError, SourceError
from stage2.inspect.file_bytes import FileBytes
from stage2.inspect.pieces import FileSource, laid_out
from stage2.inspect.raw import open_raw, read_raw
from stage2.inspect.source import MemorySource

ROWS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 30), st.integers(0, 90)), min_size=1, max_size=8)


def source(rows: list[tuple[int, int, int]], data: bytes) -> FileSource:
    notices: list[str] = []
    file = FileBytes.of("dump", data)
    pieces = laid_out(np.array(rows, np.uint64), file.size, file.name, notices)
    return FileSource(file, pieces, notices=notices)


def expected(rows: list[tuple[int, int, int]], data: bytes) -> dict[int, int]:
    """Byte by byte what rows say: the first that has an address counts, if the file has the byte."""
    found: dict[int, int] = {}
    for hpa, size, offset in rows:
        for at in range(min(size, max(len(data) - offset, 0))):
            found.setdefault(hpa + at, data[offset + at])
    return found


@given(ROWS)
def test_every_byte_is_the_first_listed_piece_s_and_all_ways_to_read_agree(rows: list[tuple[int, int, int]]) -> None:
    data = bytes(range(80))
    bytes_there = expected(rows, data)
    if not bytes_there:
        with pytest.raises(SourceError):
            source(rows, data)
        return
    found = source(rows, data)
    for at in range(100):
        for size in (1, 3, 8):
            whole = [bytes_there.get(at + number) for number in range(size)]
            there = None if None in whole else bytes(byte for byte in whole if byte is not None)
            assert found.bytes_at(at, size) == there
            assert found.contains(at, size) == (there is not None)
            assert found.holds(np.array([at], np.uint64), size).tolist() == [there is not None]
        assert found.word_at(at) == MemorySource.word_at(found, at)
    words = np.array([at for at in range(100) if found.contains(at, 16)], np.uint64)
    assert np.array_equal(found.tables(words, 2), MemorySource.tables(found, words, 2))


@pytest.mark.parametrize("shift", [0, 1, 4, 0x464])
def test_tables_are_read_alike_at_every_alignment_in_the_file(shift: int) -> None:
    data = bytes(shift) + b"".join(page(number) for number in range(64))
    found = source([(0x8000_0000, 32 * PAGE, shift), (0x1_0000_0000, 32 * PAGE, shift + 32 * PAGE)], data)
    numbers = random.Random(1).sample(range(64), 40)
    at = np.array([(0x8000_0000 if n < 32 else 0x1_0000_0000 - 32 * PAGE) + n * PAGE for n in numbers], np.uint64)
    assert found.tables(at, 512)[:, 7].tolist() == [n << 32 | 7 for n in numbers]
    assert found.tables(at + np.uint64(8), 1)[:, 0].tolist() == [n << 32 | 1 for n in numbers]


def test_rows_that_follow_each_other_are_not_copied() -> None:
    data = b"".join(page(number) for number in range(8))
    found = source([(0, 8 * PAGE, 0)], data)
    rows = found.tables(np.arange(2, 6, dtype=np.uint64) * np.uint64(PAGE), 512)
    assert np.shares_memory(rows, found._octets)
    assert not rows.flags.writeable


def test_a_table_may_begin_in_one_piece_and_end_in_the_next() -> None:
    data = b"".join(page(number) for number in range(4))
    found = source([(0, PAGE, 3 * PAGE), (PAGE, PAGE, PAGE)], data)
    assert found.ranges() == (Range(0, 2 * PAGE),)
    assert found.tables(np.array([PAGE // 2], np.uint64), 512)[0, 256] == 1 << 32
    assert found.bytes_at(PAGE - 8, 16) == page(3)[-8:] + page(1)[:8]


def test_a_hole_is_not_zeros() -> None:
    found = source([(0, PAGE, 0), (2 * PAGE, PAGE, PAGE)], bytes(2 * PAGE))
    assert found.bytes_at(0, 8) == bytes(8)
    assert found.bytes_at(PAGE, 8) is None
    assert found.word_at(PAGE) is None
    with pytest.raises(OutOfRangeError, match="are not all there"):
        found.tables(np.array([PAGE], np.uint64), 512)


def test_memory_may_end_at_the_last_byte_of_64_bits() -> None:
    found = source([((1 << 64) - PAGE, 2 * PAGE, 0)], page(0) + page(1))
    assert found.ranges() == (Range((1 << 64) - PAGE, 1 << 64),)
    assert found.word_at((1 << 64) - 8) == 511
    assert found.bytes_at((1 << 64) - 8, 16) is None
    assert not found.holds(np.array([(1 << 64) - 8], np.uint64), 16).any()
    assert "above 2^64" in found.notices[0]


def test_pieces_that_show_the_same_bytes_do_not_contradict_each_other() -> None:
    data = b"".join(page(number) for number in range(4))
    found = source([(0, 3 * PAGE, 0), (PAGE, 3 * PAGE, PAGE)], data)
    assert found.notices == ()
    assert len(found.pieces) == 1
    assert found.read(0, 4 * PAGE) == data


def test_of_pieces_that_contradict_each_other_the_first_listed_counts_and_a_notice_says_so() -> None:
    data = b"".join(page(number) for number in range(4))
    found = source([(PAGE, PAGE, 0), (0, 3 * PAGE, PAGE)], data)
    assert found.read(0, 3 * PAGE) == page(1) + page(0) + page(3)
    assert "the first at HPA 0x1000: what is listed first counts" in found.notices[0]


def test_a_million_pieces_over_each_other_are_sorted_out() -> None:
    count = 1_000_000
    rows = np.zeros((count, 3), np.uint64)
    rows[:, 0] = np.arange(count, dtype=np.uint64) * np.uint64(8)
    rows[:, 1] = 16
    rows[:, 2] = rows[::-1, 0]
    notices: list[str] = []
    pieces = laid_out(rows, 1 << 30, "dump", notices)
    assert int(pieces.lasts[-1]) == 8 * count + 7
    assert "the first at HPA 0x8" in notices[0]


def test_a_small_file_is_no_endless_memory() -> None:
    rows = [(number << 32, 60, 0) for number in range(100)]
    with pytest.raises(SourceError, match="lists 0x1770 bytes of memory and has 0x40: the same bytes of it stand for"):
        source(rows, bytes(64))


def test_more_pieces_than_the_limit_are_refused() -> None:
    with pytest.raises(SourceError, match="lists 1048577 pieces of memory"):
        laid_out(np.ones(((1 << 20) + 1, 3), np.uint64), 64, "dump", [])


def test_sparse_files_of_64_gib_are_opened_and_read_where_they_are_asked(tmp_path: Path) -> None:
    path = tmp_path / "ram"
    with path.open("wb") as file:
        file.truncate(64 << 30)
        file.seek(48 << 30)
        file.write(page(5))
    found = open_raw([(path, 0x1_0000_0000)])
    at = 0x1_0000_0000 + (48 << 30)
    assert found.ranges() == (Range.sized(0x1_0000_0000, 64 << 30),)
    assert found.word_at(at + 8) == 5 << 32 | 1
    ends = np.array([at, 0x1_0000_0000, 0x1_0000_0000 + (64 << 30) - PAGE], np.uint64)
    assert found.tables(ends, 512)[:, 3].tolist() == [5 << 32 | 3, 0, 0]
    assert path.stat().st_blocks * 512 < 1 << 20


def sparse(path: Path) -> FileBytes:
    """A file of 64 MiB in which two pages hold something."""
    with path.open("wb") as file:
        file.truncate(64 << 20)
        for at in (16 << 20, (32 << 20) + 0x464):
            file.seek(at)
            file.write(page(1))
    found = FileBytes.open(path)
    if found.extents is None:
        pytest.skip("this file system does not tell where a file has holes")
    return found


def test_what_a_sparse_file_does_not_hold_is_known_to_be_zeros(tmp_path: Path) -> None:
    file = sparse(tmp_path / "ram")
    rows = np.array([(0x1_0000_0000, 32 << 20, 0), (0x8000_0000, 32 << 20, 32 << 20)], np.uint64)
    found = FileSource(file, laid_out(rows, file.size, file.name, []))
    filled = found.filled_ranges()
    assert sum(span.size for span in filled) < 1 << 20
    words = {span.start + at for span in filled for at in range(0, span.size, 8) if found.word_at(span.start + at)}
    assert {0x1_0000_0008 + (16 << 20), 0x8000_0468} <= words
    assert len(words) > 1000
    for span in found.ranges():
        zeros = np.frombuffer(bytearray(found.read(span.start, span.size)), np.uint8)
        for part in filled:
            if span.contains(part.start):
                zeros[part.start - span.start : part.end - span.start] = 0
        assert not zeros.any()


def test_a_file_that_is_whole_may_hold_something_everywhere(tmp_path: Path) -> None:
    (tmp_path / "ram").write_bytes(page(1))
    found = open_raw([(tmp_path / "ram", 0x1000)])
    assert found.filled_ranges() == found.ranges()


def test_several_images_know_their_zeros_together(tmp_path: Path) -> None:
    sparse(tmp_path / "a")
    (tmp_path / "b").write_bytes(page(1))
    found = open_raw([(tmp_path / "b", 0x9000_0000), (tmp_path / "a", 0x1000_0000)])
    spans = found.filled_ranges()
    assert spans[-1] == Range(0x9000_0000, 0x9000_1000)
    assert sum(span.size for span in spans) < 1 << 20


def test_several_raw_images_are_one_memory(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}").write_bytes(page(number) + page(number + 10))
    bases = (0x8000_0000, 0x8000_2000, 0x9000_0000)
    found = open_raw([(tmp_path / f"{number}", base) for number, base in enumerate(bases)])
    assert found.ranges() == (Range(0x8000_0000, 0x8000_4000), Range(0x9000_0000, 0x9000_2000))
    assert found.bytes_at(0x8000_1000, 2 * PAGE) == page(10) + page(1)
    at = np.array([0x9000_1000, 0x8000_0000, 0x8000_2000], np.uint64)
    assert found.tables(at, 512)[:, 0].tolist() == [12 << 32, 0, 1 << 32]
    across = np.array([0x8000_1800], np.uint64)
    assert found.tables(across, 512)[0, 256] == 1 << 32
    assert found.bytes_at(0x8000_3000, 2 * PAGE) is None


def test_raw_images_over_each_other_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(PAGE))
    with pytest.raises(SourceError, match="both have memory at HPA 0x800: give bases that keep them apart"):
        open_raw([(tmp_path / "a", 0), (tmp_path / "a", 0x800)])


def test_a_base_beyond_64_bits_is_refused() -> None:
    with pytest.raises(SourceError, match="no address of 64 bits"):
        read_raw(FileBytes.of("ram", b"x"), 1 << 64)


def test_a_closed_source_lets_its_file_go(tmp_path: Path) -> None:
    (tmp_path / "ram").write_bytes(page(1))

    def maps() -> bool:
        return str(tmp_path) in Path("/proc/self/maps").read_text()

    with open_raw([(tmp_path / "ram", 0)]) as found:
        assert found.word_at(8) == 1 << 32 | 1
        assert maps()
    found.close()
    assert not maps()
