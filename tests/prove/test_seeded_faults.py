"""Hosts of one to eight VMs in every format: sound ones are proved by prover and verifier, damaged ones are refuted."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stage2.address import Gpa, Hpa, Range
from stage2.config.document import parse_document
from stage2.config.regions import plan_vm
from stage2.config.stage2_format import named_format
from stage2.config.vm import read_vm
from stage2.flags import MappingFlags, MapType
from stage2.memory.owners import Owner, OwnerKind
from stage2.prove.certificate import certificate
from stage2.prove.prover import prove_world
from stage2.prove.subject import Subject
from stage2.prove.verify import verify
from stage2.prove.world import World
from stage2.ranges import RangeMap
from stage2.space.region import MemoryRegion, Populate
from stage2.tables.explain import explain_stage
from stage2.tables.result import Mapped
from stage2.vm.host import Host, Options, build
from stage2.vm.isolation import subject_of

FORMATS = ("sv39x4", "sv48x4", "ept4", "npt4", "arm-s2-4k-40", "arm-s2-16k-40", "arm-s2-64k-48")
RAM, DEVICE, SHARE, FREE, TRAP = 0x8000_0000, 0x1000_0000, 0x7000_0000, 0x5000_0000, 0x2000_0000
ROM, SMALL = 0x6000_0000, 0x9000_0000
PAGE = 0x1_0000
"""A page of the largest granule."""
RW = MappingFlags.READ | MappingFlags.WRITE | MappingFlags.USER
RWX = RW | MappingFlags.EXECUTE
RX = MappingFlags.READ | MappingFlags.EXECUTE | MappingFlags.USER


def text_of(number: int, count: int) -> str:
    """A VM with RAM of blocks and of pages, a ROM, a device, a trapped page, and a share with all others: the first
    writes, the others read."""
    peers = ", ".join(str(other) for other in range(1, count + 1) if other != number)
    share = f'[[share]]\nname = "ring"\ngpa = {SHARE:#x}\nsize = {PAGE:#x}\npeers = [{peers}]\n'
    share += f'access = "{"rw" if number == 1 else "r"}"\n'
    return f"""\
