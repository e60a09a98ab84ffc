"""What holds for every format, whatever its bits: one suite over all of them."""

import subprocess
import sys
from collections.abc import Collection
from itertools import pairwise, product

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from words import addresses, entries, switches, width_under

from stage2.errors import EncodingError
from stage2.flags import RWX, MappingFlags, MemoryType
from stage2.formats import by_name, names, outcome
from stage2.formats.arm import layout
from stage2.formats.outcome import EntryKind
from stage2.formats.record import Format
from stage2.formats.riscv.formats import BARE_STAGE_1, BARE_STAGE_2
from stage2.formats.u64 import MASK_64
from waiting import HANG_S

every_format = pytest.mark.parametrize("name", names())
ALL_FLAGS = [MappingFlags(bits) for bits in range(64)]


def expressible(fmt: Format, flags: MappingFlags, memory_type: MemoryType, on: Collection[str]) -> bool:
    """Whether the architecture has an encoding, by its manual."""
    read, write, execute = (
        bool(flags & flag) for flag in (MappingFlags.READ, MappingFlags.WRITE, MappingFlags.EXECUTE)
    )
    if fmt.family == "arm":
        missing = {MemoryType.WRITE_PROTECTED} | ({MemoryType.WRITE_THROUGH} if "fwb" in on else set())
        return memory_type not in missing and (read if fmt.stage == 1 else bool(flags.permissions))
    if fmt.name.startswith(("x86", "npt")):
        return read and (execute or "no-nx" not in on)
    return (read or execute) and not (write and not read) and (read or "no-execute-only" not in on)


def allowed(fmt: Format, flags: MappingFlags, on: Collection[str]) -> tuple[int, int]:
    """What the privileged level and the user may do with a leaf that was made with `flags`, by the manuals."""
    wanted = int(flags.permissions)
    if "wxn" in on and wanted & MappingFlags.WRITE:
        wanted &= ~MappingFlags.EXECUTE
    if "hlvx" in on:
        wanted &= ~MappingFlags.READ
    if {"mxr", "hlvx"} & set(on) and wanted & MappingFlags.EXECUTE:
        wanted |= MappingFlags.READ
    if fmt.stage == 2:
        return wanted, wanted
    data = wanted & ~MappingFlags.EXECUTE
    if not flags & MappingFlags.USER or "el2" in on:
        return wanted | (MappingFlags.WRITE if "no-wp" in on else 0), 0
    if fmt.family == "riscv":
        return (data if "sum" in on else 0), wanted
    if fmt.family == "arm":
        return (0 if "pan" in on else data), wanted
    reached = 0 if "smap" in on else data | (MappingFlags.WRITE if "no-wp" in on else 0)
    return reached | (0 if "smep" in on else wanted & MappingFlags.EXECUTE), wanted


def tracks(fmt: Format, controls: int) -> bool:
    """Whether hardware sets accessed and dirty bits by itself."""
    return controls & fmt.hardware_ad == fmt.hardware_ad


@every_format
def test_a_record_fits_together(name: str) -> None:
    fmt = by_name(name)
    assert fmt.name == name
    assert not fmt.is_bare
    assert fmt.stage in (1, 2)
    assert fmt.top_leaf_level < fmt.levels
    assert fmt.input_bits == fmt.page_shift + fmt.bits * (fmt.levels - 1) + fmt.root_bits
    assert fmt.root_size == max(8 << fmt.root_bits, 1 << 12)
    assert fmt.leaf_sizes[0] == fmt.page_size == 8 << fmt.bits
    assert all(above == below << fmt.bits for below, above in pairwise(fmt.leaf_sizes))
    assert fmt.default_controls >> 64 == 0


