"""A share is shared by those who declare it, and nothing else that a share's region leads to is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stage2.address import Gpa, Hpa
from stage2.config.document import parse_document
from stage2.config.regions import plan_vm
from stage2.config.stage2_format import named_format
from stage2.config.vm import read_vm
from stage2.flags import MappingFlags, MapType
from stage2.prove.certificate import certificate
from stage2.prove.prover import prove_world
from stage2.prove.subject import Subject
from stage2.prove.verify import Verification, verify
from stage2.prove.world import World
from stage2.space.region import MemoryRegion, Populate
from stage2.tables.explain import explain_stage
from stage2.vm.host import Host, Options, build
from stage2.vm.isolation import subject_of

RAM, ONE, TWO = 0x8000_0000, 0x7000_0000, 0x7100_0000
RW = MappingFlags.READ | MappingFlags.WRITE | MappingFlags.USER
MEMBERS = {"one": (ONE, (1, 2)), "two": (TWO, (2, 3))}


def text_of(number: int) -> str:
    shares = ""
    for name, (gpa, members) in MEMBERS.items():
        if number in members:
            (peer,) = set(members) - {number}
            shares += f'[[share]]\nname = "{name}"\ngpa = {gpa:#x}\nsize = 0x1_0000\naccess = "rw"\npeers = [{peer}]\n'
    return f"""\
[base]
id = {number}
name = "vm{number}"
vm_type = 1
cpu_num = 1
[kernel]
entry_point = {RAM:#x}
kernel_load_addr = {RAM:#x}
memory_regions = [[{RAM:#x}, 0x20_0000, 0x7, 0]]
[stage2]
generation = "seed"
{shares}"""


@pytest.fixture(params=["sv39x4", "ept4", "npt4", "arm-s2-4k-40"])
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    fmt = named_format(request.param)
    plans = [plan_vm(read_vm(parse_document(text_of(number), f"vm{number}.toml"))) for number in (1, 2, 3)]
    with build(plans, arch=fmt.arch, options=Options(populate=Populate.EAGER, format=fmt)) as found:
        yield found


def verification(subject: Subject, folder: Path) -> Verification:
    world = World.of(subject, by_row=True)
    text, details = certificate(prove_world(world), world, "proof.ranges")
    (folder / "proof.json").write_text(text)
    (folder / "proof.ranges").write_bytes(details)
    return verify(folder / "proof.json", subject)


def test_two_shares_between_three_vms_are_proved(host: Host, tmp_path: Path) -> None:
    subject = subject_of(host)
    proof = prove_world(World.of(subject))
    assert proof.proved, str(proof)
    assert verification(subject, tmp_path).problem is None


def test_a_share_that_leads_to_a_share_of_others_refutes_apart(host: Host, tmp_path: Path) -> None:
    third, first = host.vms[2].space, host.vms[0].space
    slot = explain_stage(host.memory, third.regime, TWO).steps[-1].slot
    target, before = first.hpa_of(Gpa(ONE)), host.memory.load_u64(Hpa(slot))
    assert target is not None
    host.memory.store_u64(Hpa(slot), int(third.page_table.page_bits(RW)) | int(third.format.pack_address(target)))
    subject = subject_of(host)
    theorem = prove_world(World.of(subject))["apart"]
    found = {one.name: one.holds for one in verification(subject, tmp_path).theorems}
    host.memory.store_u64(Hpa(slot), before)
    assert theorem.holds is False
    assert theorem.witness is not None
    assert theorem.witness.hpa == target
    assert theorem.witness.problem.startswith("VM vm1 and VM vm3 both reach ")
    assert (found["apart"], found["declared"]) == (False, False)


def test_a_region_that_declares_a_share_of_others_refutes_owned(host: Host, tmp_path: Path) -> None:
    """The tables and the declaration agree: only the owner says that the third VM has no part in it."""
    third, first = host.vms[2].space, host.vms[0].space
    flags = RW ^ MappingFlags.USER
    target = first.hpa_of(Gpa(ONE))
    assert target is not None
    wrong = third.map(MemoryRegion(Gpa(ONE), 0x1_0000, flags, MapType.SHARE, Hpa(target), name="mine"))
    subject = subject_of(host)
    proof = prove_world(World.of(subject))
    found = {one.name: one.holds for one in verification(subject, tmp_path).theorems}
    third.unmap(wrong.start, wrong.size)
    assert {one.name for one in proof.theorems if one.holds is False} == {"owned"}
    witness = proof["owned"].witness
    assert witness is not None
    assert witness.owner == "share one"
    assert {name for name, holds in found.items() if holds is False} == {"owned"}


def test_the_verifier_proves_wx_of_vms_that_forbid_it(host: Host, tmp_path: Path) -> None:
    subject = subject_of(host)
    spaces = tuple(replace(space, write_xor_execute=space.name == "vm2") for space in subject.spaces)
    found = verification(replace(subject, spaces=spaces), tmp_path)
    wx = next(one for one in found.theorems if one.name == "wx")
    assert wx.holds is False
    assert wx.problem is not None
    assert wx.problem.endswith("is writable and executable for VM vm2")
