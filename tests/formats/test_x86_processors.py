"""What a processor makes of x86 tables: its controls, its widths, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from stage2.address import SIZE_1G, SIZE_2M, Gpa, Hpa, Range
from stage2.errors import EncodingError, OutOfRangeError
from stage2.flags import RWX, MapType
from stage2.formats import by_name, family_of
from stage2.formats.dependence import deciding_parts
from stage2.formats.outcome import LEAF, MISCONFIGURED, TABLE
from stage2.formats.x86 import ept, longmode
from stage2.memory.frames import FrameAllocator
from stage2.memory.owners import Owner, OwnerKind
from stage2.memory.physical import PhysicalMemory
from stage2.processor import Processor, named, parse
from stage2.processor.host import host_processor
from stage2.space.address_space import AddressSpace
from stage2.space.region import MemoryRegion, Populate
from stage2.tables.extent import Extent
from stage2.tables.pagetable import PageTable
from stage2.tables.result import Mapped

NAMES = ("x86-4level", "x86-5level", "ept4", "ept5", "npt4", "npt5")
AMD = """vendor_id\t: AuthenticAMD
model name\t: A processor for a test
flags\t\t: fpu nx pdpe1gb la57 svm npt sev
address sizes\t: 43 bits physical, 57 bits virtual
"""


def cpu(text: str) -> Processor:
    return parse(text, "x86_64")


def controls(name: str, text: str) -> int:
    fmt = by_name(name)
    return family_of(fmt).controls(fmt, cpu(text))


@pytest.mark.parametrize("name", NAMES)
def test_on_max_tables_are_what_they_are_without_a_processor(name: str) -> None:
    fmt = by_name(name)
    assert controls(name, "max") == fmt.default_controls
    family_of(fmt).require(fmt, cpu("max"), fmt.controls_with(*fmt.switches))
    assert family_of(fmt).output_bits(fmt, cpu("max")) == 52


@pytest.mark.parametrize("width", range(32, 53))
@pytest.mark.parametrize("name", NAMES)
def test_every_width_of_physical_addresses_bounds_what_a_leaf_may_hold(name: str, width: int) -> None:
    """CPUID 80000008H:EAX bits 7:0 (SDM Vol. 2A, CPUID; APM Vol. 3, E.4.7)."""
    fmt, on = by_name(name), controls(name, f"max,pa={width}")
    assert family_of(fmt).output_bits(fmt, cpu(f"max,pa={width}")) == width
    assert Extent(fmt, on).output_end == 1 << width
    for bit in range(12, 52):
        entry = fmt.leaf_entry(0, 1 << bit, RWX, controls=on)
        assert fmt.decode(entry, 0, on)[0] == (LEAF if bit < width else MISCONFIGURED)


@pytest.mark.parametrize(("name", "expected"), [("x86-4level", MISCONFIGURED), ("npt4", MISCONFIGURED)])
def test_amds_processors_have_their_own_reserved_bit(name: str, expected: int) -> None:
    fmt = by_name(name)
    pml4e = fmt.table_entry(0x1000) | longmode.G
    assert fmt.decode(pml4e, 3, controls(name, "zen1"))[0] == expected
    assert fmt.decode(pml4e, 2, controls(name, "zen1"))[0] == TABLE
    if fmt.stage == 1:
        assert fmt.decode(pml4e, 3, controls(name, "coffee-lake"))[0] == TABLE


@pytest.mark.parametrize("name", ["x86-4level", "npt4"])
def test_a_c_bit_shortens_addresses_and_is_taken_out_of_entries(name: str) -> None:
    """APM Vol. 2, 7.10.1: CPUID 8000001FH:EBX bits 5:0."""
    fmt, on = by_name(name), controls(name, "zen1-sev")
    assert Extent(fmt, on).output_end == 1 << 43
    entry = fmt.leaf_entry(0, 0x1234_5000, RWX, controls=on)
    assert fmt.decode(entry | 1 << 47, 0, on) == fmt.decode(entry, 0, on)
    assert fmt.decode(entry | 1 << 46, 0, on)[0] == MISCONFIGURED
    # No address bit stands above it, whatever the width.
    assert Extent(fmt, controls(name, "max,c-bit=47")).output_end == 1 << 47
    assert family_of(fmt).output_bits(fmt, cpu("max,c-bit=51")) == 51
    assert family_of(by_name("ept4")).output_bits(by_name("ept4"), cpu("max,c-bit=47")) == 52


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("x86-5level", "zen1", "zen1 lacks la57, which x86-5level needs"),
        ("npt5", "max,-la57", "max,-la57 lacks la57, which npt5 needs"),
        ("ept5", "coffee-lake", "coffee-lake lacks ept-5level, which ept5 needs"),
        ("ept4", "zen4", r"zen4 is an AMD processor: it has nested paging \(npt4, npt5\) and no EPT"),
        ("npt4", "meteor-lake", r"meteor-lake is an Intel processor: it has EPT \(ept4, ept5\) and no nested paging"),
    ],
)
def test_tables_that_a_processor_does_not_have_are_refused(name: str, text: str, problem: str) -> None:
    with pytest.raises(EncodingError, match=problem):
        controls(name, text)


@pytest.mark.parametrize(
    ("name", "switches", "text", "problem"),
    [
        ("ept4", ("ad",), "max,-ept-ad", "lacks ept-ad: EPTP bit 6"),
        ("ept4", ("mbec",), "max,-mbec", "lacks mbec: mode-based execute control"),
        ("ept4", (), "max,-ept-execute-only", "lacks ept-execute-only"),
        ("ept4", (), "max,-ept-gib-pages", "lacks ept-gib-pages"),
        ("x86-4level", (), "max,-nx", "lacks nx: bit 63"),
        ("npt4", (), "max,-gib-pages", "lacks gib-pages"),
        ("npt4", (), "max,pa=40", "has physical addresses of 40 bits, not 52"),
    ],
)
def test_controls_that_a_processor_does_not_have_are_refused(
    name: str, switches: tuple[str, ...], text: str, problem: str
) -> None:
    fmt = by_name(name)
    with pytest.raises(EncodingError, match=problem):
        family_of(fmt).require(fmt, cpu(text), fmt.controls_with(*switches))


@pytest.mark.parametrize(
    ("name", "switches", "text"),
    [
        ("ept4", (), "max,-ept-ad"),
        ("ept4", (), "max,-mbec"),
        ("ept4", ("no-execute-only",), "max,-ept-execute-only"),
        ("x86-4level", ("no-nx",), "max,-nx"),
    ],
)
def test_what_the_controls_do_not_ask_for_a_processor_may_lack(name: str, switches: tuple[str, ...], text: str) -> None:
    """SDM Vol. 3C, 28.2.1.1: EPTP bit 6 and the execution control are refused only where they are set."""
    fmt = by_name(name)
    family_of(fmt).require(fmt, cpu(text), fmt.controls_with(*switches))


@pytest.mark.parametrize("name", NAMES)
def test_what_a_named_processor_has_it_never_refuses(name: str) -> None:
    fmt = by_name(name)
    for processor in named("x86_64").values():
        try:
            on = family_of(fmt).controls(fmt, processor)
        except EncodingError:
            continue
        family_of(fmt).require(fmt, processor, on)
        assert Extent(fmt, on).output_end == 1 << family_of(fmt).output_bits(fmt, processor)


def test_a_processor_without_nx_or_execute_only_builds_no_such_leaf() -> None:
    assert not controls("npt4", "max,-nx") & longmode.NXE
    assert not controls("ept4", "max,-ept-execute-only") & ept.EXECUTE_ONLY


@pytest.mark.parametrize(("name", "text"), [("ept4", "max,-ept-gib-pages"), ("npt4", "max,-gib-pages")])
@pytest.mark.kernels
def test_without_pages_of_1_gib_ram_is_mapped_in_blocks_of_2_mib(name: str, text: str) -> None:
    ram = Range(0, 2 * SIZE_1G)
    with PhysicalMemory([ram]) as memory:
        fmt, frames = by_name(name), FrameAllocator(memory)
        space = AddressSpace.create(fmt, frames, processor=cpu(text), populate=Populate.EAGER)
        space.map(MemoryRegion(Gpa(0), SIZE_1G, RWX, MapType.MAP_ALLOC))
        assert space.page_table.statistics().leaves.get(SIZE_1G, 0) == 0
        assert space.page_table.statistics().mapped_bytes == SIZE_1G
        space.destroy()
        table = PageTable(fmt, frames, owner=Owner(OwnerKind.TABLES, "t"), controls=controls(name, text))
        with pytest.raises(OutOfRangeError, match=f"this processor's {name} has no leaf of 0x40000000 bytes"):
            table.map_page(0, Hpa(0), RWX, SIZE_1G)
        table.map_range(0, Hpa(0), SIZE_1G, RWX)
        table.coalesce(0, SIZE_1G)
        found = table.translate(0)
        assert isinstance(found, Mapped)
        assert found.size == SIZE_2M
        table.destroy()


def test_what_an_entry_says_hangs_on_the_vendor_where_bit_8_does() -> None:
    fmt = by_name("x86-4level")
    pointer = fmt.table_entry(0x1000) | longmode.G
    assert deciding_parts(fmt, pointer, 3) == ("another vendor than amd",)
    assert "the vendor amd" in deciding_parts(fmt, pointer, 3, cpu("zen1"))
    assert deciding_parts(fmt, pointer, 2) == ()


def test_a_host_of_amd_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(AMD)
    found = host_processor("x86_64", tmp_path / "cpuinfo")
    assert (found.vendor, found.pa_bits) == ("amd", 43)
    assert found.features == {"nx", "gib-pages", "la57"}