@pytest.mark.parametrize(
    ("name", "width", "root"),
    [
        ("sv39", 39, 0x1000), ("sv48", 48, 0x1000), ("sv57", 57, 0x1000),
        ("sv39x4", 41, 0x4000), ("sv48x4", 50, 0x4000), ("sv57x4", 59, 0x4000),
        ("x86-4level", 48, 0x1000), ("x86-5level", 57, 0x1000), ("ept4", 48, 0x1000), ("ept5", 57, 0x1000),
        ("npt4", 48, 0x1000), ("npt5", 57, 0x1000),
        ("arm-s1-4k-39", 39, 0x1000), ("arm-s1-4k-48", 48, 0x1000), ("arm-s1-4k-48-high", 48, 0x1000),
        ("arm-s1-4k-52-lpa2", 52, 0x1000), ("arm-s1-16k-47", 47, 0x4000), ("arm-s1-64k-48", 48, 0x1000),
        ("arm-s2-4k-40", 40, 0x2000), ("arm-s2-4k-40-4level", 40, 0x1000), ("arm-s2-4k-44", 44, 0x1000),
        ("arm-s2-4k-48", 48, 0x1000), ("arm-s2-4k-52-lpa2", 52, 0x10000), ("arm-s2-16k-40", 40, 0x40000),
        ("arm-s2-16k-48", 48, 0x8000), ("arm-s2-64k-40", 40, 0x4000), ("arm-s2-64k-52", 52, 0x2000),
    ],
)  # fmt: skip
def test_widths_and_root_sizes_are_the_manuals(name: str, width: int, root: int) -> None:
    fmt = by_name(name)
    assert (fmt.input_bits, fmt.root_size) == (width, root)


def test_every_format_is_in_the_table_of_widths() -> None:
    (mark,) = test_widths_and_root_sizes_are_the_manuals.pytestmark  # type: ignore[attr-defined]  # pytest sets it
    assert {name for name, _, _ in mark.args[1]} == set(names())


@pytest.mark.parametrize(("wrong", "near"), [("sv39x", "sv39"), ("epf4", "ept4"), ("zzz", None)])
def test_an_unknown_format_is_refused_with_the_nearest_name(wrong: str, near: str | None) -> None:
    with pytest.raises(EncodingError, match="no format is called") as caught:
        by_name(wrong)
    assert ("did you mean" in str(caught.value)) is (near is not None)
    assert near is None or near in str(caught.value)
    assert "sv57x4" in str(caught.value)


@every_format
def test_fields_of_one_entry_do_not_overlap(name: str) -> None:
    fmt = by_name(name)
    for level in range(fmt.levels):
        for kind in ("leaf", "table"):
            taken = 0
            for field in fmt.fields:
                if kind in field.kinds and (field.levels is None or level in field.levels):
                    mask = (1 << field.high + 1) - (1 << field.low)
                    assert taken & mask == 0, f"{field.name} ({field.bits}) overlaps another field of a {kind}"
                    taken |= mask


@every_format
def test_every_reserved_field_makes_an_entry_a_misconfiguration(name: str) -> None:
    fmt = by_name(name)
    for level in range(fmt.levels):
        present = {"table": fmt.table_entry(0)} if level else {}
        if level <= fmt.top_leaf_level:
            present["leaf"] = fmt.leaf_entry(level, 0, RWX)
        for field in fmt.fields:
            if not field.reserved or (field.levels is not None and level not in field.levels):
                continue
            for kind in field.kinds & present.keys():
                for bit in range(field.low, field.high + 1):
                    assert fmt.decode(present[kind] | 1 << bit, level, fmt.default_controls)[0] == outcome.MISCONFIGURED


@every_format
def test_zero_is_never_present(name: str) -> None:
    fmt = by_name(name)
    for level in range(fmt.levels):
        assert fmt.decode(0, level, fmt.default_controls) == (outcome.NONE, 0, 0)


def round_trip(fmt: Format, level: int, address: int, memory_type: MemoryType, on: Collection[str]) -> None:
    """Encode with all flags and decode again, or be refused where the manual has no such entry."""
    controls = fmt.controls_with(*on)
    for flags in ALL_FLAGS:
        if not expressible(fmt, flags, memory_type, on):
            with pytest.raises(EncodingError):
                fmt.leaf_entry(level, address, flags, memory_type, controls)
            continue
        entry = fmt.leaf_entry(level, address, flags, memory_type, controls)
        kind, output, attributes = fmt.decode(entry, level, controls)
        assert (kind, output) == (outcome.LEAF, address)
        assert attributes & outcome.ACCESSED
        assert attributes & outcome.DIRTY, "software that maps a page does not want a fault for its sake"
        granted = fmt.permissions(attributes, controls)
        assert (granted & 7, granted >> outcome.USER_SHIFT) == allowed(fmt, flags, on), f"{flags!r} in {entry:#x}"


@every_format
def test_every_flag_type_level_and_switch_can_be_encoded_and_comes_back(name: str) -> None:
    fmt = by_name(name)
    for on in ((), *((switch,) for switch in fmt.switches)):
        for level, memory_type in product(range(fmt.top_leaf_level + 1), MemoryType):
            highest = (1 << width_under(fmt, frozenset(on))) - fmt.leaf_size(level)
            round_trip(fmt, level, max(highest, 0), memory_type, on)


