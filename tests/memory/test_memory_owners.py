"""Who an address belongs to."""

import pytest

from stage2.address import Range
from stage2.errors import OwnerConflictError
from stage2.memory.owners import Growth, Owner, OwnerKind, OwnerMap

LINUX = Owner(OwnerKind.VM, "linux")
RTOS = Owner(OwnerKind.VM, "rtos")


@pytest.mark.parametrize(
    ("owner", "text"),
    [
        (LINUX, "VM linux"),
        (Owner(OwnerKind.TABLES, "linux"), "page tables of VM linux"),
        (Owner(OwnerKind.TABLES), "page tables"),
        (Owner(OwnerKind.PER_CPU, "linux"), "per-CPU areas of VM linux"),
        (Owner(OwnerKind.TIMERS, "linux"), "timers of VM linux"),
        (Owner(OwnerKind.HYPERVISOR), "hypervisor"),
        (Owner(OwnerKind.DEVICE, "uart0"), "device uart0"),
        (Owner(OwnerKind.SHARE, "ring"), "share ring"),
        (Owner(OwnerKind.RESERVED, "firmware"), "reserved memory firmware"),
    ],
)
def test_owners_are_named_as_people_say_it(owner: Owner, text: str) -> None:
    assert str(owner) == text


def test_owners_are_equal_by_kind_and_name() -> None:
    assert Owner(OwnerKind.VM, "linux") == LINUX
    assert hash(Owner(OwnerKind.VM, "linux")) == hash(LINUX)
    assert Owner(OwnerKind.TABLES, "linux") != LINUX


def test_a_claim_of_held_addresses_names_who_holds_which_part() -> None:
    owners = OwnerMap()
    owners.claim(Range(0x1000, 0x3000), LINUX)
    owners.claim(Range(0x5000, 0x6000), RTOS)
    before = list(owners)
    with pytest.raises(OwnerConflictError) as caught:
        owners.claim(Range(0x2000, 0x8000), Owner(OwnerKind.DEVICE, "nic"))
    assert str(caught.value) == (
        "HPA [0x2000, 0x8000) cannot be given to device nic: "
        "VM linux holds [0x2000, 0x3000), VM rtos holds [0x5000, 0x6000)"
    )
    assert list(owners) == before


def test_a_conflict_with_very_many_holders_stays_one_short_line() -> None:
    owners = OwnerMap()
    for number in range(1000):
        owners.claim(Range.sized(number * 0x2000, 0x1000), LINUX)
    with pytest.raises(OwnerConflictError, match="and 997 more parts are held") as caught:
        owners.claim(Range(0, 1 << 40), RTOS)
    assert len(str(caught.value)) < 300


def test_one_owner_cannot_claim_the_same_twice() -> None:
    owners = OwnerMap()
    owners.claim(Range(0x1000, 0x3000), LINUX)
    with pytest.raises(OwnerConflictError):
        owners.claim(Range(0x2000, 0x3000), LINUX)


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (Range(0x0, 0x2000), "nobody holds [0x0, 0x1000)"),
        (Range(0x2000, 0x4000), "VM rtos holds [0x3000, 0x4000)"),
        (Range(0x9000, 0xA000), "nobody holds [0x9000, 0xa000)"),
    ],
)
def test_only_what_is_held_entirely_can_be_released(span: Range, text: str) -> None:
    owners = OwnerMap()
    owners.claim(Range(0x1000, 0x3000), LINUX)
    owners.claim(Range(0x3000, 0x5000), RTOS)
    before = list(owners)
    with pytest.raises(OwnerConflictError) as caught:
        owners.release(span, LINUX)
    assert str(caught.value) == f"HPA {span} cannot be released by VM linux: {text}"
    assert list(owners) == before


def test_part_of_a_holding_can_be_released() -> None:
    owners = OwnerMap()
    owners.claim(Range(0x1000, 0x5000), LINUX)
    owners.release(Range(0x2000, 0x3000), LINUX)
    assert owners.of(LINUX) == [Range(0x1000, 0x2000), Range(0x3000, 0x5000)]
    assert owners.bytes_of(LINUX) == 0x3000
    assert owners.at(0x2FFF) is None
    assert owners.at(0x3000) == LINUX
    assert owners.overlapping(Range(0x1800, 0x3800)) == [
        (Range(0x1000, 0x2000), LINUX),
        (Range(0x3000, 0x5000), LINUX),
    ]


def test_neighbours_of_one_owner_are_one_entry() -> None:
    owners = OwnerMap()
    owners.claim(Range(0x1000, 0x2000), LINUX)
    owners.claim(Range(0x3000, 0x4000), LINUX)
    assert len(owners) == 2
    owners.claim(Range(0x2000, 0x2800), LINUX)
    assert len(owners) == 2
    owners.claim(Range(0x4000, 0x5000), RTOS)
    owners.claim(Range(0x2800, 0x3000), LINUX)
    assert list(owners) == [(Range(0x1000, 0x4000), LINUX), (Range(0x4000, 0x5000), RTOS)]


def test_memory_that_grew_is_seen_by_whoever_looks() -> None:
    owners = OwnerMap()
    owners.claim(Range(0x1000, 0x2000), LINUX)
    behind, apart = Growth(LINUX), Growth(RTOS)
    behind.next = behind.entered = 0x2000
    apart.next = apart.entered = 0x8000
    for _ in range(3):
        owners.grow(behind, behind.next + 0x1000)
        owners.grow(apart, apart.next + 0x1000)
    assert owners.at(0x4FFF) == LINUX
    assert owners.at(0x5000) is None
    owners.grow(apart, 0xC000)
    assert list(owners) == [(Range(0x1000, 0x5000), LINUX), (Range(0x8000, 0xC000), RTOS)]
    owners.grow(behind, 0x6000)
    with pytest.raises(OwnerConflictError, match="VM linux"):
        owners.claim(Range(0x5000, 0x7000), RTOS)
    owners.grow(behind, 0x7000)
    owners.release(Range(0x6000, 0x7000), LINUX)
    assert owners.bytes_of(LINUX) == 0x5000