[base]
id = {number}
name = "vm{number}"
vm_type = 1
cpu_num = 1
[kernel]
entry_point = {RAM:#x}
kernel_load_addr = {RAM:#x}
memory_regions = [[{RAM:#x}, 0x20_0000, 0x7, 0], [{SMALL:#x}, {2 * PAGE:#x}, 0x7, 0]]
[devices]
passthrough_devices = [["uart", {DEVICE:#x}, {DEVICE + number * 0x10_0000:#x}, {PAGE:#x}, 0]]
emu_devices = [["trap", {TRAP:#x}, {PAGE:#x}, 0, 1, []]]
[stage2]
generation = "seed"
[[rom]]
name = "firmware"
gpa = {ROM:#x}
size = {PAGE:#x}
image = "firmware.bin"
{share if count > 1 else ""}"""


def host_of(name: str, count: int, page_size: int | None = None) -> Host:
    fmt = named_format(name)
    plans = [plan_vm(read_vm(parse_document(text_of(at, count), f"vm{at}.toml"))) for at in range(1, count + 1)]
    return build(plans, arch=fmt.arch, options=Options(populate=Populate.EAGER, format=fmt, page_size=page_size))


@dataclass
class Bench:
    """A host that is being damaged: one VM of it in the middle of things."""

    host: Host
    number: int

    @property
    def vm(self):  # type: ignore[no-untyped-def]
        return self.host.vms[self.number]

    @property
    def other(self):  # type: ignore[no-untyped-def]
        return self.host.vms[(self.number + 1) % len(self.host.vms)]

    def step(self, gpa: int, above: int = 0) -> tuple[int, int]:
        step = explain_stage(self.host.memory, self.vm.space.regime, gpa).steps[-1 - above]
        return step.slot, step.entry

    def store(self, slot: int, word: int) -> None:
        self.host.memory.store_u64(Hpa(slot), word)

    def leaf(self, hpa: int, flags: MappingFlags) -> int:
        return int(self.vm.space.page_table.page_bits(flags)) | int(self.vm.space.format.pack_address(hpa))

    def point(self, gpa: int, hpa: int | None, flags: MappingFlags = RW) -> None:
        assert hpa is not None
        self.store(self.step(gpa)[0], self.leaf(hpa, flags))

    def at(self, gpa: int) -> int:
        found = self.vm.space.hpa_of(Gpa(gpa))
        assert found is not None
        return int(found)


Edit = Callable[[Bench], None]


def few(part: int) -> int:
    """So small a part of the examples of other properties, because there are many faults."""
    return max(settings().max_examples // part, 1)


def neighbours_slot(bench: Bench, gpa: int) -> int:
    """An entry beside a leaf's that is free."""
    slot, _ = bench.step(gpa)
    size = bench.vm.space.format.table_size
    table = slot & ~(size - 1)
    return next(at for at in range(table, table + size, 8) if bench.host.memory.load_u64(Hpa(at)) == 0)


def last_page_elsewhere(bench: Bench) -> None:
    """All but the last page are right; where there is but one page, it leads to the next device."""
    page = bench.vm.space.format.page_size
    target = bench.at(DEVICE) if page < PAGE else bench.at(DEVICE) + 0x80_0000
    bench.point(DEVICE + PAGE - page, target, RW | MappingFlags.DEVICE)


def pages_change_places(bench: Bench) -> None:
    """Two pages behind the device's first; where there is but one page, it leads to the next device."""
    page = bench.vm.space.format.page_size
    if page == PAGE:
        return bench.point(DEVICE, bench.at(DEVICE) + 0x80_0000, RW | MappingFlags.DEVICE)
    targets = [bench.at(DEVICE + number * page) for number in (2, 3)]
    for number, target in zip((3, 2), targets, strict=True):
        bench.point(DEVICE + number * page, target, RW | MappingFlags.DEVICE)
    return None


TABLE_FAULTS: dict[str, Edit] = {
    "pages of the device change places": pages_change_places,
    "the device's last page leads to its first": last_page_elsewhere,
    "device leads to own RAM": lambda b: b.point(DEVICE, b.at(RAM), RW | MappingFlags.DEVICE),
    "the device's last page leads to own RAM": lambda b: b.point(
        DEVICE + PAGE - b.vm.space.format.page_size, b.at(RAM), RW | MappingFlags.DEVICE
    ),
    "device leads to own tables": lambda b: b.point(DEVICE, b.vm.space.page_table.table_ranges[0].start),
    "device leads to the next device": lambda b: b.point(DEVICE, b.at(DEVICE) + 0x80_0000, RW | MappingFlags.DEVICE),
    "device leads to memory of nobody": lambda b: b.point(DEVICE, b.host.memory.ranges[-1].end - PAGE),
    "device leads beyond RAM": lambda b: b.point(DEVICE, b.host.memory.ranges[-1].end + PAGE),
    "device is executable": lambda b: b.point(DEVICE, b.at(DEVICE), RX),
    "undeclared page leads to own RAM": lambda b: b.store(neighbours_slot(b, DEVICE), b.leaf(b.at(RAM), RW)),
    "undeclared page leads to the device": lambda b: b.store(
        neighbours_slot(b, DEVICE), b.leaf(b.at(DEVICE), RW | MappingFlags.DEVICE)
    ),
    "RAM page leads to the ROM": lambda b: b.point(SMALL, b.at(ROM), RWX),
    "RAM page leads to the device": lambda b: b.point(SMALL, b.at(DEVICE), RWX),
    "two RAM pages lead to one frame": lambda b: b.point(SMALL, b.at(SMALL + PAGE), RWX),
    "device leads to the ROM": lambda b: b.point(DEVICE, b.at(ROM), RW | MappingFlags.DEVICE),
    "ROM leads to RAM": lambda b: b.point(ROM, b.at(RAM), RX),
    "ROM is writable": lambda b: b.point(ROM, b.at(ROM), RWX),
    "leaf of ones": lambda b: b.store(b.step(DEVICE)[0], (1 << 64) - 1),
    "table entry of ones": lambda b: b.store(b.step(DEVICE, 1)[0], (1 << 64) - 1),
    "table entry of garbage": lambda b: b.store(b.step(DEVICE, 1)[0], 0xDEAD_BEEF_DEAD_BEEF),
    "two entries to one table": lambda b: b.store(b.step(DEVICE, 1)[0] ^ 8, b.step(DEVICE, 1)[1]),
}
PAIR_FAULTS: dict[str, Edit] = {
    "device leads to another's RAM": lambda b: b.point(DEVICE, b.other.space.hpa_of(Gpa(RAM))),
    "device leads to another's device": lambda b: b.point(
        DEVICE, b.other.space.hpa_of(Gpa(DEVICE)), RW | MappingFlags.DEVICE
    ),
    "device leads to another's tables": lambda b: b.point(DEVICE, b.other.space.page_table.table_ranges[0].start),
    "device leads to the share": lambda b: b.point(DEVICE, b.at(SHARE)),
    "share leads to another's RAM": lambda b: b.point(SHARE, b.other.space.hpa_of(Gpa(RAM))),
    "share leads to own RAM": lambda b: b.point(SHARE, b.at(RAM)),
    "share leads to the ROM": lambda b: b.point(SHARE, b.at(ROM)),
    "RAM page leads to the share": lambda b: b.point(SMALL, b.at(SHARE), RWX),
    "RAM page leads to another's ROM": lambda b: b.point(SMALL, b.other.space.hpa_of(Gpa(ROM)), RWX),
    "share is executable": lambda b: b.point(SHARE, b.at(SHARE), RX),
}


def verified(subject: Subject) -> bool:
    """What the second implementation says, beside a certificate that the prover makes of the same tables.

    What both judge they judge alike, theorem by theorem; an entry that is not sound ends the second's look.
    """
    world = World.of(subject, by_row=True)
    proof = prove_world(world)
    text, details = certificate(proof, world, "proof.ranges")
    with TemporaryDirectory() as folder:
        Path(folder, "proof.json").write_text(text)
        Path(folder, "proof.ranges").write_bytes(details)
        assert json.loads(text)["spaces"]
        found = verify(Path(folder, "proof.json"), subject)
    assert [one.name for one in found.theorems] == [one.name for one in proof.theorems]
    for one in found.theorems:
        assert one.claimed == proof[one.name].holds
        assert one.holds in (None, one.claimed), one
        if proof["wellformed"].holds and one.name not in ("tlb", "dma"):
            assert one.holds == one.claimed, one
    return found.problem is None


def confirmed(subject: Subject, witness_of: World) -> None:
    """Every witness's addresses lead where it says."""
    for theorem in prove_world(witness_of).theorems:
        witness = theorem.witness
        for seat in () if witness is None else (witness.seat, witness.other):
            if seat is None or witness is None or witness.hpa is None or witness.slot is not None:
                continue
            (space,) = (one for one in subject.spaces if one.who == seat.who)
            walk = explain_stage(subject.source, space.regime, seat.address)
            assert isinstance(walk.result, Mapped), theorem
            assert walk.result.hpa == witness.hpa, theorem


hosts = st.tuples(st.sampled_from(FORMATS), st.integers(1, 8), st.integers(0, 7))


@settings(deadline=None, max_examples=few(3))
@given(hosts)
def test_sound_hosts_are_proved_by_both_implementations(drawn: tuple[str, int, int]) -> None:
    name, count, _ = drawn
    with host_of(name, count) as host:
        subject = subject_of(host)
        proof = prove_world(World.of(subject))
        assert proof.proved, str(proof)
        assert verified(subject)


@pytest.mark.parametrize("fault", [*TABLE_FAULTS, *PAIR_FAULTS])
@settings(deadline=None, max_examples=few(10))
@given(drawn=hosts)
def test_damaged_tables_are_refuted_by_both_implementations(fault: str, drawn: tuple[str, int, int]) -> None:
    name, count, which = drawn
    count = max(count, 2) if fault in PAIR_FAULTS else count
    with host_of(name, count) as host:
        bench = Bench(host, which % count)
        frames = {span.start: host.memory.read(Hpa(span.start), span.size) for vm in host.vms
                  for span in vm.space.page_table.table_ranges}  # fmt: skip
        (TABLE_FAULTS | PAIR_FAULTS)[fault](bench)
        subject = subject_of(host)
        world = World.of(subject)
        refuted = not prove_world(world).proved
        confirmed(subject, world)
        second = verified(subject)
        for start, data in frames.items():  # a host with damaged tables cannot be taken apart
            host.memory.write(Hpa(start), data)
        assert refuted
        assert not second


def redeclared(subject: Subject, number: int, edit: Callable[[MemoryRegion], MemoryRegion | None], gpa: int) -> Subject:
    """A subject in which one region of a VM is another."""
    space = subject.spaces[number]
    regions = [edit(one) if one.start == gpa else one for one in space.regions]
    new = replace(space, regions=tuple(one for one in regions if one is not None))
    return replace(subject, spaces=(*subject.spaces[:number], new, *subject.spaces[number + 1 :]))


REGION_FAULTS: dict[str, tuple[int, Callable[[MemoryRegion], MemoryRegion | None]]] = {
    "RAM is gone": (RAM, lambda _: None),
    "device is gone": (DEVICE, lambda _: None),
    "RAM is smaller": (RAM, lambda one: replace(one, size=one.size - PAGE)),
    "RAM begins later": (RAM, lambda one: replace(one, start=Gpa(one.start + PAGE), size=one.size - PAGE)),
    "RAM is read-only": (RAM, lambda one: replace(one, flags=MappingFlags.READ | MappingFlags.USER)),
    "RAM is not executable": (RAM, lambda one: replace(one, flags=RW)),
    "device is elsewhere": (DEVICE, lambda one: replace(one, hpa=Hpa(0x3000_0000))),
    "device is to trap": (
        DEVICE, lambda one: replace(one, map_type=MapType.EMULATED, hpa=None, flags=MappingFlags(0)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", REGION_FAULTS)
@settings(deadline=None, max_examples=few(10))
@given(drawn=hosts)
def test_other_declarations_are_refuted_by_both_implementations(fault: str, drawn: tuple[str, int, int]) -> None:
    name, count, which = drawn
    gpa, edit = REGION_FAULTS[fault]
    with host_of(name, count) as host:
        subject = redeclared(subject_of(host), which % count, edit, gpa)
        assert prove_world(World.of(subject))["declared"].holds is False
        assert not verified(subject)


OWNERS = (
    None, Owner(OwnerKind.HYPERVISOR), Owner(OwnerKind.VM, "somebody"), Owner(OwnerKind.TABLES, "vm1"),
    Owner(OwnerKind.SHARE, "ring"), Owner(OwnerKind.RESERVED, "firmware"), Owner(OwnerKind.PER_CPU, "vm1"),
    Owner(OwnerKind.DEVICE, "disk of VM vm1"),
)  # fmt: skip


@pytest.mark.parametrize("owner", OWNERS, ids=str)
@settings(deadline=None, max_examples=few(10))
@given(drawn=hosts, page=st.integers(0, 31))
def test_other_owners_of_a_page_are_refuted(owner: Owner | None, drawn: tuple[str, int, int], page: int) -> None:
    name, count, which = drawn
    with host_of(name, count) as host:
        subject = subject_of(host)
        hpa = host.vms[which % count].space.hpa_of(Gpa(RAM + page * PAGE))
        assert hpa is not None
        assert subject.owners is not None
        owners: RangeMap[Owner] = RangeMap()
        for span, held in subject.owners:
            owners.add(span, held)
        owners.remove(Range.sized(hpa, PAGE))
        if owner is not None:
            owners.add(Range.sized(hpa, PAGE), owner)
        changed = replace(subject, owners=tuple(owners))
        assert not verified(changed)
        theorem = prove_world(World.of(changed))["owned"]
        assert theorem.holds is False
        assert theorem.witness is not None
        assert theorem.witness.hpa == hpa
