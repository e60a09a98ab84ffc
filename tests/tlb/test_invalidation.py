"""What edits owe to TLBs, in every format: exactly enough, judged by a TLB that caches all that any processor may."""

from __future__ import annotations

import numpy as np
import pytest

import effort
from format_lists import KINDS
from stage2.address import Hpa
from stage2.errors import StaleTranslationError
from stage2.flags import RWX, MappingFlags
from stage2.formats import by_name, names
from stage2.formats.invalidation import Operation
from stage2.tables.mapping import Edit
from table_edits import RW, SCENES, R, base_of, checked, prepare, random_edits

every_format = pytest.mark.parametrize("name", names())
FEW = 50
"""Edits of a format whose kernels run as plain Python."""


def edits_of(name: str) -> int:
    """Edits of a format under one model: ten thousand in all, nearly all of them by compiled kernels."""
    compiled = [one for one in names() if effort.compiles(by_name(one))]
    return 10_000 * effort.FACTOR // (2 * len(compiled)) if name in compiled else FEW


every_model = pytest.mark.parametrize("lean", [False, True], ids=["all", "lean"])


@pytest.mark.parametrize("name", KINDS)
@every_model
def test_random_edits_owe_enough(name: str, lean: bool) -> None:
    rng = np.random.default_rng(effort.seeded(names().index(name)))
    with checked(name, hardware_ad=bool(names().index(name) % 2), lean=lean) as (table, checker):
        done = random_edits(table, rng, edits_of(name))
        assert checker.edits >= done > edits_of(name) // 2


# --- every operation matters ------------------------------------------------------------------------------------------
def owed_by(name: str, scene: str) -> list[Operation]:
    """The operations that an edit asks for, in order."""
    asked: list[Operation] = []

    def note(operation: Operation) -> bool:
        asked.append(operation)
        return True

    with checked(name, note) as (table, _):
        prepare(table)
        asked.clear()
        SCENES[scene](table)
        return list(asked)


@pytest.mark.parametrize("name", KINDS)
@every_model
@pytest.mark.parametrize("scene", SCENES)
def test_leaving_out_any_one_owed_operation_is_found(name: str, scene: str, lean: bool) -> None:
    operations = owed_by(name, scene)
    assert operations, "these edits all owe something"
    for left_out in range(len(operations)):
        count = -1

        def perform(_: Operation, left_out: int = left_out) -> bool:
            nonlocal count
            count += 1
            return count != left_out

        with checked(name, lean=lean) as (table, checker):
            prepare(table)
            checker.perform = perform
            with pytest.raises(StaleTranslationError, match="contradict"):
                SCENES[scene](table)
            checker.stop()


@every_format
def test_what_becomes_valid_owes_nothing(name: str) -> None:
    with checked(name) as (table, _):
        fmt = table.format
        done = table.map_range(base_of(fmt), Hpa(0), fmt.leaf_size(1), RWX, largest=fmt.page_size)
        assert done.owed == ()


RELAXING_OWES = {"ept4": False, "npt4": True, "x86-4level": False, "sv39": True, "sv39x4": True, "arm-s1-4k-39": True,
                 "arm-s2-4k-40": True}  # fmt: skip


@pytest.mark.parametrize(("name", "owes"), RELAXING_OWES.items())
def test_a_relaxed_permission_owes_only_where_no_fault_drops_the_old_one(name: str, owes: bool) -> None:
    with checked(name) as (table, _):
        page = table.format.page_size
        table.map_range(0, Hpa(0), page, R)
        assert bool(table.protect_range(0, page, RW).owed) is owes
        assert table.protect_range(0, page, R).owed, "taking a permission away always owes"


@pytest.mark.parametrize(
    ("name", "few", "many", "freed"),
    [
        ("ept4", ["INVEPT single-context"], ["INVEPT single-context"], ["INVEPT single-context"]),
        ("npt4", ["TLB_CONTROL 3"], ["TLB_CONTROL 3"], ["TLB_CONTROL 3"]),
        ("x86-4level", ["INVLPG"], ["INVPCID all-contexts"], ["INVLPG"]),
        ("sv39x4", ["HFENCE.GVMA gpa, vmid"], ["HFENCE.GVMA x0, vmid"], ["HFENCE.GVMA x0, vmid"]),
        ("sv39", ["SFENCE.VMA va, x0"], ["SFENCE.VMA x0, x0"], ["SFENCE.VMA x0, x0"]),
        ("arm-s2-4k-40", ["TLBI IPAS2E1IS", "TLBI VMALLE1IS"], ["TLBI VMALLS12E1IS"],
         ["TLBI IPAS2E1IS", "TLBI VMALLE1IS"]),
        ("arm-s1-4k-39", ["TLBI VAE1IS"], ["TLBI VMALLE1IS"], ["TLBI VAE1IS"]),
    ],
)  # fmt: skip
def test_edits_yield_their_architectures_operations(
    name: str, few: list[str], many: list[str], freed: list[str]
) -> None:
    with checked(name) as (table, _):
        page = table.format.page_size
        table.map_range(0, Hpa(page), 500 * page, RWX)
        assert [operation.name for operation in table.unmap_range(0, 2 * page).owed] == few
        assert [operation.name for operation in table.unmap_range(2 * page, 400 * page).owed] == many
        table.unmap_range(402 * page, 94 * page)
        last = table.unmap_range(496 * page, 4 * page)
        assert last.tables_freed
        assert [operation.name for operation in last.owed] == freed


