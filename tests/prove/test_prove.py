"""Sound hosts are proved, and every seeded fault is refuted with a witness that the explained walk confirms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stage2.address import Gpa, Hpa, Range
from stage2.config.document import parse_document
from stage2.config.regions import plan_vm
from stage2.config.stage2_format import named_format
from stage2.config.vm import read_vm
from stage2.flags import MappingFlags
from stage2.memory.owners import Owner, OwnerKind
from stage2.prove.certificate import certificate
from stage2.prove.packing import packing_of
from stage2.prove.prover import prove, prove_world
from stage2.prove.subject import GivenDevice, Subject
from stage2.prove.theorem import Proof
from stage2.prove.verify import Verification, verify
from stage2.prove.world import World
from stage2.ranges import RangeMap
from stage2.space.region import Populate
from stage2.tables.explain import explain_stage
from stage2.tables.result import Mapped
from stage2.vm.host import Host, Options, build
from stage2.vm.isolation import subject_of
from stage2.vm.vm import Vm

FORMATS = ("sv39x4", "sv48x4", "ept4", "npt4", "arm-s2-4k-40", "arm-s2-16k-40")
STORED: list[tuple[Hpa, int]] = []
"""What tests have overwritten in tables, and what was there."""
SHARE, DEVICE, RAM, ROM = 0x7000_0000, 0x1000_0000, 0x8000_0000, 0x6000_0000


def vm_text(number: int) -> str:
    peer = 3 - number
    return f"""\
