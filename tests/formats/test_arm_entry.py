"""Descriptors of both stages by the bit (Arm ARM DDI 0487, D8.3 to D8.7)."""

from __future__ import annotations

import pytest

from stage2.flags import MappingFlags, MemoryType
from stage2.formats import by_name
from stage2.formats.arm import layout, stage1, stage2
from stage2.formats.arm.effective import describe_mair
from stage2.formats.outcome import ACCESSED, DIRTY, MEMORY_TYPE_SHIFT, READ, WRITE
from stage2.formats.rules import TABLE_WALK

DBM, AF, S2AP_WRITE, AP_READ_ONLY = 1 << 51, 1 << 10, 1 << 7, 1 << 7
PAGE, INNER_SHAREABLE = 0b11, 3 << 8
S1, S2 = by_name("arm-s1-4k-48"), by_name("arm-s2-4k-40")


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("written", [False, True])
def test_the_dirty_state_is_handed_on_only_from_dbm_to_dbm(both: bool, written: bool) -> None:
    """D8.4.6 "Hardware management of the dirty state": with DBM, S2AP[1] and AP[2] are the state."""
    old = AF | DBM | (S2AP_WRITE if written else 0)
    for bare in (0, S2AP_WRITE):
        new = bare | (DBM if both else 0)
        kept = old & S2AP_WRITE if both else bare
        assert stage2.inherit(old, new) == AF | new & DBM | kept
        assert stage1.inherit(old, new) == AF | new & DBM | kept
        # An old one without DBM has no state to hand on.
        assert stage2.inherit(old & ~DBM, new) == AF | new == stage1.inherit(old & ~DBM, new)


@pytest.mark.parametrize("what", [0, ACCESSED, DIRTY, ACCESSED | DIRTY])
@pytest.mark.parametrize("rest", [0, 0x0060_0000_4000_0543])
def test_forgetting_makes_clean_what_has_a_dirty_state_and_leaves_permissions_alone(what: int, rest: int) -> None:
    """A clean page has S2AP[1] = 0 at stage 2 and AP[2] = 1 at stage 1, with DBM; without, those are permissions."""
    accessed = 0 if what & ACCESSED else AF
    writable = rest & ~AF | AF | S2AP_WRITE
    assert stage2.forget(writable, what) == writable & ~AF | accessed
    assert stage2.forget(writable | DBM, what) == (writable & ~AF & ~S2AP_WRITE | DBM | accessed) | (
        0 if what & DIRTY else S2AP_WRITE
    )
    dirty = rest & ~AF & ~AP_READ_ONLY | AF
    assert stage1.forget(dirty, what) == dirty & ~AF | accessed
    assert stage1.forget(dirty | DBM, what) == dirty & ~AF | DBM | accessed | (AP_READ_ONLY if what & DIRTY else 0)


@pytest.mark.parametrize(
    ("memory_type", "stage_1", "stage_2", "shareable"),
    [
        (MemoryType.WRITE_BACK, "Normal Write-Back", 0b1111, True),
        (MemoryType.WRITE_THROUGH, "Normal Write-Through", 0b1010, True),
        (MemoryType.WRITE_COMBINING, "Normal Non-cacheable", 0b0101, True),
        (MemoryType.UNCACHED, "Normal Non-cacheable", 0b0101, True),
        (MemoryType.DEVICE, "Device-nGnRE", 0b0001, False),
    ],
)
def test_a_leaf_has_the_memory_type_and_the_shareability_of_the_manual(
    memory_type: MemoryType, stage_1: str, stage_2: int, shareable: bool
) -> None:
    """MemAttr and AttrIndx (D8.6); SH is 0b11 for Normal memory, and Device memory needs none (D8.3.2, D8.3.1)."""
    share = INNER_SHAREABLE if shareable else 0
    read = MappingFlags.READ
    assert S2.leaf_entry(0, 0x4000_0000, read, memory_type) == (
        0x4000_0000 | 1 << 54 | AF | share | 1 << 6 | stage_2 << 2 | PAGE
    )
    entry = S1.leaf_entry(0, 0x4000_0000, read, memory_type)
    index = entry >> 2 & 7
    assert describe_mair(stage1.MAIR >> 8 * index & 0xFF) == stage_1
    assert entry == 0x4000_0000 | 3 << 53 | AF | share | AP_READ_ONLY | index << 2 | PAGE
    for fmt in (S1, S2):
        wide = fmt.leaf_entry(0, 0x4000_0000, read, memory_type, fmt.default_controls | layout.LPA2)
        assert not wide & INNER_SHAREABLE, "with DS, bits 9:8 are address bits 51:50"


@pytest.mark.parametrize("attribute", range(16))
@pytest.mark.parametrize("fwb", [False, True])
def test_ptw_keeps_stage_1_walks_out_of_device_memory_as_the_stages_attributes_say(attribute: int, fwb: bool) -> None:
    """HCR_EL2.PTW. MemAttr[3:2] = 0 is Device; with HCR_EL2.FWB MemAttr[2] = 0 forces it (D8.6)."""
    device = attribute < 4 if not fwb else not attribute & 4
    controls = TABLE_WALK | stage2.PTW | (stage2.FWB if fwb else 0)
    attributes = attribute << MEMORY_TYPE_SHIFT | READ | WRITE
    assert stage2.permissions(attributes, controls) & 7 == (0 if device else READ | WRITE)
    for other in (controls & ~TABLE_WALK, controls & ~stage2.PTW):
        assert stage2.permissions(attributes, other) & 7 == READ | WRITE


@pytest.mark.parametrize(
    ("name", "leaves"),
    [
        ("arm-s2-4k-48", [16, 16, 16]), ("arm-s2-4k-39", [16, 16, 16]), ("arm-s2-16k-48", [128, 32]),
        ("arm-s1-64k-48", [32, 32]), ("arm-s2-64k-52", [32, 32]),
    ],
)  # fmt: skip
def test_the_contiguous_bit_joins_as_many_leaves_as_the_manual_says(name: str, leaves: list[int]) -> None:
    """D8.7.1 "The Contiguous bit": 4 KiB 16 at each level; 16 KiB 128 pages or 32 blocks; 64 KiB 32 of either."""
    assert [1 << bits for bits in by_name(name).group_bits] == leaves