@every_format
@given(data=st.data())
def test_what_is_encoded_decodes_to_what_was_asked_for(name: str, data: st.DataObject) -> None:
    fmt = by_name(name)
    level, on = data.draw(st.integers(0, fmt.top_leaf_level)), data.draw(switches(fmt))
    round_trip(
        fmt, level, data.draw(addresses(fmt, level, width_under(fmt, on))), data.draw(st.sampled_from(MemoryType)), on
    )


@every_format
@given(data=st.data())
def test_a_table_entry_restricts_nothing_at_every_level_but_the_last(name: str, data: st.DataObject) -> None:
    fmt = by_name(name)
    on = data.draw(switches(fmt))
    address = data.draw(addresses(fmt, 0, width_under(fmt, on)))
    controls = fmt.controls_with(*on)
    leaf = fmt.decode(fmt.leaf_entry(0, 0, RWX | MappingFlags.USER, controls=controls), 0, controls)[2]
    for level in range(1, fmt.levels):
        kind, output, attributes = fmt.decode(fmt.table_entry(address, controls), level, controls)
        assert (kind, output) == (outcome.TABLE, address)
        under = leaf & (attributes | MASK_64 ^ outcome.COMBINED)
        assert fmt.permissions(under, controls) == fmt.permissions(leaf, controls)
    assert fmt.decode(fmt.table_entry(address, controls), 0, controls)[0] != outcome.TABLE


@every_format
@given(data=st.data())
def test_any_word_decodes_to_something_a_walk_can_use(name: str, data: st.DataObject) -> None:
    fmt = by_name(name)
    entry, controls = data.draw(entries(fmt)), fmt.controls_with(*data.draw(switches(fmt)))
    for level in range(fmt.levels):
        kind, output, attributes = fmt.decode(entry, level, controls)
        EntryKind(kind)
        assert attributes >> 24 == 0, "batches keep the level above bit 23"
        assert output >> fmt.output_bits == 0
        if kind == outcome.TABLE:
            assert level > 0
            assert output % fmt.table_size == 0
        elif kind == outcome.LEAF:
            assert level <= fmt.top_leaf_level
            assert output % fmt.leaf_size(level) == 0
        else:
            assert (output, attributes) == (0, 0)
        assert fmt.permissions(attributes, controls) <= outcome.ALL_PERMISSIONS


@every_format
@given(data=st.data())
def test_a_split_leaf_means_the_same_in_pieces(name: str, data: st.DataObject) -> None:
    fmt = by_name(name)
    entry, on = data.draw(entries(fmt)), data.draw(switches(fmt))
    controls = fmt.controls_with(*on)
    for level in range(1, fmt.top_leaf_level + 1):
        kind, output, attributes = fmt.decode(entry, level, controls)
        if kind != outcome.LEAF or output + fmt.leaf_size(level) > 1 << width_under(fmt, on):
            continue
        # The pieces are no group only because the block was in one.
        attributes &= ~outcome.GROUPED
        below = fmt.leaf_size(level - 1)
        for piece in (0, 1, (1 << fmt.bits) - 1):
            address = output + piece * below
            child = fmt.pack_address(address) | fmt.resize(entry, level, level - 1)
            assert fmt.decode(child, level - 1, controls) == (outcome.LEAF, address, attributes)
        joined = fmt.pack_address(output) | fmt.resize(child, level - 1, level)
        assert fmt.decode(joined, level, controls) == (outcome.LEAF, output, attributes)


@every_format
@given(data=st.data())
def test_a_rewritten_leaf_keeps_its_accessed_and_dirty_bits(name: str, data: st.DataObject) -> None:
    fmt = by_name(name)
    controls = fmt.controls_with(*data.draw(switches(fmt)))
    old, new = data.draw(entries(fmt)), data.draw(entries(fmt))
    if fmt.family == "arm" and not (controls & layout.HD and old & new & layout.DBM):
        # Without DBM in both there is no dirty state to hand on.
        old, new = old & ~layout.DBM, new & ~layout.DBM
    (kind_old, _, before), (kind_new, address, wanted) = (fmt.decode(word, 0, controls) for word in (old, new))
    if kind_old != outcome.LEAF or kind_new != outcome.LEAF:
        return
    kind, output, attributes = fmt.decode(fmt.inherit(old, new), 0, controls)
    tracked = outcome.ACCESSED | outcome.DIRTY
    assert (kind, output) == (outcome.LEAF, address)
    assert attributes & tracked == before & tracked
    assert attributes & ~tracked == wanted & ~tracked


