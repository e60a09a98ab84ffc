"""What holds for every format, whatever its bits: one suite over all of them."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stage2.errors import EncodingError
from stage2.flags import RWX, MappingFlags, MemoryType
from stage2.formats import by_name, names, outcome
from stage2.formats.arm import layout, stage1, stage2
from stage2.formats.outcome import EntryKind
from stage2.formats.record import Format
from stage2.formats.riscv import entry as riscv
from stage2.formats.riscv.formats import BARE_STAGE_1, BARE_STAGE_2
from stage2.formats.u64 import MASK_64
from stage2.formats.x86 import ept, longmode

every_format = pytest.mark.parametrize("name", names())
WORDS = st.integers(0, MASK_64)
ALL_FLAGS = [MappingFlags(bits) for bits in range(64)]
CONTROLS = {
    "riscv": (riscv.SUM, riscv.MXR, riscv.HARDWARE_AD, riscv.SVPBMT, riscv.SVNAPOT),
    "ept": (ept.AD_ENABLED, ept.MODE_BASED_EXECUTE),
    "x86": (longmode.SMEP, longmode.SMAP),
    "npt": (0,),
    "arm-s1": (layout.HA, layout.HA | layout.HD, stage1.WXN, stage1.PAN, stage1.HPD),
    "arm-s2": (layout.HA, layout.HA | layout.HD, stage2.PTW, stage2.FWB),
}
"""Controls that may be switched on, by the beginning of a format's name."""


def switches_of(fmt: Format) -> tuple[int, ...]:
    name = "riscv" if fmt.family == "riscv" else next(start for start in CONTROLS if fmt.name.startswith(start))
    return CONTROLS[name]


def controls_of(fmt: Format) -> st.SearchStrategy[int]:
    """Legal controls: the format's default with any of the family's switches."""
    switches = st.sets(st.sampled_from(switches_of(fmt)))

    def together(chosen: set[int]) -> int:
        controls = fmt.default_controls
        for switch in chosen:
            controls |= switch
        return controls

    return switches.map(together)


def expressible(fmt: Format, flags: MappingFlags, memory_type: MemoryType, controls: int) -> bool:
    """Whether the architecture has an encoding, by its manual."""
    read, write = bool(flags & MappingFlags.READ), bool(flags & MappingFlags.WRITE)
    if fmt.family == "arm":
        fwb = fmt.stage == 2 and controls & stage2.FWB
        missing = {MemoryType.WRITE_PROTECTED} | ({MemoryType.WRITE_THROUGH} if fwb else set())
        return memory_type not in missing and (read if fmt.stage == 1 else bool(flags.permissions))
    if fmt.name.startswith(("x86", "npt")):
        return read
    return bool(flags.permissions) and not (write and not read)


def tracks(fmt: Format, controls: int) -> bool:
    """Whether hardware sets accessed and dirty bits by itself."""
    if fmt.family == "riscv":
        return bool(controls & riscv.HARDWARE_AD)
    if fmt.family == "arm":
        return bool(controls & layout.HD)
    return bool(controls & ept.AD_ENABLED) if fmt.name.startswith("ept") else True


def addresses(fmt: Format, level: int) -> st.SearchStrategy[int]:
    """Output addresses that a leaf at `level` can hold."""
    shift = fmt.level_shift(level)
    return st.integers(0, (1 << (fmt.output_bits - shift)) - 1).map(lambda block: block << shift)


def entries(fmt: Format) -> st.SearchStrategy[int]:
    """64-bit words: any at all, and any small change to a legal leaf or table, which random words seldom are."""
    legal = st.one_of(
        addresses(fmt, 0).map(fmt.table_entry),
        st.builds(
            lambda level, address, flags: fmt.leaf_entry(level, address, flags),
            st.integers(0, fmt.top_leaf_level),
            st.one_of(addresses(fmt, 0), addresses(fmt, fmt.top_leaf_level)),
            st.sampled_from([MappingFlags.READ, MappingFlags(3), MappingFlags(5), RWX]),
        ),
    )
    flipped = st.builds(
        lambda word, bits: word ^ sum(1 << b for b in bits), legal, st.sets(st.integers(0, 63), max_size=3)
    )
    return st.one_of(WORDS, legal, flipped)


