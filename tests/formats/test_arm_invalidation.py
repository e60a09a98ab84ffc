"""TLBI operations, their operands, and what an edit owes (Arm ARM DDI 0487, C5.5 and D8.17 "TLB maintenance")."""

from __future__ import annotations

import pytest

from stage2.address import Range
from stage2.formats import by_name
from stage2.formats.arm import invalidation, stage1
from stage2.formats.change import Change, ChangeKind
from stage2.formats.invalidation import EVERYTHING, FEW, OF_GUEST_ADDRESSES, Context, Holds, Operation

PAGE = 0x1000
TWO = Range.sized(0x4000_2000, 2 * PAGE)
STAGE_1, STAGE_2 = by_name("arm-s1-4k-48"), by_name("arm-s2-4k-40")
GUEST = Context(7, 0x8000_0000, vmid=5)


# operation -> (name, what it drops, operands): VA[55:12] stands in bits 43:0, an ASID in 63:48.
@pytest.mark.parametrize(
    ("operation", "name", "drops", "operands"),
    [
        (invalidation.ipas2e1is(5, TWO, PAGE), "IPAS2E1IS", Holds.STAGE_2, [0x40002, 0x40003]),
        (invalidation.ipas2e1is(5, TWO, PAGE, last_level=True), "IPAS2LE1IS", Holds.STAGE_2, [0x40002, 0x40003]),
        (
            invalidation.vae1is(5, 7, TWO, PAGE, last_level=True),
            "VALE1IS",
            OF_GUEST_ADDRESSES,
            [7 << 48 | 0x40002, 7 << 48 | 0x40003],
        ),
        (invalidation.vmalle1is(5), "VMALLE1IS", OF_GUEST_ADDRESSES, [0]),
        (invalidation.vmalls12e1is(5), "VMALLS12E1IS", EVERYTHING, [0]),
        (invalidation.alle1is(), "ALLE1IS", EVERYTHING, [0]),
        (invalidation.vae1is(5, 7, TWO, PAGE), "VAE1IS", OF_GUEST_ADDRESSES, [7 << 48 | 0x40002, 7 << 48 | 0x40003]),
        (invalidation.vaae1is(5, TWO, PAGE), "VAAE1IS", OF_GUEST_ADDRESSES, [0x40002, 0x40003]),
        (invalidation.aside1is(5, 7), "ASIDE1IS", OF_GUEST_ADDRESSES, [7 << 48]),
        (invalidation.vae2is(TWO, PAGE), "VAE2IS", Holds.STAGE_1, [0x40002, 0x40003]),
        (invalidation.alle2is(), "ALLE2IS", Holds.STAGE_1, [0]),
    ],
)
def test_an_operation_has_its_name_and_its_operands(
    operation: Operation, name: str, drops: Holds, operands: list[int]
) -> None:
    assert (operation.name, operation.drops) == (f"TLBI {name}", drops)
    assert list(operation.operands()) == operands
    assert operation.broadcast, "all are Inner Shareable"
    assert operation.keeps_tables == (drops if name in ("IPAS2LE1IS", "VALE1IS") else Holds.NOTHING), "last level only"
    assert operation.keeps_global is (name == "ASIDE1IS"), 'global entries match no ASID (C5.5 "TLBI ASIDE1IS")'
    assert (operation.vmid, operation.asid) == (5 if "E1" in name and name != "ALLE1IS" else None,
                                                7 if name in ("VAE1IS", "VALE1IS", "ASIDE1IS") else None)  # fmt: skip


def names(operations: tuple[Operation, ...]) -> list[str]:
    return [operation.name.removeprefix("TLBI ") for operation in operations]


@pytest.mark.parametrize(
    ("fmt", "controls", "few", "many"),
    [
        (STAGE_2, 0, ["IPAS2E1IS", "VMALLE1IS"], ["VMALLS12E1IS"]),
        (STAGE_1, 0, ["VAE1IS"], ["VMALLE1IS"]),
        (STAGE_1, stage1.ONE_PRIVILEGE, ["VAE2IS"], ["ALLE2IS"]),
    ],
)
def test_few_pages_are_dropped_by_address_and_many_at_once(
    fmt: object, controls: int, few: list[str], many: list[str]
) -> None:
    for pages, expected in ((1, few), (FEW, few), (FEW + 1, many)):
        removed = [Change(Range.sized(0x4000_0000, pages * PAGE), ChangeKind.REMOVED)]
        assert names(invalidation.owed(fmt, GUEST, removed, controls)) == expected  # type: ignore[arg-type]
        added = [Change(Range.sized(0x4000_0000, pages * PAGE), ChangeKind.ADDED)]
        assert invalidation.owed(fmt, GUEST, added, controls) == (), "no TLB holds what was invalid"  # type: ignore[arg-type]


def test_an_identifier_that_is_given_up_takes_everything_with_it() -> None:
    assert [(found.name, found.vmid) for found in invalidation.retire(STAGE_2, Context(7, 0x8000_0000))] == [
        ("TLBI VMALLS12E1IS", 7)
    ]
    assert [(found.name, found.vmid) for found in invalidation.retire(STAGE_1, GUEST)] == [("TLBI VMALLE1IS", 5)]
    assert names(invalidation.roll_over(STAGE_2)) == ["ALLE1IS"]
    assert invalidation.first_entry(STAGE_2, 7) == ()
