"""What a file is, its first bytes say; what it is not, one sentence says."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from dump_inputs import look
from hypothesis import given
from hypothesis import strategies as st
from made_dumps import PAGE, core, lime, page, segment

from stage2.address import Range
from stage2.errors import SourceError
from stage2.inspect import packed_file
from stage2.inspect.elf_core import ElfCore
from stage2.inspect.file_bytes import FileBytes
from stage2.inspect.opened import open_source

CORE = core([segment(0x8000_0000, PAGE, 0x1000)]).ljust(0x1000, b"\0") + page(7)


def refused(text: str | Path, **options: int) -> str:
    with pytest.raises(SourceError) as caught:
        open_source(str(text), **options)
    found = str(caught.value)
    assert "\n" not in found
    return found


def test_every_kind_of_file_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    for data in (CORE, lime(0x8000_0000, page(7)), gzip.compress(CORE), gzip.compress(lime(0x8000_0000, page(7)))):
        path.write_bytes(data)
        with open_source(str(path)) as found:
            assert found.ranges() == (Range(0x8000_0000, 0x8000_1000),)
            assert found.word_at(0x8000_0008) == 7 << 32 | 1
            assert found.name == str(path)


def test_any_bytes_are_raw_with_a_base_and_nothing_without(tmp_path: Path) -> None:
    path = tmp_path / "ram.bin"
    path.write_bytes(page(3))
    assert open_source(str(path), base=0x4000_0000).word_at(0x4000_0000) == 3 << 32
    assert refused(path) == (
        f"{path} is no dump that is known by its first bytes (ELF core, LiME, AVML, a snapshot): give --base "
        "ADDRESS, if it is the bare bytes of memory from there on"
    )
    path.write_bytes(gzip.compress(page(3)))
    assert open_source(str(path), base=0x4000_0000).word_at(0x4000_0000) == 3 << 32


def test_several_raw_images_are_named_in_one_text(tmp_path: Path) -> None:
    for name in ("a", "b@c"):
        (tmp_path / name).write_bytes(page(1))
    found = open_source(f"raw:{tmp_path}/a@0x8000_0000,{tmp_path}/b@c@0x9000_0000")
    assert found.ranges() == (Range(0x8000_0000, 0x8000_1000), Range(0x9000_0000, 0x9000_1000))
    for text in ("raw:", f"raw:{tmp_path}/a", f"raw:{tmp_path}/a@x", "raw:@0x1"):
        assert "write raw:FILE@ADDRESS[,FILE@ADDRESS]..." in refused(text)


def packed(data: bytes) -> bytes:
    """The same at any time: tests are named after it, and all processes must name them alike."""
    return gzip.compress(data, mtime=0)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is empty"),
        (b"KDUMP   " + bytes(64), "is a kdump-compressed dump, which is not read: have an ELF core written"),
        (b"DISKDUMP" + bytes(64), "is a kdump-compressed dump"),
        (b"makedumpfile\0\0\0\0" + bytes(64), "is a dump in makedumpfile's flattened format"),
        (b"PAGEDU64" + bytes(64), "is a crash dump of Windows, which is not read"),
        (b"PAGEDUMP" + bytes(64), "is a crash dump of Windows, which is not read"),
        (b"QEVM" + bytes(64), "is a machine that QEMU saved to migrate it"),
        (b"QFI\xfb" + bytes(64), "is a disk image (qcow2), and no memory"),
        (b"\x28\xb5\x2f\xfd" + bytes(64), "is packed with zstd: unpack it first"),
        (packed(packed(CORE)), "is packed twice: unpack it first"),
        (packed(b""), "is empty where it is packed"),
        (b"\x1f\x8bno more of it", "was cut off or damaged where it is packed"),
        (packed(b"stage2-snapshot 1 "), "is a snapshot that is packed: unpack it first"),
        (b"stage2-snapshot 9 ", "its first line is not that of a snapshot"),
    ],
)
def test_what_is_not_read_is_refused_with_what_to_do(data: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    assert refused(path).removeprefix(str(path)).lstrip(": ").startswith(why)


def test_what_is_no_file_is_refused_and_waited_for_by_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert refused(tmp_path / "nothing").endswith("cannot be read: No such file or directory")
    assert "is no regular file" in refused(tmp_path / "fifo")
    assert "is no regular file" in refused("/dev/zero")
    assert "Too many levels of symbolic links" in refused(tmp_path / "loop")
    assert "it is not what `stage2 build -o` writes" in refused(tmp_path)
    assert "cannot be read" in refused("a\0b")
    assert "cannot be read: File name too long" in refused("x" * 5000)


def test_proc_kcore_itself_is_refused_in_a_sentence() -> None:
    if not os.access("/proc/kcore", os.R_OK):
        pytest.skip("this kernel does not let us read /proc/kcore")
    refused("/proc/kcore")


def test_a_packed_file_that_was_cut_off_keeps_what_came_out(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    noise = os.urandom(1 << 20)
    path.write_bytes(gzip.compress(core([segment(0, len(noise), 0x1000)]).ljust(0x1000, b"\0") + noise)[:-1000])
    found = open_source(str(path))
    [span] = found.ranges()
    assert 0 < span.size < len(noise)
    assert found.read(0, span.size) == noise[: span.size]
    assert "was cut off or damaged where it is packed" in found.notices[0]


def test_a_bomb_is_refused_at_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(gzip.compress(bytes(64 << 20)))
    assert refused(path, limit=16 << 20) == (
        f"{path} holds more than 16 MiB: unpack it yourself (gzip -dk), if it is to be read"
    )


def test_zeros_that_come_out_take_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rooms: list[int] = []
    mapped = FileBytes.mapped

    def looked(name: str, descriptor: int, notices: tuple[str, ...] = ()) -> FileBytes:
        rooms.append(os.fstat(descriptor).st_blocks * 512)
        return mapped(name, descriptor, notices)

    monkeypatch.setattr(packed_file, "FileBytes", SimpleNamespace(mapped=looked))
    path = tmp_path / "dump"
    path.write_bytes(gzip.compress(CORE + bytes(256 << 20)))
    found = open_source(str(path))
    assert isinstance(found, ElfCore)
    assert rooms[0] < 8 << 20


def test_no_room_for_what_comes_out_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "dump"
    path.write_bytes(gzip.compress(CORE))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gzip.GzipFile, "read", full)
    assert "No space left on device; TMPDIR names another folder" in refused(path)


@given(st.integers(0, 60), st.binary(min_size=1, max_size=8))
def test_any_damage_of_a_packed_file_ends_in_a_source_or_in_a_sentence(at: int, damage: bytes) -> None:
    data = bytearray(gzip.compress(CORE))
    data[at : at + len(damage)] = damage
    look(bytes(data))


@given(st.binary(max_size=200))
def test_any_bytes_end_in_a_source_or_in_a_sentence(data: bytes) -> None:
    look(data)
