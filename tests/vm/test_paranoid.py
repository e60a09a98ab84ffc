"""A guard proves after operations, once each, and says what made a theorem false."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stage2.address import Gpa, Hpa
from stage2.config.document import parse_document
from stage2.config.regions import plan_vm
from stage2.config.stage2_format import named_format
from stage2.config.vm import read_vm
from stage2.errors import IsolationError
from stage2.flags import Access, MappingFlags
from stage2.prove.theorem import Proof
from stage2.space.region import Populate
from stage2.tables.explain import explain_stage
from stage2.vm.host import Host, Options, build
from stage2.vm.paranoid import IsolationGuard

RAM, PAGE = 0x8000_0000, 0x1000
R = MappingFlags.READ | MappingFlags.USER
FORMATS = ("sv39x4", "ept4", "npt4", "arm-s2-4k-40")


def text_of(number: int) -> str:
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
[stage2]
generation = "seed"
"""


@pytest.fixture(params=FORMATS)
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    fmt = named_format(request.param)
    plans = [plan_vm(read_vm(parse_document(text_of(number), f"vm{number}.toml"))) for number in (1, 2)]
    with build(plans, arch=fmt.arch, options=Options(populate=Populate.LAZY, format=fmt, page_size=PAGE)) as found:
        yield found


def fault(host: Host, number: int, page: int) -> None:
    host.vms[number].space.handle_page_fault(Gpa(RAM + page * PAGE), Access.WRITE)


def test_every_operation_that_changes_a_table_is_followed_by_one_proof(host: Host) -> None:
    space = host.vms[0].space
    with IsolationGuard(host) as guard:
        assert guard.proofs == 1
        for page in range(3):
            fault(host, page % 2, page)
        assert guard.proofs == 4
        fault(host, 0, 0)
        assert guard.proofs == 4, "the page was there"
        with space.lock:
            fault(host, 0, 7)
            space.protect(Gpa(RAM + 7 * PAGE), PAGE, R)
            assert guard.proofs == 4, "the operation is not over"
        assert guard.proofs == 5
        space.unmap(Gpa(RAM + 7 * PAGE), PAGE)
        proof = guard.prove()
        assert (guard.proofs, proof.proved, proof["tlb"].holds) == (7, True, True)


def test_a_store_that_lets_a_vm_reach_anothers_frame_is_found_at_the_next_operation(host: Host) -> None:
    for number in (0, 1):
        fault(host, number, 0)
    memory, (one, other) = host.memory, [vm.space for vm in host.vms]
    slots = [explain_stage(memory, space.regime, RAM).steps[-1].slot for space in (one, other)]
    before = memory.load_u64(Hpa(slots[0]))
    with IsolationGuard(host) as guard:
        memory.store_u64(Hpa(slots[0]), memory.load_u64(Hpa(slots[1])))
        with pytest.raises(IsolationError, match="isolation refuted: apart: VM vm1 and VM vm2 both reach"):
            fault(host, 1, 5)
        assert guard.failed is not None
        assert guard.failed["owned"].holds is False
        memory.store_u64(Hpa(slots[0]), before)
        fault(host, 1, 6)
        assert guard.proofs == 2, "what failed once is not proved on"


def test_an_invalidation_that_is_left_out_refutes_what_tlbs_may_hold(host: Host) -> None:
    space = host.vms[0].space
    fault(host, 0, 0)
    with IsolationGuard(host) as guard:
        fault(host, 0, 1)
        guard.checkers[0].perform = lambda _: False
        with pytest.raises(IsolationError, match="refuted: tlb: cached translations contradict"):
            space.unmap(Gpa(RAM), PAGE)
        assert guard.failed is not None
        assert [one.name for one in guard.failed.theorems if one.holds is False] == ["tlb"]


def test_whoever_is_told_is_told_once_and_nothing_is_raised(host: Host) -> None:
    told: list[Proof] = []
    fault(host, 0, 0)
    slot = explain_stage(host.memory, host.vms[0].space.regime, RAM).steps[-1].slot
    before = host.memory.load_u64(Hpa(slot))
    with IsolationGuard(host, told.append):
        host.memory.store_u64(Hpa(slot), (1 << 64) - 1)
        for page in range(1, 4):
            fault(host, 1, page)
        host.memory.store_u64(Hpa(slot), before)
    assert [str(proof).split(":")[0] for proof in told] == ["refuted"]