@every_format
@pytest.mark.parametrize("left", [0, outcome.ACCESSED, outcome.DIRTY, outcome.ACCESSED | outcome.DIRTY])
def test_forgetting_takes_accessed_and_dirty_and_a_rewritten_leaf_gets_them_back(name: str, left: int) -> None:
    fmt = by_name(name)
    controls = fmt.default_controls | fmt.hardware_ad
    tracked = outcome.ACCESSED | outcome.DIRTY
    for level in range(fmt.top_leaf_level + 1):
        address = (1 << fmt.output_bits) - fmt.leaf_size(level)
        leaf = fmt.leaf_entry(level, address, RWX, controls=controls)
        _, _, attributes = fmt.decode(leaf, level, controls)
        old = fmt.forget(leaf, tracked & ~left)
        assert fmt.decode(old, level, controls) == (outcome.LEAF, address, attributes & ~tracked | left)
        new = fmt.leaf_entry(level, 0, MappingFlags(3), controls=controls)
        _, _, wanted = fmt.decode(new, level, controls)
        for fresh in (new, fmt.forget(new, tracked)):
            found = fmt.decode(fmt.inherit(old, fresh), level, controls)
            assert found == (outcome.LEAF, 0, wanted & ~tracked | left)


@every_format
@given(data=st.data())
def test_marking_sets_accessed_and_dirty_and_nothing_else(name: str, data: st.DataObject) -> None:
    fmt = by_name(name)
    entry, controls = data.draw(entries(fmt)), fmt.controls_with(*data.draw(switches(fmt)))
    kind, address, attributes = fmt.decode(entry, 0, controls)
    if kind != outcome.LEAF:
        return
    read, written = fmt.mark(entry, 0, controls), fmt.mark(entry, 1, controls)
    if fmt.family == "arm" and (controls & layout.HA and not (controls & layout.HD and entry & layout.DBM)):
        # Only the access flag is hardware's: nothing is ever dirty or clean.
        assert fmt.decode(read, 0, controls) == (outcome.LEAF, address, attributes | outcome.ACCESSED)
        assert read == written
        return
    if not tracks(fmt, controls):
        assert read == written == entry
        return
    assert fmt.decode(read, 0, controls) == (outcome.LEAF, address, attributes | outcome.ACCESSED)
    assert fmt.decode(written, 0, controls) == (outcome.LEAF, address, attributes | outcome.ACCESSED | outcome.DIRTY)
    assert fmt.mark(written, 0, controls) == written, "a dirty page stays dirty when it is read"


@every_format
def test_a_leaf_above_the_highest_level_is_refused_or_does_not_exist(name: str) -> None:
    fmt = by_name(name)
    for level in range(fmt.top_leaf_level + 1, fmt.levels):
        with pytest.raises(EncodingError, match="no leaf"):
            fmt.leaf_entry(level, 0, RWX)


@every_format
@example(bit=63)
@given(bit=st.integers(0, 63))
def test_every_bit_of_a_leaf_is_explained_or_ignored(name: str, bit: int) -> None:
    """A bit that changes what decode answers must belong to a field, or no report could say why."""
    fmt = by_name(name)
    controls = fmt.default_controls
    leaf = fmt.leaf_entry(0, 0, RWX)
    if fmt.decode(leaf, 0, controls) != fmt.decode(leaf ^ 1 << bit, 0, controls):
        assert any("leaf" in field.kinds and field.low <= bit <= field.high for field in fmt.fields)


@pytest.mark.parametrize("bare", [BARE_STAGE_1, BARE_STAGE_2])
def test_bare_formats_translate_nothing(bare: Format) -> None:
    assert bare.is_bare
    assert bare.levels == 0
    assert bare.input_bits == 56
    assert bare.name not in names()


@every_format
def test_a_format_is_found_without_importing_another_familys_rules(name: str) -> None:
    family = by_name(name).family
    look = f"from stage2.formats import by_name; by_name({name!r}); import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True, timeout=HANG_S)
    rules = [found for found in done.stdout.split() if found.startswith("stage2.formats.") and found.count(".") > 2]
    assert {found.split(".")[2] for found in rules} == {family}
