"""The policy `write_xor_execute` of a VM: theorem `wx` over every pair of the VM's mappings, as the file says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stage2.address import Gpa, Hpa, Range
from stage2.cli.main import call
from stage2.config.document import parse_document
from stage2.config.regions import plan_vm
from stage2.config.stage2_format import named_format
from stage2.config.vm import read_vm
from stage2.errors import ConfigError
from stage2.flags import MappingFlags, MapType
from stage2.memory.frames import FrameAllocator
from stage2.memory.owners import Owner, OwnerKind
from stage2.memory.physical import PhysicalMemory
from stage2.prove import scan as scanning
from stage2.prove.prover import prove
from stage2.prove.source import HostTables
from stage2.prove.subject import Space, Subject
from stage2.prove.theorem import Seat
from stage2.prove.world import World
from stage2.space.region import MemoryRegion, Populate
from stage2.tables.pagetable import PageTable
from stage2.vm.host import Host, Options, build
from stage2.vm.isolation import subject_of

FORMATS = ("sv39x4", "ept4", "npt4", "arm-s2-4k-40")
CODE, DATA, SIZE = 0x8000_0000, 0x9000_0000, 0x40_0000
RW = MappingFlags.READ | MappingFlags.WRITE


def vm_text(number: int, policy: str, code: int = 0x5) -> str:
    return f"""\
