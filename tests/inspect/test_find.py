"""Roots found in memories that tell nothing: among noise, in every format, and in tables that KVM wrote."""

from __future__ import annotations

import gzip
import io
import json
import struct
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import effort
from stage2 import FrameAllocator, MappingFlags, PhysicalMemory
from stage2.address import Hpa, Range
from stage2.cli.main import call
from stage2.formats import by_name, families, names
from stage2.inspect.find.finder import find
from stage2.inspect.find.guest import GuestMemory
from stage2.inspect.find.naming import named_in
from stage2.inspect.listing import Lister
from stage2.inspect.root import roots_of_registers
from stage2.inspect.source import Cpu, MemorySource
from stage2.memory.owners import Owner, OwnerKind
from stage2.tables.pagetable import PageTable

BASE, SIZE = 0x8000_0000, 2 << 20
KVM = Path(__file__).parents[3] / "shared" / "data" / "kvm-tables"
ARCHES = {"arm64": "aarch64", "amd64": "x86_64", "riscv64": "riscv64"}
RW = MappingFlags.READ | MappingFlags.WRITE
READ = MappingFlags.READ


class Bytes(MemorySource):
    """Memory as bytes at addresses."""

    def __init__(self, parts: dict[int, bytes], arch: str | None = None, cpus: tuple[Cpu, ...] = ()) -> None:
        super().__init__("bytes")
        self._parts, self._arch, self._cpus = parts, arch, cpus

    def ranges(self) -> tuple[Range, ...]:
        return tuple(Range(at, at + len(data)) for at, data in sorted(self._parts.items()) if data)

    def bytes_at(self, hpa: int, size: int) -> bytes | None:
        for at, data in self._parts.items():
            if at <= hpa and hpa + size <= at + len(data):
                return data[hpa - at : hpa - at + size]
        return None

    def registers(self) -> tuple[Cpu, ...]:
        return self._cpus

    @property
    def arch(self) -> str | None:
        return self._arch


def with_tables(name: str, noise: int) -> tuple[MemorySource, PageTable]:
    """Tables of a format among pages of random words."""
    fmt = by_name(name)
    memory = PhysicalMemory([Range(BASE, BASE + (64 << 20))])
    table = PageTable(fmt, FrameAllocator(memory), owner=Owner(OwnerKind.TABLES, "vm"))
    page = fmt.page_size
    step = max(page, 1 << 16)
    kinds = (RW, READ, RW | MappingFlags.EXECUTE)
    start = (1 << 64) - (1 << fmt.input_bits) if fmt.high_half else 0
    for number in range(128):
        flags = kinds[number % 3 if number < 24 else 0]
        if fmt.stage == 1 and number % 4 == 0:
            flags |= MappingFlags.USER
        table.map_page(start + (1 << 22) + number * page, Hpa(BASE + number * page), flags)
    table.map_page(start + (1 << 30) + step, Hpa(BASE + step), RW)
    data = memory.words.copy()
    dice = np.random.default_rng(noise)
    for number in dice.choice(np.arange(2048, 12288), 1024, replace=False).tolist():  # tables are at the end
        data[number * 512 : number * 512 + 512] = dice.integers(0, 1 << 63, 512, np.uint64)
    return Bytes({BASE: data.tobytes()}, families()[fmt.family].arch), table


@pytest.mark.parametrize("name", names() if effort.FACTOR > 1 else names()[::3])
def test_the_root_of_built_tables_is_the_best_of_all_in_every_format(name: str) -> None:
    source, table = with_tables(name, 17)
    found = find(source)
    assert found.roots, "nothing was found"
    best = found.roots[0]
    assert best.root.regime.root == table.root
    told, wanted = best.root.regime.format, table.format
    # With addresses below 2^48 some formats of 48 and of 52 bits are the same bytes.
    assert (told.decode, told.page_shift, told.levels) == (wanted.decode, wanted.page_shift, wanted.levels)
    lister = Lister(table.regime, source)
    assert best.mapped_bytes == sum(int(rows[:, 2].sum()) for rows in lister.parts())


def kvm_names() -> list[str]:
    return sorted(path.name.removesuffix(".json") for path in KVM.glob("*.json")) or ["none"]


