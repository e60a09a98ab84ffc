"""What holds for every format, whatever its bits: one suite over all of them."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stage2.errors import EncodingError
from stage2.flags import RWX, MappingFlags, MemoryType
from stage2.formats import by_name, names, outcome
from stage2.formats.outcome import EntryKind
from stage2.formats.record import Format
from stage2.formats.riscv import entry as riscv
from stage2.formats.riscv.formats import BARE_STAGE_1, BARE_STAGE_2
from stage2.formats.u64 import MASK_64
from stage2.formats.x86 import ept

every_format = pytest.mark.parametrize("name", names())
WORDS = st.integers(0, MASK_64)
ALL_FLAGS = [MappingFlags(bits) for bits in range(64)]
CONTROLS = {
    "riscv": (riscv.SUM, riscv.MXR, riscv.HARDWARE_AD),
    "x86": (ept.AD_ENABLED, ept.MODE_BASED_EXECUTE),
}
"""Controls of a family that may be switched on."""


def controls_of(fmt: Format) -> st.SearchStrategy[int]:
    """Legal controls: the format's default with any of the family's switches."""
    switches = st.sets(st.sampled_from(CONTROLS[fmt.family]))
    return switches.map(lambda chosen: fmt.default_controls | sum(chosen))


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
    assert fmt.root_size == 8 << fmt.root_bits
    assert fmt.leaf_sizes[:3] == (1 << 12, 1 << 21, 1 << 30)
    assert all(above == below << fmt.bits for below, above in pairwise(fmt.leaf_sizes))
    assert fmt.default_controls >> 64 == 0


@pytest.mark.parametrize(
    ("name", "width", "root"),
    [
        ("sv39", 39, 0x1000), ("sv48", 48, 0x1000), ("sv57", 57, 0x1000),
        ("sv39x4", 41, 0x4000), ("sv48x4", 50, 0x4000), ("sv57x4", 59, 0x4000),
        ("ept4", 48, 0x1000),
    ],
)  # fmt: skip
def test_widths_and_root_sizes_are_the_manuals(name: str, width: int, root: int) -> None:
    fmt = by_name(name)
    assert (fmt.input_bits, fmt.root_size) == (width, root)


def test_every_format_is_in_the_table_of_widths() -> None:
    assert set(names()) == {"sv39", "sv48", "sv57", "sv39x4", "sv48x4", "sv57x4", "ept4"}


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
    leaf, table = fmt.leaf_entry(0, 0, RWX), fmt.table_entry(0)
    for field in fmt.fields:
        for bit in range(field.low, field.high + 1) if field.reserved else ():
            if "leaf" in field.kinds:
                assert fmt.decode(leaf | 1 << bit, 0, fmt.default_controls)[0] == outcome.MISCONFIGURED
            if "table" in field.kinds:
                top = fmt.levels - 1
                assert fmt.decode(table | 1 << bit, top, fmt.default_controls)[0] == outcome.MISCONFIGURED


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
        legal = bool(flags.permissions) and not (flags & MappingFlags.WRITE and not flags & MappingFlags.READ)
        assert encodable(fmt, level, flags, memory_type, controls) is legal
        if not legal:
            continue
        entry = fmt.leaf_entry(level, address, flags, memory_type, controls)
        kind, output, attributes = fmt.decode(entry, level, controls)
        assert (kind, output) == (outcome.LEAF, address)
        assert attributes & 7 == flags.permissions
        assert attributes & outcome.ACCESSED
        assert attributes & outcome.DIRTY, "software that maps a page does not want a fault for its sake"
        granted = fmt.permissions(attributes, controls)
        if fmt.stage == 2:
            assert (granted | granted >> outcome.USER_SHIFT) & flags.permissions == flags.permissions
        elif flags & MappingFlags.USER:
            assert granted >> outcome.USER_SHIFT & flags.permissions == flags.permissions
        else:
            assert granted & flags.permissions == flags.permissions
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
    tracked = bool(controls & (riscv.HARDWARE_AD if fmt.family == "riscv" else ept.AD_ENABLED))
    if not tracked:
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
