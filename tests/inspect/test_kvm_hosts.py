"""What is found in a dump of a machine whose Linux runs two VMs by KVM is what that Linux says itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import kvm_machines
import pytest
from kvm_machines import KEY, OFFSET, VMS, KvmMachine

from stage2.address import SIZE_2M, SIZE_4K, Range
from stage2.cli.main import call
from stage2.formats.outcome import FaultKind
from stage2.inspect.inspection import Inspection, open_memory
from stage2.inspect.root import root_text
from stage2.tables.result import Fault, Mapped

SIZES = {"huge": SIZE_2M, "small": SIZE_4K, "read-only": SIZE_4K}
SLOTS = (Range(0x8000_0000, 0x8100_0000), Range(0x9000_0000, 0x9040_0000), Range(0xA000_0000, 0xA001_0000))
LEAVE = 0x1000_0000
"""GPA of a device of no slot, which every guest writes to once."""
READ, WRITE = 1, 2


@pytest.fixture(scope="session", params=kvm_machines.chosen())
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KvmMachine]:
    with kvm_machines.dumped(request.param, tmp_path_factory) as made:
        yield made


@pytest.fixture
def vms(host: KvmMachine) -> Iterator[list[Inspection]]:
    """The dump, seen from each VM's root."""
    found = [open_memory(str(host.core), root_text(host.stage_2(vm))) for vm in range(VMS)]
    yield found
    for one in found:
        one.close()


def test_the_dump_has_in_every_page_what_its_vm_wrote(host: KvmMachine) -> None:
    """Else all that follows would say nothing."""
    with open_memory(str(host.core)) as memory:
        for page in host.pages:
            if page.kind != "read-only":
                assert page.value == page.gpa ^ (KEY + page.vm)
            assert memory.source.word_at(page.hpa + OFFSET) == page.value
    assert [len(host.pages_of(vm)) for vm in range(VMS)] == [81] * VMS
    assert len({page.hpa for page in host.pages}) == 81 * VMS


def test_a_walk_of_every_page_ends_where_the_host_has_it(host: KvmMachine, vms: list[Inspection]) -> None:
    for page in host.pages:
        walk = vms[page.vm].walk(gpa=page.gpa + OFFSET)
        assert isinstance(walk.result, Mapped), (page, walk)
        assert walk.result.hpa == page.hpa + OFFSET, (page, walk)
        assert walk.result.size == SIZES[page.kind], (page, walk)
        assert walk.result.permissions & (READ | WRITE) == (READ if page.kind == "read-only" else READ | WRITE)


def test_many_at_once_and_the_command_say_the_same(
    host: KvmMachine, vms: list[Inspection], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    addresses = tmp_path / "addresses"
    for vm, memory in enumerate(vms):
        pages = host.pages_of(vm)
        told = [page.gpa + OFFSET for page in pages]
        answers = memory.translate_many(told, "gpa")
        assert [answer.hpa for answer in answers] == [page.hpa + OFFSET for page in pages]
        addresses.write_text("".join(f"{gpa:#x}\n" for gpa in told))
        words = ["translate", str(host.core), "--of", "gpa", "--file", str(addresses), "--root", memory.roots[0].name]
        assert call([*words, "--json"]) == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [line["hpa"] for line in lines] == [page.hpa + OFFSET for page in pages]


def test_a_map_has_the_slots_and_nothing_else_and_every_page_is_in_it(host: KvmMachine, vms: list[Inspection]) -> None:
    for vm, memory in enumerate(vms):
        ranges = [(one, Range.sized(one.start, one.size)) for one in memory.map("gpa")]
        assert all(any(slot.start <= span.start and span.end <= slot.end for slot in SLOTS) for _, span in ranges)
        fixed = [one.permissions & (READ | WRITE) for one, span in ranges if span.overlaps(SLOTS[2])]
        assert set(fixed) == {READ}
        for page in host.pages_of(vm):
            (held,) = [one for one, span in ranges if span.contains(page.gpa)]
            assert held.hpa is not None
            assert held.hpa + page.gpa - held.start == page.hpa


def test_what_kvm_emulates_is_not_mapped(host: KvmMachine, vms: list[Inspection]) -> None:
    """On x86 KVM notes it in an entry that is present, with a bit set that the CPU's addresses do not have."""
    for memory in vms:
        walk = memory.walk(gpa=LEAVE)
        assert isinstance(walk.result, Fault)
        if host.variant.arch == "x86_64":
            assert walk.result.kind is FaultKind.MISCONFIGURATION
            assert walk.steps[-1].entry & 1


def test_from_every_page_the_way_leads_back_to_its_own_vm_alone(host: KvmMachine, vms: list[Inspection]) -> None:
    for page in host.pages[:: 8 if len(host.pages) > 8 else 1]:
        back = [[found.range for found in memory.reach(hpa=page.hpa + OFFSET)] for memory in vms]
        (own,) = back.pop(page.vm)
        assert own.gpa == page.gpa + OFFSET
        assert back == [[]]


def test_the_hosts_own_tables_lead_to_its_kernel(host: KvmMachine) -> None:
    with open_memory(str(host.core), f"{host.variant.own}@{host.told.root:#x}") as memory:
        banner = host.told.symbols["linux_banner"]
        assert memory.translate(gva=banner).hpa == host.told.place("linux_banner")
        assert memory.read(14, gva=banner) == b"Linux version "


def test_a_search_of_the_dump_alone_finds_the_kernels_root_first_and_both_vms(host: KvmMachine) -> None:
    with open_memory(str(host.core)) as memory:
        found = memory.find().roots
    assert (found[0].root.regime.root, found[0].root.stage) == (host.told.root, 1)
    seconds = {one.root.regime.root: one.root.regime.format for one in found if one.root.stage == 2}
    for vm in range(VMS):
        second = host.stage_2(vm)
        assert seconds[second.root].levels == second.format.levels
        assert seconds[second.root].root_bits == second.format.root_bits