[base]
id = {number}
name = "vm{number}"
vm_type = 1
cpu_num = 1
[kernel]
entry_point = {CODE:#x}
kernel_load_addr = {CODE:#x}
memory_regions = [[{CODE:#x}, {SIZE:#x}, {code:#x}, 0], [{DATA:#x}, {SIZE:#x}, 0x3, 0]]
[devices]
[stage2]
generation = "seed"
write_xor_execute = {policy}
"""


@pytest.fixture(params=[(fmt, size) for fmt in FORMATS for size in (None, 0x1000)], ids=str)
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    name, size = request.param
    fmt = named_format(name)
    texts = (vm_text(1, "true"), vm_text(2, "false", code=0x7))
    plans = [plan_vm(read_vm(parse_document(text, f"vm{number}.toml"))) for number, text in enumerate(texts, 1)]
    with build(plans, arch=fmt.arch, options=Options(Populate.EAGER, page_size=size, format=fmt)) as found:
        yield found


def test_only_the_vms_that_forbid_it_are_judged(host: Host) -> None:
    theorem = host.prove()["wx"]
    assert theorem.holds is True
    assert theorem.statement == "no host memory is writable and executable through any pair of the mappings of VM vm1"
    assert theorem.covered["bytes"] == 2 * SIZE
    subject = subject_of(host)
    every = tuple(replace(space, write_xor_execute=True) for space in subject.spaces)
    witness = prove(replace(subject, spaces=every))["wx"].witness
    assert witness is not None
    assert witness.seat == witness.other
    assert witness.seat is not None
    assert (witness.seat.who, host.vms[1].space.hpa_of(Gpa(witness.seat.address))) == ("VM vm2", witness.hpa)


def test_a_pair_of_mappings_is_refuted_with_both_addresses(host: Host) -> None:
    """A second address of a code page, writable: each mapping alone is in order."""
    space = host.vms[0].space
    page = space.format.leaf_size(0)
    hpa = space.hpa_of(Gpa(CODE + 5 * page))
    assert hpa is not None
    space.page_table.map_range(0x7000_0000, Hpa(hpa), page, RW)
    theorem = host.prove()["wx"]
    witness = theorem.witness
    assert theorem.holds is False
    assert witness is not None
    assert witness.seat is not None
    assert witness.other is not None
    assert (witness.seat.address, witness.other.address) == (CODE + 5 * page, 0x7000_0000)
    assert (witness.hpa, witness.span) == (hpa, witness.span)
    assert witness.span is not None
    assert (witness.span.start, witness.span.size) == (hpa, page)
    assert witness.problem == (
        f"VM vm1: {witness.span} is writable at GPA 0x70000000 and executable at GPA {CODE + 5 * page:#x}"
    )
    space.page_table.unmap_range(0x7000_0000, page)
    assert host.prove()["wx"].holds is True


def test_rights_that_are_given_later_are_seen(host: Host) -> None:
    page = host.vms[0].space.format.leaf_size(0)
    host.vms[0].space.page_table.protect_range(DATA, page, RW | MappingFlags.EXECUTE)
    witness = host.prove()["wx"].witness
    assert witness is not None
    assert witness.seat is not None
    assert witness.seat.address == DATA


def test_the_files_word_goes_with_the_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("vm.toml").write_text(vm_text(1, "true", code=0x7))
    assert call(["prove", "vm.toml", "--arch", "riscv64"]) == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "wx does not hold" in text
    assert "check says S2309: RAM 'ram0' of VM 1 'vm1'" in text
    assert call(["build", "vm.toml", "--arch", "riscv64", "-o", "out"]) == 0
    assert call(["prove", "out"]) == 1
    assert "wx does not hold" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="true or false"):
        read_vm(parse_document(vm_text(1, '"yes"'), "vm.toml"))


@pytest.fixture
def frames() -> Iterator[FrameAllocator]:
    with PhysicalMemory([Range(0x8000_0000, 0x8400_0000)]) as memory:
        yield FrameAllocator(memory)


@pytest.mark.parametrize("fmt", ["sv39", "x86-4level", "arm-s1-4k-48"])
@pytest.mark.parametrize("user", [MappingFlags(0), MappingFlags.USER])
def test_two_mappings_of_the_hypervisors_are_a_pair_also_across_its_halves(
    fmt: str, user: MappingFlags, frames: FrameAllocator
) -> None:
    low, high = (PageTable(fmt, frames, owner=Owner(OwnerKind.TABLES, "")) for _ in range(2))
    low.map_range(0x10_0000, Hpa(0x9000_0000), 0x4000, MappingFlags.READ | MappingFlags.EXECUTE | user)
    high.map_range(0x20_0000, Hpa(0x9000_4000), 0x4000, RW)
    own = tuple(Space("", table.regime) for table in (low, high))
    subject = Subject(HostTables(frames.memory), (), own)
    assert prove(subject)["wx"].holds is True
    high.map_range(0x30_0000, Hpa(0x9000_3000), 0x1000, RW)
    witness = prove(subject)["wx"].witness
    assert witness is not None
    assert witness.problem == "[0x90003000, 0x90004000) is writable at HVA 0x300000 and executable at HVA 0x103000"


@pytest.mark.parametrize("fmt", ["sv39x4", "ept4"])
def test_leaves_here_and_there_are_pairs_as_well(
    fmt: str, frames: FrameAllocator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages in such an order that no two continue each other: they are told by kind, not one by one."""
    monkeypatch.setattr(scanning, "_MANY", 1)
    table = PageTable(fmt, frames, owner=Owner(OwnerKind.TABLES, "vm"))
    count = 1 << 12
    order = [number * 1237 % count for number in range(count)]
    for base, first, flags in ((CODE, 0x9000_0000, MappingFlags.READ | MappingFlags.EXECUTE), (DATA, 0xA000_0000, RW)):
        table.map_extents([(base + at * 0x1000, first + page * 0x1000, 0x1000) for at, page in enumerate(order)], flags)
    regions = tuple(
        MemoryRegion(Gpa(base), count * 0x1000, flags, MapType.MAP_ALLOC)
        for base, flags in ((CODE, MappingFlags.READ | MappingFlags.EXECUTE), (DATA, RW))
    )
    space = Space("vm", table.regime, regions, write_xor_execute=True)
    subject = Subject(HostTables(frames.memory), (space,))
    world = World.of(subject)
    assert sum(kind.leaves for kind in world.vms[0].scan.scattered) == 2 * count
    assert prove(subject)["wx"].holds is True
    table.unmap_range(DATA + 77 * 0x1000, 0x1000)
    table.map_range(DATA + 77 * 0x1000, Hpa(0x9000_0000 + order[99] * 0x1000), 0x1000, RW)
    witness = prove(subject)["wx"].witness
    assert witness is not None
    assert (witness.seat, witness.other) == (Seat("VM vm", CODE + 99 * 0x1000), Seat("VM vm", DATA + 77 * 0x1000))