def test_operands_are_the_manuals() -> None:
    with checked("arm-s2-4k-40") as (table, _):
        table.map_range(0x4000_1000, Hpa(0), 0x2000, RW)
        by_address, rest = table.unmap_range(0x4000_1000, 0x2000).owed
        assert list(by_address.operands()) == [0x4_0001, 0x4_0002], "IPA bits 47:12 in 35:0"
        assert (by_address.count, rest.count, list(rest.operands())) == (2, 1, [0])
        assert by_address.broadcast
    with checked("sv39x4") as (table, _):
        table.map_range(0x4000_1000, Hpa(0), 0x1000, RW)
        table.map_range(0x4000_3000, Hpa(0x3000), 0x1000, RW)
        (fence,) = table.unmap_range(0x4000_1000, 0x1000).owed
        assert list(fence.operands()) == [0x4000_1000 >> 2]
        assert not fence.broadcast
    with checked("ept4") as (table, _):
        table.map_range(0, Hpa(0), 0x1000, RW)
        (invept,) = table.unmap_range(0, 0x1000).owed
        assert list(invept.operands()) == [table.root]


def test_replacing_a_live_arm_entry_without_a_break_is_found() -> None:
    with checked("arm-s2-4k-40") as (table, checker):
        table.map_range(0, Hpa(0), 0x1000, RW)
        checker.before()
        steps = table.explain(0).steps
        slot, entry = steps[-1].slot_hpa, steps[-1].entry
        table.memory.store_u64(slot, entry & ~0x3C)
        checker.tlb.entries = checker.tlb.entries[:0]
        with pytest.raises(StaleTranslationError, match="break-before-make"):
            checker.after(Edit())


@every_format
def test_a_block_cached_before_it_was_split_is_compared_part_by_part_wherever_it_leads(name: str) -> None:
    with checked(name) as (table, checker):
        fmt = table.format
        block, page = fmt.leaf_size(1), fmt.page_size
        # Its HPA is less than its address: a difference of unsigned numbers wraps.
        start = base_of(fmt) + 4 * block
        table.map_range(start, Hpa(block), block, R)
        table.mark(start, block, write=False)
        # Relaxing it owes nothing on x86, so the block stays cached and the parts together have to bear it out.
        table.protect_range(start, page, RW)
        checker.before()
        assert not len(checker.stale())
        step = table.explain(start + 8 * page).steps[-1]
        assert step.output == block + 8 * page
        table.memory.store_u64(step.slot_hpa, step.entry ^ fmt.pack_address(2 * page))
        assert len(checker.stale())
        table.memory.store_u64(step.slot_hpa, step.entry)
        assert not len(checker.stale())


def test_a_page_of_one_asid_becomes_everybodys_only_through_a_break() -> None:
    """DDI 0487 D8.16.1: "Creating a global entry when there might be non-global entries in a TLB that overlap"."""
    user = RW | MappingFlags.USER
    with checked("arm-s1-4k-39") as (table, checker):
        page = table.format.page_size
        table.map_range(0, Hpa(0), 2 * page, user)
        done = table.protect_range(0, page, RW)
        assert [change.kind.value for change in done.changes] == ["remapped"]
        assert done.owed
        # The other way round nothing need be broken.
        assert [change.kind.value for change in table.protect_range(0, page, user).changes] == ["relaxed"]
        checker.before()
        slot, entry = table.explain(page).steps[-1].slot_hpa, table.explain(page).steps[-1].entry
        not_global = 1 << 11
        assert entry & not_global
        table.memory.store_u64(slot, entry & ~not_global)
        checker.tlb.entries = checker.tlb.entries[:0]
        with pytest.raises(StaleTranslationError, match="break-before-make"):
            checker.after(Edit())