def kvm_memory(name: str) -> tuple[Bytes, dict[str, int]]:
    """The memory of an ELF core, by its program headers, and the registers beside it."""
    if name == "none":
        pytest.skip("tables that KVM wrote are not beside this checkout (../shared/data/kvm-tables)")
    data = gzip.decompress((KVM / f"{name}.elf.gz").read_bytes())
    start, size, count = struct.unpack_from("<32xQ14xHH", data)
    parts = {}
    for number in range(count):
        kind, _, offset, _, at, length = struct.unpack_from("<IIQQQQ", data, start + number * size)
        if kind == 1:
            parts[at] = data[offset : offset + length]
    told = json.loads((KVM / f"{name}.json").read_text())
    return Bytes(parts), {key: int(value, 16) for key, value in told["registers"].items()}


@pytest.mark.parametrize("name", kvm_names())
@pytest.mark.parametrize("known", [True, False], ids=["architecture known", "nothing known"])
def test_the_root_of_tables_that_kvm_wrote_is_the_best_without_registers(name: str, known: bool) -> None:
    source, registers = kvm_memory(name)
    arch = ARCHES[name.split("-")[0]]
    if arch == "x86_64":
        registers = {"N_CR3": registers["root"]}
    true = next(root for root in roots_of_registers([Cpu(0, registers)], arch)[0] if root.stage == 2)
    best = find(source, arch=arch if known else None).roots[0]
    assert (best.root.regime.root, best.root.regime.format) == (true.regime.root, true.regime.format)
    assert best.root.stage == 2
    assert best.alive is None


def test_a_root_that_a_register_names_comes_first_and_is_told_alive() -> None:
    source, table = with_tables("sv48", 3)
    satp = 9 << 60 | table.root >> 12
    cpus = (Cpu(0, {"satp": satp, "priv": 1, "virt": 0}),)
    with_registers = Bytes({BASE: source.read(BASE, 64 << 20)}, "riscv64", cpus)
    best = find(with_registers).roots[0]
    assert (best.register, best.alive) == ("satp", True)
    assert best.score > find(with_registers, registers=False).roots[0].score


def test_a_word_that_names_a_root_as_its_register_would_is_a_reason() -> None:
    source, table = with_tables("sv48x4", 5)
    data = bytearray(source.read(BASE, 64 << 20))
    struct.pack_into("<Q", data, 0x30_0008, 9 << 60 | 7 << 44 | table.root >> 12)
    best = find(Bytes({BASE: bytes(data)}, "riscv64")).roots[0]
    assert any("hgatp" in reason and hex(BASE + 0x30_0008) in reason for reason in best.reasons)


def test_a_vmcb_with_nested_paging_that_names_a_root_is_a_reason() -> None:
    source, table = with_tables("npt4", 5)
    data = bytearray(source.read(BASE, 64 << 20))
    struct.pack_into("<Q", data, 0x30_0090, 1)
    struct.pack_into("<Q", data, 0x30_00B0, table.root)
    best = find(Bytes({BASE: bytes(data)}, "x86_64")).roots[0]
    assert any(f"VMCB at {BASE + 0x30_0000:#x}" in reason for reason in best.reasons)


def test_only_the_formats_that_are_asked_for_are_found() -> None:
    source, _ = with_tables("npt4", 1)
    assert {root.root.regime.format.name for root in find(source, formats=["npt4"]).roots} == {"npt4"}
    assert not find(source, formats=["sv39x4"]).roots


@pytest.mark.parametrize("parts", [{}, {0x1000: b"\0" * 100}, {0x1234: b"\1" * 5000}, {0: b"\xff" * 8192}])
def test_memory_that_is_too_small_for_tables_has_no_root(parts: dict[int, bytes]) -> None:
    assert find(Bytes(parts)).roots == ()


@pytest.mark.parametrize("arch", ["riscv64", "aarch64", "x86_64"])
def test_memory_full_of_tables_that_lead_to_each_other_comes_to_an_end(arch: str) -> None:
    """Every page is a table, every entry points to a page; and the same with one page that leads to itself."""
    fmt = {"riscv64": "sv57", "aarch64": "arm-s1-4k-48", "x86_64": "x86-5level"}[arch]
    pages = SIZE // 4096
    dice = np.random.default_rng(2)
    to = dice.integers(0, pages, (pages, 512)).astype(np.uint64) * np.uint64(4096) + np.uint64(BASE)
    pointer = np.uint64(by_name(fmt).table_bits)
    packed = np.array([by_name(fmt).pack_address(int(at)) for at in np.unique(to)], np.uint64)
    words = packed[np.unique(to, return_inverse=True)[1].ravel()] | pointer
    for root in find(Bytes({BASE: words.tobytes()}, arch)).roots:
        assert 0 <= root.score <= 1
    itself = np.full(512, by_name(fmt).table_entry(BASE), np.uint64)
    find(Bytes({BASE: itself.tobytes()}, arch))