def encodable(fmt: Format, level: int, flags: MappingFlags, memory_type: MemoryType, controls: int) -> bool:
    try:
        fmt.encode_leaf(level, flags, memory_type, controls)
    except EncodingError:
        return False
    return True


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
    (mark,) = test_widths_and_root_sizes_are_the_manuals.pytestmark  # type: ignore[attr-defined]
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


@every_format
@given(data=st.data())
def test_what_is_encoded_decodes_to_what_was_asked_for(name: str, data: st.DataObject) -> None:
    fmt = by_name(name)
    level = data.draw(st.integers(0, fmt.top_leaf_level))
    address = data.draw(addresses(fmt, level))
    controls = data.draw(controls_of(fmt))
    memory_type = data.draw(st.sampled_from(MemoryType))
    for flags in ALL_FLAGS:
        legal = expressible(fmt, flags, memory_type, controls)
        assert encodable(fmt, level, flags, memory_type, controls) is legal
        if not legal:
            continue
        entry = fmt.leaf_entry(level, address, flags, memory_type, controls)
        kind, output, attributes = fmt.decode(entry, level, controls)
        assert (kind, output) == (outcome.LEAF, address)
        if fmt.name.startswith("arm-s1"):
            # Fetches of the two levels have a bit each; a page of EL0 is not executed by EL1.
            assert attributes & 3 == flags.permissions & 3
        else:
            assert attributes & 7 == flags.permissions
        assert attributes & outcome.ACCESSED
        assert attributes & outcome.DIRTY, "software that maps a page does not want a fault for its sake"
        granted = fmt.permissions(attributes, controls)
        wanted = flags.permissions
        if fmt.name.startswith("arm-s1") and controls & stage1.WXN and wanted & MappingFlags.WRITE:
            wanted &= ~MappingFlags.EXECUTE
        if fmt.stage == 2:
            assert (granted | granted >> outcome.USER_SHIFT) & wanted == wanted
        elif flags & MappingFlags.USER:
            assert granted >> outcome.USER_SHIFT & wanted == wanted
        else:
            assert granted & wanted == wanted
            assert granted >> outcome.USER_SHIFT == 0


@every_format
@given(data=st.data())
def test_a_table_entry_decodes_to_its_table_at_every_level_but_the_last(name: str, data: st.DataObject) -> None:
    fmt = by_name(name)
    address = data.draw(addresses(fmt, 0))
    controls = data.draw(controls_of(fmt))
    for level in range(1, fmt.levels):
        kind, output, attributes = fmt.decode(fmt.table_entry(address), level, controls)
        assert (kind, output) == (outcome.TABLE, address)
        # A table of ours restricts nothing but what no table ever grants (user fetches under MBEC stay the leaf's).
        assert attributes & 7 == 7
    assert fmt.decode(fmt.table_entry(address), 0, controls)[0] != outcome.TABLE


@every_format
@given(data=st.data())
def test_any_word_decodes_to_something_a_walk_can_use(name: str, data: st.DataObject) -> None:
    fmt = by_name(name)
    entry, controls = data.draw(entries(fmt)), data.draw(controls_of(fmt))
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
    entry, controls = data.draw(entries(fmt)), data.draw(controls_of(fmt))
    for level in range(1, fmt.top_leaf_level + 1):
        kind, output, attributes = fmt.decode(entry, level, controls)
        if kind != outcome.LEAF:
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
    controls = data.draw(controls_of(fmt))
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
@given(data=st.data())
def test_marking_sets_accessed_and_dirty_and_nothing_else(name: str, data: st.DataObject) -> None:
    fmt = by_name(name)
    entry, controls = data.draw(entries(fmt)), data.draw(controls_of(fmt))
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