[base]
id = {number}
name = "vm{number}"
vm_type = 1
cpu_num = 1
[kernel]
entry_point = {RAM:#x}
kernel_load_addr = {RAM:#x}
memory_regions = [[{RAM:#x}, 0x40_0000, 0x7, 0]]
[devices]
passthrough_devices = [["uart{number}", {DEVICE:#x}, {DEVICE + number * 0x10_0000:#x}, 0x10000, 0]]
[[share]]
name = "ring"
gpa = {SHARE:#x}
size = 0x1_0000
access = "{"rw" if number == 1 else "r"}"
peers = [{peer}]
"""


@pytest.fixture(params=FORMATS)
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    fmt = named_format(request.param)
    plans = [plan_vm(read_vm(parse_document(vm_text(number), f"vm{number}.toml"))) for number in (1, 2)]
    options = Options(populate=Populate.EAGER, format=fmt, page_size=None)
    with build(plans, arch=fmt.arch, options=options) as found:
        yield found
        while STORED:  # a host with damaged tables cannot be taken apart
            found.memory.store_u64(*STORED.pop())


def entry_of(host: Host, vm: Vm, gpa: int) -> tuple[int, int]:
    """HPA and word of the leaf for a GPA."""
    step = explain_stage(host.memory, vm.space.regime, gpa).steps[-1]
    return step.slot_hpa or step.slot, step.entry


def store(host: Host, slot: int, word: int) -> None:
    STORED.append((Hpa(slot), host.memory.load_u64(Hpa(slot))))
    host.memory.store_u64(Hpa(slot), word)


def leaf(vm: Vm, hpa: int, flags: MappingFlags) -> int:
    """The word of a smallest leaf."""
    return vm.space.page_table.page_bits(flags) | int(vm.space.format.pack_address(hpa))


RW = MappingFlags.READ | MappingFlags.WRITE | MappingFlags.USER
RWX = RW | MappingFlags.EXECUTE


def test_a_sound_host_is_proved(host: Host) -> None:
    proof = host.prove()
    assert proof.proved, str(proof)
    assert [one.holds for one in proof.theorems] == [True, True, True, None, True, None, True]
    assert proof["apart"].covered["vms"] == 2
    assert proof["declared"].covered["regions"] == 6


def point(host: Host, gpa: int, hpa: int, flags: MappingFlags = RW) -> None:
    """Let a page of VM 1 lead to an HPA."""
    vm = host.vms[0]
    slot, _ = entry_of(host, vm, gpa)
    store(host, slot, leaf(vm, hpa, flags))


def other_vms_ram(host: Host) -> None:
    found = host.vms[1].space.hpa_of(Gpa(RAM))
    assert found is not None
    point(host, SHARE, found)


def own_tables(host: Host) -> None:
    point(host, SHARE, host.vms[0].space.page_table.table_ranges[0].start)


def memory_of_nobody(host: Host) -> None:
    point(host, SHARE, host.memory.ranges[-1].end - 0x1_0000)


def other_vms_device(host: Host) -> None:
    flags = RW | MappingFlags.DEVICE
    point(host, DEVICE, DEVICE + 0x20_0000, flags)


def reader_of_a_share_that_writes(host: Host) -> None:
    vm = host.vms[1]
    slot, _ = entry_of(host, vm, SHARE)
    hpa = vm.space.hpa_of(Gpa(SHARE))
    assert hpa is not None
    store(host, slot, leaf(vm, hpa, RW))


def share_that_leads_elsewhere_in_itself(host: Host) -> None:
    found = host.vms[0].space.hpa_of(Gpa(SHARE + 0x8000))
    assert found is not None
    point(host, SHARE, found)


def executable_share(host: Host) -> None:
    found = host.vms[0].space.hpa_of(Gpa(SHARE))
    assert found is not None
    point(host, SHARE, found, RWX)


def share_as_device_memory(host: Host) -> None:
    found = host.vms[0].space.hpa_of(Gpa(SHARE))
    assert found is not None
    point(host, SHARE, found, RW | MappingFlags.DEVICE)


FAULTS: dict[str, tuple[Callable[[Host], None], str]] = {
    "another VM's RAM": (other_vms_ram, "apart owned declared"),
    "a table of its own": (own_tables, "owned declared"),
    "memory of nobody": (memory_of_nobody, "owned declared"),
    "another VM's device": (other_vms_device, "apart owned declared"),
    "a reader that writes": (reader_of_a_share_that_writes, "declared"),
    "another page of the share": (share_that_leads_elsewhere_in_itself, "declared"),
    "an executable share": (executable_share, "declared"),
    "a share as device memory": (share_as_device_memory, "apart declared"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_seeded_fault_is_refuted_with_a_witness_that_the_walk_confirms(host: Host, name: str) -> None:
    corrupt, names = FAULTS[name]
    if name == "a share as device memory" and host.vms[0].space.format.family == "riscv":
        pytest.skip("without Svpbmt a leaf has no memory type")
    corrupt(host)
    subject = subject_of(host)
    proof = prove(subject)
    assert refuted(proof) == set(names.split())
    for theorem in proof.theorems:
        witness = theorem.witness
        if witness is None:
            continue
        assert witness.hpa is not None
        for seat in (witness.seat, witness.other):
            if seat is not None:
                (space,) = (one for one in subject.spaces if one.who == seat.who)
                walk = explain_stage(host.memory, space.regime, seat.address)
                assert isinstance(walk.result, Mapped)
                assert walk.result.hpa == witness.hpa


def with_owner(subject: Subject, span: Range, owner: Owner | None) -> Subject:
    """A subject in which somebody else holds some memory."""
    assert subject.owners is not None
    owners: RangeMap[Owner] = RangeMap()
    for held, who in subject.owners:
        owners.add(held, who)
    owners.remove(span)
    if owner is not None:
        owners.add(span, owner)
    return replace(subject, owners=tuple(owners))


def test_memory_whose_owner_changes_is_refuted(host: Host, tmp_path: Path) -> None:
    hpa = host.vms[0].space.hpa_of(Gpa(RAM))
    assert hpa is not None
    page = Range.sized(hpa, 0x1_0000)
    for owner, told in (
        (None, "nobody"),
        (Owner(OwnerKind.HYPERVISOR), "hypervisor"),
        (Owner(OwnerKind.VM, "vm2"), "VM vm2"),
        (Owner(OwnerKind.TABLES, "vm1"), "page tables of VM vm1"),
        (Owner(OwnerKind.SHARE, "ring"), "share ring"),
        (Owner(OwnerKind.RESERVED, "firmware"), "reserved memory firmware"),
    ):
        changed = with_owner(subject_of(host), page, owner)
        theorem = prove(changed)["owned"]
        assert theorem.witness is not None
        assert (theorem.holds, theorem.witness.owner, theorem.witness.hpa) == (False, told, hpa)
        problem = verified(changed, tmp_path).problem
        assert problem == f"`owned` does not hold: VM vm1 reaches HPA {hpa:#x}, which belongs to {told}"


def test_tables_are_in_frames_that_are_held_for_them(host: Host, tmp_path: Path) -> None:
    subject = subject_of(host)
    one, other = subject.spaces
    assert one.frames is not None
    root = one.frames[0].start
    page = Range.sized(root, 0x1000)
    changes = (
        (with_owner(subject, page, Owner(OwnerKind.VM, "vm2")), "which belongs to VM vm2", "not held as page tables"),
        (with_owner(subject, page, Owner(OwnerKind.TABLES, "vm2")), "belongs to page tables of VM vm2", "not held"),
        (with_owner(subject, page, None), "which belongs to nobody", "not held as page tables of VM vm1"),
        (replace(subject, spaces=(replace(one, frames=()), other)), "none of its tables' frames", "none of its tables"),
        (replace(subject, spaces=(one, replace(other, regime=one.regime, frames=one.frames)), owners=None),
         "VM vm1 and VM vm2 both have a table at", "VM vm1 and VM vm2 both have a table at"),
    )  # fmt: skip
    for changed, told, second in changes:
        theorem = prove(changed)["wellformed"]
        assert theorem.holds is False
        assert theorem.witness is not None
        assert told in theorem.witness.problem
        (found,) = (checked for checked in verified(changed, tmp_path).theorems if checked.name == "wellformed")
        assert found.holds is False
        assert second in str(found.problem)
        assert f"{root:#x}" in str(found.problem)


def test_a_region_that_is_not_declared_any_more_refutes(host: Host) -> None:
    subject = subject_of(host)
    for number in range(len(subject.spaces[0].regions)):
        kept = tuple(one for at, one in enumerate(subject.spaces[0].regions) if at != number)
        spaces = (replace(subject.spaces[0], regions=kept), *subject.spaces[1:])
        theorem = prove(replace(subject, spaces=spaces))["declared"]
        assert theorem.holds is False
        assert theorem.witness is not None
        assert theorem.witness.seat is not None
        assert theorem.witness.seat.address == subject.spaces[0].regions[number].start


def test_a_device_that_masters_memory_refutes_its_own_theorem_alone(host: Host) -> None:
    subject = subject_of(host)
    assert [one.masters for one in subject.devices] == [None, None]
    proof = prove(replace(subject, devices=(GivenDevice("vm1", "disk", True),)))
    assert {one.name for one in proof.theorems if one.holds is False} == {"dma"}
    assert prove(replace(subject, devices=()))["dma"].holds is None


def upper_entry(host: Host) -> tuple[int, int]:
    """HPA and word of the entry above the leaf for VM 1's share, which is a table."""
    steps = explain_stage(host.memory, host.vms[0].space.regime, SHARE).steps
    return steps[-2].slot_hpa or steps[-2].slot, steps[-2].entry


@pytest.mark.parametrize("which", ["leaf", "table"])
def test_an_entry_of_ones_is_refuted_where_it_stands(host: Host, which: str) -> None:
    slot, _ = entry_of(host, host.vms[0], SHARE) if which == "leaf" else upper_entry(host)
    store(host, slot, (1 << 64) - 1)
    proof = host.prove()
    assert not proof.proved
    witness = proof["wellformed"].witness or proof["declared"].witness
    assert witness is not None


def test_a_table_that_two_entries_lead_to_is_refuted(host: Host) -> None:
    slot, word = upper_entry(host)
    free = next(at for at in (slot + 8, slot - 8) if host.memory.load_u64(Hpa(at)) == 0)
    store(host, free, word)
    witness = host.prove()["wellformed"].witness
    assert witness is not None
    assert "two entries lead to the table" in witness.problem


def test_a_table_outside_memory_is_refuted(host: Host) -> None:
    slot, word = upper_entry(host)
    fmt = host.vms[0].space.format
    packing = packing_of(fmt)
    store(host, slot, word & ~packing.mask() | int(fmt.pack_address(0x2000_0000)))
    witness = host.prove()["wellformed"].witness
    assert witness is not None
    assert "outside the memory of tables" in witness.problem


def test_a_table_that_is_its_own_parent_is_read_once(host: Host) -> None:
    vm = host.vms[0]
    slot, word = upper_entry(host)
    fmt = vm.space.format
    table = slot & ~(fmt.table_size - 1)
    store(host, slot, word & ~packing_of(fmt).mask() | int(fmt.pack_address(table)))
    proof = host.prove()
    assert not proof.proved
    assert proof["wellformed"].holds is False or proof["declared"].holds is False


def verified(subject: Subject, folder: Path) -> Verification:
    """What the second implementation says of a host, beside a certificate of its tables as they are."""
    world = World.of(subject, by_row=True)
    text, details = certificate(prove_world(world), world, "proof.ranges")
    (folder / "proof.json").write_text(text)
    (folder / "proof.ranges").write_bytes(details)
    return verify(folder / "proof.json", subject)


def refuted(found: Proof | Verification) -> set[str]:
    return {one.name for one in found.theorems if one.holds is False}


def test_the_second_implementation_verifies_what_the_prover_proved(host: Host, tmp_path: Path) -> None:
    found = verified(subject_of(host), tmp_path)
    assert found.problem is None
    assert [one.holds for one in found.theorems] == [True, True, True, None, True, None, None]
    assert found.leaves == sum(sum(vm.space.page_table.statistics().leaves.values()) for vm in host.vms)


@pytest.mark.parametrize("name", FAULTS)
def test_the_second_implementation_refutes_the_same_theorems(host: Host, name: str, tmp_path: Path) -> None:
    corrupt, names = FAULTS[name]
    if name == "a share as device memory" and host.vms[0].space.format.family == "riscv":
        pytest.skip("without Svpbmt a leaf has no memory type")
    corrupt(host)
    found = verified(subject_of(host), tmp_path)
    assert refuted(found) == set(names.split())
    assert found.problem is not None
    assert found.problem.startswith(f"`{names.split()[0]}` does not hold: VM vm")


def test_a_certificate_that_claims_too_much_is_told_the_theorem(host: Host, tmp_path: Path) -> None:
    other_vms_ram(host)
    subject = subject_of(host)
    assert not verified(subject, tmp_path).theorems[0].claimed
    path = tmp_path / "proof.json"
    path.write_text(path.read_text().replace("false", "true"))
    problem = verify(path, subject).problem
    assert problem is not None
    assert problem.startswith("the certificate says that `apart` holds, and it does not: VM vm1 and VM vm2 both reach")


def test_a_certificate_that_says_itself_that_something_does_not_hold_is_not_verified(
    host: Host, tmp_path: Path
) -> None:
    subject = subject_of(host)
    disk = replace(subject, devices=(GivenDevice("vm1", "disk", True),))
    assert verified(disk, tmp_path).problem == "the certificate says itself that `dma` does not hold"


def test_the_second_implementation_notices_rows_that_the_tables_do_not_have(host: Host, tmp_path: Path) -> None:
    subject = subject_of(host)
    world = World.of(subject, by_row=True)
    rows = world.vms[0].scan.rows
    for change in (rows[:-1], rows[1:], rows[::-1].copy(), rows + np.array([0, 0x1_0000, 0, 0], np.uint64)):
        world.vms[0].scan.rows = change
        text, details = certificate(prove_world(world), world, "proof.ranges")
        (tmp_path / "proof.json").write_text(text)
        (tmp_path / "proof.ranges").write_bytes(details)
        found = verify(tmp_path / "proof.json", subject)
        assert found.problem is not None
        assert "certificate" in found.problem
        assert found.theorems == ()