@settings(max_examples=25)
@given(st.data())
def test_no_noise_is_more_than_a_doubtful_root(data: st.DataObject) -> None:
    seed, pages = data.draw(st.integers(0, 1 << 32)), data.draw(st.integers(1, 64))
    dice = np.random.default_rng(seed)
    words = dice.integers(0, 1 << 64, pages * 512, np.uint64, endpoint=False)
    words[dice.random(len(words)) < data.draw(st.floats(0, 1))] = 0
    if data.draw(st.booleans()):
        words &= np.uint64(0xFFFF_FFFF)
    found = find(Bytes({data.draw(st.sampled_from([0, BASE, 1 << 40])): words.tobytes()}))
    assert all(root.score < 0.8 for root in found.roots)


def test_a_guests_own_tables_are_found_under_its_stage_2() -> None:
    """A guest at GPA 0x4000_0000 in memory at BASE, with Sv39 tables of its own by guest physical addresses."""
    memory = PhysicalMemory([Range(BASE, BASE + (64 << 20))])
    stage_2 = PageTable("sv39x4", FrameAllocator(memory), owner=Owner(OwnerKind.TABLES, "vm"))
    gpa, hpa = 0x4000_0000, BASE + (32 << 20)
    for at in range(0, 8 << 20, 4096):
        stage_2.map_page(gpa + at, Hpa(hpa + at), RW | MappingFlags.EXECUTE)
    guest = PhysicalMemory([Range(gpa, gpa + (8 << 20))])
    own = PageTable("sv39", FrameAllocator(guest), owner=Owner(OwnerKind.TABLES, "guest"))
    for number in range(64):
        own.map_page(0x1_0000 + number * 4096, Hpa(gpa + (4 << 20) + number * 4096), RW)
    memory.write(Hpa(hpa), guest.words.copy())
    source = Bytes({BASE: memory.words.copy().tobytes()}, "riscv64")
    found = {(root.root.regime.root, root.root.stage): root for root in find(source).roots}
    assert (stage_2.root, 2) in found
    mine = found[own.root, 1]
    assert mine.root.under is not None
    assert mine.root.under.regime.root == stage_2.root
    assert GuestMemory(source, stage_2.regime).ranges() == (Range(gpa, gpa + (8 << 20)),)


def called(arguments: Sequence[str]) -> tuple[int, str]:
    text = io.StringIO()
    with redirect_stdout(text):
        code = call(["find", *arguments])
    return code, text.getvalue()


def test_the_command_tells_roots_as_json_and_as_text(tmp_path: Path) -> None:
    source, table = with_tables("ept4", 9)
    file = tmp_path / "memory.bin"
    file.write_bytes(source.read(BASE, 64 << 20))
    arguments = [str(file), "--base", hex(BASE), "--arch", "x86_64", "--most", "1"]
    code, text = called([*arguments, "--json"])
    (root,) = json.loads(text)["roots"]
    assert code == 0
    assert (root["root"], root["format"], root["stage"], root["alive"]) == (table.root, "ept4", 2, None)
    assert root["name"].startswith(f"ept4@{table.root:#x}")
    assert root["reasons"]
    code, text = called(arguments)
    assert code == 0
    assert f"ept4@{table.root:#x}" in text


def test_the_command_says_that_nothing_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")  # a path may be long
    file = tmp_path / "zeros.bin"
    file.write_bytes(bytes(1 << 20))
    assert called([str(file), "--base", "0"]) == (0, f"No root of tables was found in 1 MiB of {file}.\n")
    assert called([str(tmp_path / "none")])[0] == 2


def test_names_are_looked_for_only_where_there_is_a_root() -> None:
    assert named_in(Bytes({0: bytes(4096)}), np.zeros(0, np.uint64), []) == {}
