"""ELF cores byte by byte: what their headers may say, damaged and hostile ones among them."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from dump_inputs import look
from hypothesis import given
from hypothesis import strategies as st
from made_dumps import LOAD, NOTE, PAGE, core, note, page, segment

from stage2.address import Range
from stage2.errors import SourceError
from stage2.inspect.elf_core import ElfCore, read_elf_core
from stage2.inspect.file_bytes import FileBytes
from stage2.inspect.source import Cpu

BODY_AT = 0x1000
MANY = 70_000


def read(data: bytes) -> ElfCore:
    return read_elf_core(FileBytes.of("core", data))


def made(headers: list[bytes], pages: int, **fields: int) -> bytes:
    """A core whose pages stand at BODY_AT."""
    head = core(headers, **fields)  # type: ignore[arg-type]
    return head.ljust(BODY_AT, b"\0") + b"".join(page(number) for number in range(pages))


def refused(data: bytes) -> str:
    with pytest.raises(SourceError) as caught:
        read(data)
    return str(caught.value)


def test_memory_is_at_the_physical_addresses_whatever_the_virtual_ones_are() -> None:
    found = read(made([segment(0x8000_0000, 2 * PAGE, BODY_AT, virtual=0xFFFF_FFFF_8000_0000)], 2))
    assert found.arch == "riscv64"
    assert found.ranges() == (Range(0x8000_0000, 0x8000_2000),)
    assert found.word_at(0x8000_1008) == 1 << 32 | 1


def test_what_a_segment_has_in_memory_and_not_in_the_file_is_a_hole() -> None:
    found = read(made([segment(0x8000_0000, PAGE, BODY_AT, memory=4 * PAGE)], 1))
    assert found.ranges() == (Range(0x8000_0000, 0x8000_1000),)
    assert found.notices == ("core holds 1 segments in part or not at all: what was not dumped is a hole",)


def test_a_segment_without_a_physical_address_is_left_out_and_told() -> None:
    headers = [segment(0x8000_0000, PAGE, BODY_AT), segment((1 << 64) - 1, PAGE, BODY_AT + PAGE, virtual=1 << 63)]
    found = read(made(headers, 2))
    assert found.ranges() == (Range(0x8000_0000, 0x8000_1000),)
    assert found.notices == ("core says of 1 segments no physical address: they were left out",)


def test_the_core_of_a_process_is_refused() -> None:
    headers = [segment(0, PAGE, BODY_AT + number * PAGE, virtual=0x40_0000 + number * PAGE) for number in range(3)]
    assert "the core of a process, or of /proc/kcore" in refused(made(headers, 3))


def test_physical_address_0_is_believed_where_other_segments_have_addresses_too() -> None:
    headers = [segment(0, PAGE, BODY_AT, virtual=1 << 63), segment(PAGE, PAGE, BODY_AT + PAGE, virtual=1 << 62)]
    assert read(made(headers, 2)).ranges() == (Range(0, 2 * PAGE),)


def test_more_segments_than_the_header_counts_are_told_by_the_first_section() -> None:
    headers = [segment(0x8000_0000 + 2 * number * PAGE, 8, 64 + 56 * number) for number in range(MANY)]
    sections = 64 + 56 * MANY
    data = core(headers, bytes(44) + struct.pack("<I", MANY) + bytes(16), count=0xFFFF, sections=sections)
    assert len(read(data).ranges()) == MANY
    assert "no section that says how many" in refused(core(headers, count=0xFFFF))
    assert "no section that says how many" in refused(core(headers, count=0xFFFF, sections=1 << 62))


def test_a_count_of_segments_that_the_file_cannot_have_is_cut_to_those_it_has() -> None:
    data = core([segment(0x8000_0000, 8, 64)], bytes(44) + b"\xff\xff\xff\xff" + bytes(16), count=0xFFFF, sections=120)
    found = read(data)
    assert found.ranges() == (Range(0x8000_0000, 0x8000_0008),)
    assert found.notices == ("core was cut off in its program headers: 2 of 4294967295 are there",)


def test_a_million_segments_over_each_other_end_in_bounded_time() -> None:
    count = 1_000_000
    header = segment(0x8000_0000, 1 << 20, 0)
    section = bytes(44) + struct.pack("<I", count) + bytes(16)
    data = core([], header * count + section, count=0xFFFF, sections=64 + 56 * count)
    assert read(data).ranges() == (Range.sized(0x8000_0000, 1 << 20),)


def test_too_many_segments_are_refused() -> None:
    count = (1 << 20) + 1
    data = core([], bytes(44) + struct.pack("<I", count) + bytes(56 * count), count=0xFFFF, sections=64)
    assert refused(data) == f"core has {count} segments; 1048576 are the most that are read"


def test_a_truncated_core_keeps_what_is_there() -> None:
    data = made([segment(0, 2 * PAGE, BODY_AT), segment(4 * PAGE, PAGE, BODY_AT + 2 * PAGE)], 3)
    found = read(data[: BODY_AT + PAGE + 16])
    assert found.ranges() == (Range(0, PAGE + 16),)
    [notice] = found.notices
    assert notice == "core was cut off: 0x1ff0 bytes of memory that it lists are missing, of 2 of its 2 pieces"
    assert "none of the memory that it lists is in it" in refused(data[:BODY_AT])


@pytest.mark.parametrize(
    ("hpa", "size", "offset"),
    [(0x1000, 1 << 63, 1 << 63), (0x1000, (1 << 64) - 1, 0), ((1 << 64) - 8, 16, 0), (0x1000, 8, (1 << 64) - 1)],
)
def test_absurd_numbers_of_a_segment_give_what_is_there_or_an_error(hpa: int, size: int, offset: int) -> None:
    data = core([segment(hpa, size, offset)])
    if offset >= len(data):
        assert "none of the memory that it lists is in it" in refused(data)
        return
    found = read(data)
    assert found.notices
    assert sum(span.size for span in found.ranges()) <= len(data)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x7fELF\2\1\1", "was cut off in its ELF header"),
        (core([segment(0, 8, 0)], identity=b"\1\1\1"), "is a 32-bit ELF file"),
        (core([segment(0, 8, 0)], identity=b"\2\2\1"), "is a big-endian ELF file"),
        (core([segment(0, 8, 0)], kind=2), "is a program (a kernel's image?), and no core"),
        (core([segment(0, 8, 0)], kind=3), "is a program or library (a kernel's image?), and no core"),
        (core([segment(0, 8, 0)], machine=21), "is a core of ELF machine 21; aarch64, riscv64, x86_64 are looked at"),
        (core([]), "is a core without segments"),
        (core([segment(0, 8, 0)], entry=8), "says that its program headers have 8 bytes; they have 56"),
        (core([segment(0, 8, 0)], table=1 << 63), "was cut off before its program headers"),
        (core([segment(0, 8, 64, kind=NOTE)]), "is a core without memory"),
        (core([segment(0, 0, 64, kind=LOAD)]), "lists no memory"),
    ],
)
def test_what_is_no_core_is_refused_in_a_sentence(data: bytes, why: str) -> None:
    assert refused(data).startswith(f"core {why}")


def test_vmcoreinfo_is_kept_by_its_keys() -> None:
    text = b"OSRELEASE=6.1.0\nSYMBOL(init_mm)=ffffffff82a00000\nno equals sign\nKERNELOFFSET=1c000000\n\0"
    notes = note("VMCOREINFO", 0, text)
    data = core([segment(0, len(notes), 176, kind=NOTE), segment(0, 8, 0)], notes)
    found = read(data)
    assert found.vmcoreinfo == {
        "OSRELEASE": "6.1.0", "SYMBOL(init_mm)": "ffffffff82a00000", "KERNELOFFSET": "1c000000",
    }  # fmt: skip


def test_each_status_note_is_a_cpu_and_qemu_s_notes_are_theirs_in_order() -> None:
    status = [note("CORE", 1, bytes(112) + struct.pack("<27Q", *range(27)) + bytes(8)) for _ in range(2)]
    general = struct.pack("<18Q", *range(100, 118))
    qemu = [
        note("QEMU", 0, struct.pack("<II", 1, 440) + general + bytes(240) + struct.pack("<6Q", 1, 0, 2, cr3, 4, 5))
        for cr3 in (0x1000, 0x2000)
    ]
    notes = b"".join([*status, *qemu])
    found = read(core([segment(0, len(notes), 176, kind=NOTE), segment(0, 8, 0)], notes, machine=62))
    cpus = found.registers()
    assert [cpu.number for cpu in cpus] == [0, 1]
    assert [cpu.values["CR3"] for cpu in cpus] == [0x1000, 0x2000]
    assert cpus[0].values["pc"] == 116
    assert cpus[0].values["CS"] == 17


@pytest.mark.parametrize(
    "notes",
    [
        struct.pack("<III", 5, 1 << 31, 1) + b"CORE\0\0\0\0",
        struct.pack("<III", (1 << 32) - 1, 0, 1),
        bytes(4096),
        note("CORE", 1, bytes(8)),
        note("QEMU", 0, struct.pack("<II", 2, 440) + bytes(432)),
    ],
)
def test_damaged_notes_say_nothing(notes: bytes) -> None:
    found = read(core([segment(0, len(notes), 176, kind=NOTE), segment(0, 8, 0)], notes, machine=62))
    assert found.registers() == ()
    assert found.vmcoreinfo == {}


def test_notes_that_claim_more_than_the_file_has_are_read_as_far_as_it_goes() -> None:
    notes = note("CORE", 1, bytes(112) + struct.pack("<32Q", *range(32)) + bytes(8))
    found = read(core([segment(0, 1 << 62, 176, kind=NOTE), segment(0, 8, 0)], notes))
    assert found.registers() == (Cpu(0, {"pc": 0, **{f"x{number}": number for number in range(1, 32)}}),)
    assert "bytes of notes" in found.notices[0]


@given(st.integers(0, 119), st.binary(min_size=1, max_size=8))
def test_any_header_ends_in_a_source_within_the_file_or_in_a_sentence(at: int, bytes_there: bytes) -> None:
    data = bytearray(made([segment(0x8000_0000, 2 * PAGE, BODY_AT)], 2))
    data[at : at + len(bytes_there)] = bytes_there
    look(bytes(data))


def test_real_tables_of_kvm_are_opened_packed_as_they_are() -> None:
    folder = Path(__file__).parents[2].parent / "shared" / "data" / "kvm-tables"
    if not folder.is_dir():
        pytest.skip("the tables that KVM wrote are not beside the repository")
    from stage2.inspect.opened import open_source

    archs = {file.name.split(".")[0]: open_source(str(file)).arch for file in sorted(folder.glob("*.elf.gz"))}
    assert archs["amd64"] == "x86_64"
    assert archs["arm64-pkvm"] == "aarch64"
    assert archs["riscv64"] == "riscv64"
