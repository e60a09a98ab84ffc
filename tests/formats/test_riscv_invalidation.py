"""Which fences changes of RISC-V's tables owe (Privileged, "Supervisor Memory-Management Fence Instruction" and
"Hypervisor Memory-Management Fence Instructions")."""

from __future__ import annotations

import pytest

from stage2.address import Range
from stage2.formats import by_name
from stage2.formats.change import Change, ChangeKind
from stage2.formats.invalidation import Context
from stage2.formats.riscv.invalidation import owed, retire

PAGE = Range.sized(0x4000_1000, 0x1000)
OF_VM = Context(identifier=7)
OF_GUEST = Context(identifier=3, vmid=7)
STAGE_1 = ("sv39", "sv48", "sv57")
G_STAGE = ("sv39x4", "sv48x4", "sv57x4")


@pytest.mark.parametrize("name", G_STAGE)
def test_a_removed_page_of_the_g_stage_owes_hfence_gvma_of_its_gpa_shifted_right_by_2(name: str) -> None:
    fmt = by_name(name)
    (fence,) = owed(fmt, OF_VM, [Change(PAGE, ChangeKind.REMOVED)], fmt.default_controls)
    assert (fence.name, fence.vmid, fence.gpa, fence.gva) == ("HFENCE.GVMA gpa, vmid", 7, PAGE, None)
    assert list(fence.operands()) == [0x4000_1000 >> 2]


@pytest.mark.parametrize("name", G_STAGE)
def test_a_freed_table_of_the_g_stage_owes_hfence_gvma_without_an_address(name: str) -> None:
    """A fence with an address orders accesses to leaf entries only."""
    fmt = by_name(name)
    (fence,) = owed(fmt, OF_VM, [Change(PAGE, ChangeKind.TABLE_FREED)], fmt.default_controls)
    assert (fence.name, fence.vmid, fence.span) == ("HFENCE.GVMA x0, vmid", 7, None)


@pytest.mark.parametrize("name", STAGE_1)
def test_stage_1_owes_sfence_vma_of_every_asid_whose_global_pages_may_be_there(name: str) -> None:
    """With an ASID "global mappings" are not ordered."""
    fmt = by_name(name)
    (page,) = owed(fmt, OF_GUEST, [Change(PAGE, ChangeKind.REMOVED)], 0)
    assert (page.name, page.vmid, page.asid, page.gva, page.gpa) == ("SFENCE.VMA va, x0", 7, None, PAGE, None)
    assert list(page.operands()) == [0x4000_1000]
    (table,) = owed(fmt, OF_GUEST, [Change(PAGE, ChangeKind.TABLE_FREED)], 0)
    assert (table.name, table.vmid, table.asid, table.span) == ("SFENCE.VMA x0, x0", 7, None, None)


@pytest.mark.parametrize("name", STAGE_1)
def test_a_stage_1_table_that_goes_owes_one_sfence_vma_of_its_own_vm(name: str) -> None:
    (fence,) = retire(by_name(name), OF_GUEST)
    assert (fence.name, fence.vmid, fence.asid) == ("SFENCE.VMA x0, x0", 7, None)


@pytest.mark.parametrize("name", G_STAGE)
def test_a_vmid_that_is_given_up_owes_fences_of_both_stages(name: str) -> None:
    """HFENCE.GVMA orders nothing of the VS-stage, HFENCE.VVMA nothing of the G-stage."""
    found = retire(by_name(name), OF_VM)
    assert [(fence.name, fence.vmid) for fence in found] == [("HFENCE.GVMA x0, vmid", 7), ("HFENCE.VVMA x0, x0", 7)]
