"""Small worlds made by hand: prover and verifier judge each theorem alike, and each tells where."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from stage2 import FrameAllocator, MappingFlags, MapType, MemoryRegion, PageTable, PhysicalMemory
from stage2.address import Gpa, Hpa, Range
from stage2.errors import ConfigError
from stage2.formats import by_name
from stage2.memory.owners import Owner, OwnerKind
from stage2.prove.certificate import certificate
from stage2.prove.prover import prove_world
from stage2.prove.source import HostTables
from stage2.prove.subject import Space, Subject
from stage2.prove.theorem import Proof
from stage2.prove.verify import Verification, verify
from stage2.prove.world import World

R, W, X, USER = MappingFlags.READ, MappingFlags.WRITE, MappingFlags.EXECUTE, MappingFlags.USER
RW, RX, RWX = R | W | USER, R | X | USER, R | W | X | USER
UNCACHED = RW | MappingFlags.UNCACHED
PAGE = 0x1000
HOST = 0x1_0000_0000
"""Host memory of guests; tables are elsewhere."""
A, B = Owner(OwnerKind.VM, "a"), Owner(OwnerKind.VM, "b")
SHARE = Owner(OwnerKind.SHARE, "ring")


@dataclass
class Made:
    """Spaces that are put together page by page."""

    frames: FrameAllocator
    folder: Path
    spaces: list[Space] = field(default_factory=list)
    tables: list[PageTable] = field(default_factory=list)
    owners: list[tuple[Range, Owner]] | None = field(default_factory=list)

    def vm(self, name: str, *regions: MemoryRegion, fmt: str = "ept4", controls: int | None = None) -> PageTable:
        table = PageTable(by_name(fmt), self.frames, owner=Owner(OwnerKind.TABLES, name), controls=controls)
        self.spaces.append(Space(name, table.regime, regions, ()))
        self.tables.append(table)
        return table

    def owns(self, owner: Owner, hpa: int, pages: int = 1) -> None:
        assert self.owners is not None
        self.owners.append((Range.sized(hpa, pages * PAGE), owner))

    def subject(self) -> Subject:
        spaces = tuple(
            replace(space, frames=tuple(table.table_ranges))
            for space, table in zip(self.spaces, self.tables, strict=True)
        )
        held = None if self.owners is None else (*self.frames.owners, *self.owners)
        owners = None if held is None else tuple(sorted(held, key=lambda one: one[0].start))
        return Subject(HostTables(self.frames.memory), spaces, (), owners)

    def judged(self) -> tuple[Proof, Verification]:
        """What both say, theorem by theorem the same."""
        subject = self.subject()
        world = World.of(subject, by_row=True)
        proof = prove_world(world)
        text, details = certificate(proof, world, "proof.ranges")
        (self.folder / "proof.json").write_text(text)
        (self.folder / "proof.ranges").write_bytes(details)
        found = verify(self.folder / "proof.json", subject)
        for one in found.theorems:
            assert one.holds == (None if one.name == "dma" else proof[one.name].holds), (one, proof[one.name])
        return proof, found

    @property
    def problems(self) -> dict[str, str | None]:
        """What the verifier finds wrong."""
        return {one.name: one.problem for one in self.judged()[1].theorems if one.holds is False}


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Made]:
    with PhysicalMemory([Range(0x8000_0000, 0x8800_0000)]) as memory:
        yield Made(FrameAllocator(memory), tmp_path)


def region(start: int, pages: int, kind: MapType = MapType.MAP_ALLOC, flags: MappingFlags = RWX, hpa: int | None = None,
           name: str = "ram") -> MemoryRegion:  # fmt: skip
    return MemoryRegion(Gpa(start), pages * PAGE, flags, kind, None if hpa is None else Hpa(hpa), name)


def share(start: int, hpa: int, flags: MappingFlags = RW) -> MemoryRegion:
    return region(start, 1, MapType.SHARE, flags, hpa, "ring")


def test_memory_of_its_own_a_share_and_a_device_are_sound(made: Made) -> None:
    device = region(0x9000, 1, MapType.MMIO, RW | MappingFlags.DEVICE, HOST + 0x9000, "uart")
    for name, first, owner in (("a", HOST, A), ("b", HOST + 0x10_0000, B)):
        regions = [region(0, 2), share(0x4000, HOST + 0x8000), *([device] if name == "a" else [])]
        table = made.vm(name, *regions)
        table.map_range(0, Hpa(first), 2 * PAGE, RWX)
        table.map_page(0x4000, Hpa(HOST + 0x8000), RW)
        made.owns(owner, first, 2)
        if name == "a":
            table.map_page(0x9000, Hpa(HOST + 0x9000), device.flags)
    made.owns(SHARE, HOST + 0x8000)
    made.owns(Owner(OwnerKind.DEVICE, "uart of VM a"), HOST + 0x9000)
    proof, found = made.judged()
    assert proof.proved
    assert (found.problem, found.leaves) == (None, 7)
    assert str(proof) == "proved: apart, owned, declared, wellformed (wx, tlb, dma: not applicable)"
    assert proof["apart"].covered == {"vms": 2, "bytes": 7 * PAGE}
    assert proof["owned"].covered == {"vms": 2, "bytes": 7 * PAGE}
    assert proof["declared"].covered == {"vms": 2, "regions": 5, "leaves": 7}
    assert proof["wellformed"].covered == {"spaces": 2, "tables": 8, "leaves": 7}


def pair(made: Made, first: MemoryRegion, second: MemoryRegion, here: int, there: int, pages: int = 1,
         second_format: str = "ept4") -> None:  # fmt: skip
    """Two VMs with a region each, mapped as the region says."""
    made.owners = None
    for name, one, hpa, fmt in (("a", first, here, "ept4"), ("b", second, there, second_format)):
        made.vm(name, one, fmt=fmt).map_range(one.start, Hpa(hpa), pages * PAGE, one.flags)


def test_vms_that_meet_in_the_middle_are_told_where(made: Made) -> None:
    pair(made, region(0, 4), region(0x10_0000, 4), HOST, HOST + 3 * PAGE, 4)
    assert made.problems == {"apart": f"VM a and VM b both reach HPA {HOST + 3 * PAGE:#x}"}
    proof = made.judged()[0]
    assert str(proof) == f"refuted: apart: VM a and VM b both reach {Range.sized(HOST + 3 * PAGE, PAGE)}"
    witness = proof["apart"].witness
    assert witness is not None
    assert witness.seat is not None
    assert witness.other is not None
    assert (witness.seat.address, witness.other.address, witness.hpa) == (3 * PAGE, 0x10_0000, HOST + 3 * PAGE)


def test_vms_that_only_touch_are_apart(made: Made) -> None:
    pair(made, region(0, 4), region(0, 4), HOST, HOST + 4 * PAGE, 4)
    assert made.problems == {}


@pytest.mark.parametrize("swapped", [False, True])
def test_a_share_that_is_the_other_vms_ram_is_refuted(made: Made, swapped: bool) -> None:
    one, other = share(0, HOST), region(0, 1)
    pair(made, other if swapped else one, one if swapped else other, HOST, HOST)
    assert made.problems == {"apart": f"VM a and VM b both reach HPA {HOST:#x}"}


@pytest.mark.parametrize("swapped", [False, True])
def test_a_share_has_one_memory_type(made: Made, swapped: bool) -> None:
    one, other = share(0, HOST), share(0x3000, HOST, UNCACHED)
    pair(made, other if swapped else one, one if swapped else other, HOST, HOST)
    assert made.problems == {"apart": f"VM a and VM b share HPA {HOST:#x} with two memory types"}


@pytest.mark.parametrize("other", ["npt4", "sv39x4", "arm-s2-4k-40"])
def test_memory_types_of_different_formats_are_not_compared(made: Made, other: str) -> None:
    pair(made, share(0, HOST), share(0x3000, HOST), HOST, HOST, second_format=other)
    assert made.problems == {}


def test_a_share_may_be_reached_twice_and_read_only_by_one(made: Made) -> None:
    pair(made, share(0, HOST), share(0x3000, HOST, R | USER), HOST, HOST)
    assert made.problems == {}


def test_a_third_vm_is_held_against_all_before_it(made: Made) -> None:
    made.owners = None
    for name, hpa, pages in (("a", HOST, 8), ("b", HOST + 0x8000, 1), ("c", HOST + 0x5000, 1)):
        made.vm(name, region(0, pages)).map_range(0, Hpa(hpa), pages * PAGE, RWX)
    assert made.problems == {"apart": f"VM a and VM c both reach HPA {HOST + 0x5000:#x}"}


OWNED: dict[str, tuple[list[tuple[Owner, int, int]], str | None]] = {
    "all its own": ([(A, 0, 4)], None),
    "its own in pieces": ([(A, 0, 1), (A, 1, 3)], None),
    "nobody's at the beginning": ([(A, 1, 3)], "0, which belongs to nobody"),
    "nobody's in the middle": ([(A, 0, 1), (A, 2, 2)], "1, which belongs to nobody"),
    "nobody's at the end": ([(A, 0, 3), (A, 5, 1)], "3, which belongs to nobody"),
    "another's at the beginning": ([(B, 0, 1), (A, 1, 3)], "0, which belongs to VM b"),
    "another's in the middle": ([(A, 0, 2), (B, 2, 1), (A, 3, 1)], "2, which belongs to VM b"),
    "another's at the end": ([(A, 0, 3), (B, 3, 1)], "3, which belongs to VM b"),
    "a share": ([(A, 0, 3), (SHARE, 3, 1)], "3, which belongs to share ring"),
    "nothing held by anybody": ([], "0, which belongs to nobody"),
}


@pytest.mark.parametrize("case", OWNED)
def test_each_byte_of_a_range_has_the_right_owner(made: Made, case: str) -> None:
    owners, told = OWNED[case]
    made.vm("a", region(0, 4)).map_range(0, Hpa(HOST), 4 * PAGE, RWX)
    for owner, first, pages in owners:
        made.owns(owner, HOST + first * PAGE, pages)
    expected = {}
    if told is not None:
        page, _, rest = told.partition(",")
        expected["owned"] = f"VM a reaches HPA {HOST + int(page) * PAGE:#x},{rest}"
    assert made.problems == expected
    witness = made.judged()[0]["owned"].witness
    assert (witness is None) == (told is None)
    if witness is not None:
        assert witness.problem.endswith(expected["owned"].partition(", ")[2])
        assert f"HPA {witness.hpa:#x}," in expected["owned"]
        assert witness.seat is not None
        assert witness.hpa is not None
        assert witness.seat.address == witness.hpa - HOST


def test_nobody_owns_anything_where_no_owner_is_known_of(made: Made) -> None:
    made.vm("a", region(0, 1)).map_page(0, Hpa(HOST), RWX)
    subject = replace(made.subject(), owners=())
    assert prove_world(World.of(subject))["owned"].holds is False
    made.owners = []
    made.judged()
    found = {one.name: one for one in verify(made.folder / "proof.json", subject).theorems}
    assert found["owned"].problem == f"VM a reaches HPA {HOST:#x}, which belongs to nobody"


def test_the_first_of_all_owners_counts(made: Made) -> None:
    made.vm("a", region(0, 1)).map_page(0, Hpa(HOST), RWX)
    made.owns(A, HOST)
    made.judged()
    subject = replace(made.subject(), owners=((Range.sized(HOST, PAGE), A),))
    found = {one.name: one.holds for one in verify(made.folder / "proof.json", subject).theorems}
    assert (found["owned"], found["wellformed"]) == (True, False)


@pytest.mark.parametrize("digest", ["0" * 64, "f" * 64])
def test_details_of_another_certificate_are_bad_input(made: Made, digest: str) -> None:
    with pytest.raises(ConfigError, match="its SHA-256 differs"):
        edited(made, lambda found: found["details"].update(sha256=digest))


REGION_OWNERS = (
    (region(0, 1), A, True),
    (region(0, 1, MapType.ROM, RX), A, True),
    (region(0, 1), SHARE, False),
    (region(0, 1), Owner(OwnerKind.DEVICE, "ram of VM a"), False),
    (share(0, HOST), SHARE, True),
    (share(0, HOST), A, False),
    (region(0, 1, MapType.MMIO, RW, HOST, "uart"), Owner(OwnerKind.DEVICE, "uart of VM a"), True),
    (region(0, 1, MapType.MMIO, RW, HOST, "uart"), Owner(OwnerKind.DEVICE, "uart of VM b"), False),
    (region(0, 1, MapType.MMIO, RW, HOST, "uart"), Owner(OwnerKind.DEVICE, "disk of VM a"), False),
    (region(0, 1, MapType.MMIO, RW, HOST, "uart"), A, True),
    (region(0, 1, MapType.MMIO, RW, HOST, "uart"), SHARE, False),
    (region(0, 1), Owner(OwnerKind.TABLES, "a"), False),
    (region(0, 1), Owner(OwnerKind.HYPERVISOR), False),
)


@pytest.mark.parametrize(("one", "owner", "sound"), REGION_OWNERS, ids=str)
def test_what_may_be_behind_a_region_is_by_its_kind(made: Made, one: MemoryRegion, owner: Owner, sound: bool) -> None:
    made.vm("a", one).map_page(0, Hpa(HOST), one.flags)
    made.owns(owner, HOST)
    told = {"owned": f"VM a reaches HPA {HOST:#x}, which belongs to {owner}"}
    assert made.problems == ({} if sound else told)


def test_a_range_that_goes_on_into_a_share_is_judged_in_parts(made: Made) -> None:
    made.vm("a", region(0, 32), share(0x2_0000, HOST + 0x2_0000)).map_range(0, Hpa(HOST), 33 * PAGE, RW)
    made.owns(A, HOST, 33)
    assert made.problems == {"owned": f"VM a reaches HPA {HOST + 0x2_0000:#x}, which belongs to VM a"}


DECLARED: dict[str, tuple[list[MemoryRegion], list[tuple[int, int, int, MappingFlags]], str | None]] = {
    "all in one region": ([region(0x1000, 4)], [(0x1000, 0, 4, RWX)], None),
    "all in two regions": ([region(0x3000, 2), region(0x1000, 2)], [(0x1000, 0, 4, RWX)], None),
    "before a region": ([region(0x1000, 4)], [(0, 0, 5, RWX)], "VM a reaches GPA 0x0, where it declares nothing"),
    "behind a region": ([region(0x1000, 4)], [(0x1000, 0, 5, RWX)],
                        "VM a reaches GPA 0x5000, where it declares nothing"),
    "between regions": ([region(0, 1), region(0x3000, 1)], [(0, 0, 4, RWX)],
                        "VM a reaches GPA 0x1000, where it declares nothing"),
    "without a region": ([], [(0x7000, 0, 1, RWX)], "VM a reaches GPA 0x7000, where it declares nothing"),
    "less than its rights": ([region(0, 1)], [(0, 0, 1, R | USER)], None),
    "more than its rights": ([region(0, 1, flags=RX)], [(0, 0, 1, RWX)],
                             "VM a may do more at GPA 0x0 than ram [0x0, 0x1000) r-xu-- says"),
    "more in its second part": ([region(0, 1), region(0x1000, 1, flags=RX)], [(0, 0, 2, RWX)],
                                "VM a may do more at GPA 0x1000 than ram [0x1000, 0x2000) r-xu-- says"),
    "reads where it may only execute": ([region(0, 1, flags=X | USER)], [(0, 0, 1, RX)],
                                        "VM a may do more at GPA 0x0 than ram [0x0, 0x1000) --xu-- says"),
    "a ROM that is written": ([region(0, 1, MapType.ROM, RX)], [(0, 0, 1, RWX)],
                              "VM a may do more at GPA 0x0 than ram [0x0, 0x1000) r-xu-- says"),
    "a trap that is mapped": ([region(0, 1, MapType.EMULATED, RW)], [(0, 0, 1, R | USER)],
                              "VM a may do more at GPA 0x0 than ram [0x0, 0x1000) rw-u-- says"),
    "identical": ([region(HOST, 2, MapType.MAP_IDENTICAL)], [(HOST, 0, 2, RWX)], None),
    "identical and moved": ([region(HOST, 2, MapType.MAP_IDENTICAL)], [(HOST, PAGE, 2, RWX)],
                            f"VM a: GPA {HOST:#x} leads to HPA {HOST + PAGE:#x}, and ram {Range.sized(HOST, 0x2000)} "
                            "rwxu-- says another"),
    "a share's second page": ([region(0, 2, MapType.SHARE, RW, HOST, "ring")], [(PAGE, 0, 1, RW)],
                              f"VM a: GPA 0x1000 leads to HPA {HOST:#x}, and ring [0x0, 0x2000) rw-u-- says another"),
    "a memory type of its own": ([region(0, 1, flags=RW)], [(0, 0, 1, UNCACHED)],
                                 "VM a: GPA 0x0 has another memory type than ram [0x0, 0x1000) rw-u--"),
    "two pages, one frame": ([region(0, 2)], [(0, PAGE, 1, RWX), (PAGE, PAGE, 1, RWX)],
                             f"VM a reaches HPA {HOST + PAGE:#x} by two addresses, and not both regions name it"),
    "RAM leads to a ROM": ([region(0, 1), region(0x1000, 1, MapType.ROM, RX)], [(0, 0, 1, RWX), (0x1000, 0, 1, RX)],
                           f"VM a reaches HPA {HOST:#x} by two addresses, and not both regions name it"),
    "RAM leads to its device": ([region(0, 1), region(0x1000, 1, MapType.MMIO, RW, HOST)],
                                [(0, 0, 1, RW), (0x1000, 0, 1, RW)],
                                f"VM a reaches HPA {HOST:#x} by two addresses, and not both regions name it"),
    "RAM leads to its share": ([region(0, 1), share(0x1000, HOST)], [(0, 0, 1, RW), (0x1000, 0, 1, RW)],
                               f"VM a reaches HPA {HOST:#x} by two addresses, and not both regions name it"),
    "a device twice": ([region(0, 1, MapType.MMIO, RW, HOST), region(0x1000, 1, MapType.MMIO, RW, HOST)],
                       [(0, 0, 1, RW), (0x1000, 0, 1, RW)], None),
    "a share twice": ([share(0, HOST), share(0x1000, HOST)], [(0, 0, 1, RW), (0x1000, 0, 1, RW)], None),
}  # fmt: skip


@pytest.mark.parametrize("case", DECLARED)
def test_leaves_are_what_regions_say(made: Made, case: str) -> None:
    regions, maps, told = DECLARED[case]
    made.owners = None
    table = made.vm("a", *regions)
    for gpa, hpa, pages, flags in maps:
        table.map_range(gpa, Hpa(HOST + hpa), pages * PAGE, flags)
    assert made.problems == ({} if told is None else {"declared": told})


def test_rights_of_supervisor_and_user_both_count(made: Made) -> None:
    made.owners = None
    table = made.vm("a", region(0, 1, flags=R | USER), fmt="arm-s2-4k-40")
    table.map_page(0, Hpa(HOST), RX)
    assert list(made.problems) == ["declared"]


def test_leaves_of_a_translated_group_lead_where_a_walk_says(made: Made) -> None:
    fmt = by_name("sv39x4")
    made.owners = None
    table = made.vm("a", region(0, 32), fmt="sv39x4", controls=fmt.controls_with("napot"))
    table.map_range(0, Hpa(HOST + 0x1_0000), 32 * PAGE, RWX)  # an odd group behind an even one
    table.coalesce(0, 32 * PAGE, blocks=False, groups=True)
    assert table.memory.load_u64(Hpa(table.explain(0).steps[-1].slot)) >> 63
    proof, found = made.judged()
    assert (proof.proved, found.problem, found.leaves) == (True, None, 32)


def test_an_entry_that_is_not_sound_is_told_where_it_stands(made: Made) -> None:
    made.owners = None
    table = made.vm("a", region(0, 8))
    table.map_range(0, Hpa(HOST), 8 * PAGE, RWX)
    slot = table.explain(5 * PAGE).steps[-1].slot
    table.memory.store_u64(Hpa(slot), (1 << 64) - 1)
    subject = made.subject()
    world = World.of(subject, by_row=True)
    proof = prove_world(world)
    witness = proof["wellformed"].witness
    assert witness is not None
    assert witness.seat is not None
    assert (witness.slot, witness.seat.address) == (slot, 5 * PAGE)
    text, details = certificate(proof, world, "proof.ranges")
    (made.folder / "proof.json").write_text(text)
    (made.folder / "proof.ranges").write_bytes(details)
    found = verify(made.folder / "proof.json", subject)
    told = f"VM a: the entry {(1 << 64) - 1:#x} at {slot:#x} is not sound"
    assert found.problem == f"`wellformed` does not hold: {told}"
    reasons = {one.name: one.why_not for one in found.theorems if one.holds is None}
    assert reasons["declared"] == "an entry is not sound, and nothing behind it was looked at"
    table.memory.store_u64(Hpa(slot), 0)


def edited(made: Made, edit: Callable[[dict[str, Any]], object]) -> str | None:
    """What a certificate of a sound VM is told to be after an edit of its JSON."""
    made.owners = None
    made.vm("a", region(0, 2), share(0x4000, HOST + 0x8000)).map_range(0, Hpa(HOST), 2 * PAGE, RWX)
    made.judged()
    path = made.folder / "proof.json"
    found = json.loads(path.read_text())
    edit(found)
    path.write_text(json.dumps(found))
    return verify(path, made.subject()).problem


def test_a_theorem_that_the_certificate_leaves_out_is_proved_all_the_same(made: Made) -> None:
    pair(made, region(0, 1), region(0, 1), HOST, HOST)
    made.judged()
    path = made.folder / "proof.json"
    found = json.loads(path.read_text())
    found["theorems"] = [{"name": "more", "holds": True}]
    path.write_text(json.dumps(found))
    answer = verify(path, made.subject())
    assert answer.problem == f"`apart` does not hold: VM a and VM b both reach HPA {HOST:#x}"
    assert answer.theorems[0].claimed is None
    assert (answer.theorems[-1].name, answer.theorems[-1].holds) == ("more", None)
    assert answer.theorems[-1].why_not == "this program knows no such theorem"


def test_every_hash_and_count_is_compared(made: Made) -> None:
    def other_hash(found: dict[str, Any]) -> None:
        found["spaces"][0]["levels"][3]["sha256"] = "0" * 64

    assert edited(made, other_hash) == "VM a: the 1 tables of level 0 are not the certificate's"


def test_a_level_that_is_left_out_is_missed(made: Made) -> None:
    told = edited(made, lambda found: found["spaces"][0]["levels"].pop(0))
    assert told == "VM a: the 1 tables of level 3 are not the certificate's"


@pytest.mark.parametrize("leaves", [1, 3])
def test_the_number_of_leaves_is_compared(made: Made, leaves: int) -> None:
    told = edited(made, lambda found: found["spaces"][0].update(leaves=leaves))
    assert told == f"VM a: leaves is 2, and the certificate says {leaves}"


def test_a_certificate_without_ranges_misses_what_is_mapped(made: Made) -> None:
    told = edited(made, lambda found: found["spaces"][0].update(rows=0))
    assert told == "VM a: the tables map 0x0, and the certificate does not say so"


@pytest.mark.parametrize("column", ["start", "HPA", "size", "attributes"])
@pytest.mark.parametrize("by", [-PAGE, PAGE])
def test_a_range_that_is_another_is_not_what_the_tables_map(made: Made, column: str, by: int) -> None:
    made.owners = None
    made.vm("a", region(0x4000, 2)).map_range(0x4000, Hpa(HOST), 2 * PAGE, RWX)
    made.judged()
    words = list(struct.unpack("<4Q", (made.folder / "proof.ranges").read_bytes()))
    words[["start", "HPA", "size", "attributes"].index(column)] += by
    data = struct.pack("<4Q", *words)
    (made.folder / "proof.ranges").write_bytes(data)
    found = json.loads((made.folder / "proof.json").read_text())
    found["details"]["sha256"] = hashlib.sha256(data).hexdigest()
    (made.folder / "proof.json").write_text(json.dumps(found))
    answer = verify(made.folder / "proof.json", made.subject())
    # A range that is too short is right as far as it goes.
    told = f"the certificate's range at {words[0]:#x} is not what the tables map"
    if (column, by) == ("size", -PAGE):
        told = "the tables map 0x5000, and the certificate does not say so"
    assert answer.problem == f"VM a: {told}"
    assert answer.theorems == ()


DAMAGE: dict[str, Callable[[dict[str, Any]], object]] = {
    "a first range before the first": lambda found: found["spaces"][0].update(first=-1),
    "more ranges than there are": lambda found: found["spaces"][0].update(rows=2),
    "fewer ranges than none": lambda found: found["spaces"][0].update(rows=-1),
    "a number as text": lambda found: found["spaces"][0].update(first="0"),
    "rows as text": lambda found: found["spaces"][0].update(rows="1"),
    "levels that are no list": lambda found: found["spaces"][0].update(levels={}),
    "a theorem that holds somewhat": lambda found: found["theorems"][0].update(holds="somewhat"),
    "a theorem without a name": lambda found: found["theorems"][0].pop("name"),
    "no theorems": lambda found: found.pop("theorems"),
    "another version": lambda found: found.update({"stage2 certificate": 2}),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_certificate_is_bad_input(made: Made, damage: str) -> None:
    with pytest.raises(ConfigError) as error:
        edited(made, DAMAGE[damage])
    told = "is a certificate of version 2; this program reads 1" if "version" in damage else "is no certificate of"
    assert told in str(error.value)


def test_a_root_of_a_space_is_inside_its_frames_to_the_last_byte(made: Made) -> None:
    table = made.vm("a", region(0, 1), fmt="sv39x4")
    table.map_page(0, Hpa(HOST), RWX)
    made.owns(A, HOST)
    subject = made.subject()
    short = Range(table.root, table.root + 4 * PAGE - 8)
    rest = tuple(span for span in table.table_ranges if span.start != table.root)
    assert len(rest) == len(table.table_ranges) - 1
    frames = (short, *rest)
    (space,) = subject.spaces
    changed = replace(subject, spaces=(replace(space, frames=frames),))
    made.judged()
    found = {one.name: one.problem for one in verify(made.folder / "proof.json", changed).theorems}
    told = f"VM a has a table at {table.root + 4 * PAGE - 8:#x}, which is none of its tables' frames"
    assert found["wellformed"] == told
    assert prove_world(World.of(changed))["wellformed"].holds is False
