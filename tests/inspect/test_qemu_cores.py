"""Cores that QEMU writes of its machines: memory and registers are what QEMU itself says they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from qemu_dumps import MARK, MARK_AT, RAM, SIZE, Machine, machine

from stage2.inspect.elf_core import ElfCore
from stage2.inspect.opened import open_source
from stage2.inspect.root import roots_of_registers

ARM = {f"X{number}": f"X{number:02}" for number in range(31)} | {"SP": "SP", "pc": "PC", "cpsr": "PSTATE"}
RISCV = {f"x{number}": f"X{number}" for number in range(1, 32)} | {"pc": "PC"}
X86 = {name: name for name in ("RAX", "RBX", "RCX", "RDX", "RSI", "RDI", "RBP", "RSP", "R8", "R9", "R10", "R15")} | {
    "pc": "RIP", "RFLAGS": "RFL", "CR0": "CR0", "CR2": "CR2", "CR3": "CR3", "CR4": "CR4",
}  # fmt: skip
NAMES = {"aarch64": ARM, "riscv64": RISCV, "x86_64": X86}
"""Ours -> QEMU's, as `info registers` prints them."""


@pytest.fixture(scope="module", params=["aarch64", "riscv64", "x86_64"])
def dumped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Machine]]:
    folder = tmp_path_factory.mktemp(request.param)
    with machine(request.param, folder) as found:
        found.dump(folder / "plain.core")
        found.dump(folder / "paging.core", paging=True)
        yield request.param, found


def opened(found: Machine, name: str = "plain.core") -> ElfCore:
    source = open_source(str(found.folder / name))
    assert isinstance(source, ElfCore)
    return source


def test_registers_are_those_that_qemu_prints(dumped: tuple[str, Machine]) -> None:
    arch, found = dumped
    source, told = opened(found), found.registers()
    assert source.arch == arch
    [cpu] = source.registers()
    assert {name: cpu.values[name] for name in NAMES[arch]} == {
        name: told[theirs] for name, theirs in NAMES[arch].items()
    }
    assert MARK in cpu.values.values()


def test_memory_is_what_qemu_saves_of_it(dumped: tuple[str, Machine], tmp_path: Path) -> None:
    arch, found = dumped
    source, base = opened(found), RAM[arch]
    assert source.notices == ()
    assert source.word_at(base + MARK_AT) == MARK
    found.command("pmemsave", val=base + (1 << 20), size=SIZE - (1 << 20), filename=str(tmp_path / "ram"))
    raw = open_source(str(tmp_path / "ram"), base=base + (1 << 20))
    [span] = raw.ranges()
    assert source.read(span.start, span.size) == raw.read(span.start, span.size)


def test_holes_of_a_machine_are_holes(dumped: tuple[str, Machine]) -> None:
    arch, found = dumped
    source = opened(found)
    assert source.bytes_at(RAM[arch] + SIZE, 8) is None
    assert source.bytes_at(RAM[arch] + SIZE - 8, 16) is None
    assert source.bytes_at(RAM[arch] + SIZE - 8, 8) is not None


def test_a_core_with_paging_has_what_its_segments_show_and_says_what_they_do_not(dumped: tuple[str, Machine]) -> None:
    arch, found = dumped
    plain, paged = opened(found), opened(found, "paging.core")
    for span in paged.ranges():
        assert paged.read(span.start, span.size) == plain.read(span.start, span.size)
    # QEMU maps the first GiB by one segment, and shows of it what the first block of RAM holds.
    assert any("in part or not at all" in text for text in paged.notices) == (arch == "x86_64")


def test_of_a_machine_in_long_mode_the_core_names_the_root_of_its_tables(dumped: tuple[str, Machine]) -> None:
    arch, found = dumped
    roots, problems = roots_of_registers(opened(found).registers(), arch)
    assert problems == ()
    # No note of a core has the registers of the others' tables.
    assert [root.name.partition(",")[0] for root in roots] == (["x86-4level@0x1000"] if arch == "x86_64" else [])
