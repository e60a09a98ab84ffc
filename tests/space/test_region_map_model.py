"""Regions in order: upstream's MemorySet cases (inventory 5.3) and a model of pages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage2.address import SIZE_4K, Gpa, Range
from stage2.errors import NotMappedError, OverlapError
from stage2.flags import MappingFlags, MapType
from stage2.space.region import MemoryRegion
from stage2.space.region_map import RegionMap, clip

PAGES = 32
READ, RW = MappingFlags.READ, MappingFlags.READ | MappingFlags.WRITE
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["add", "remove", "protect"]),
        st.integers(0, PAGES - 1),
        st.integers(1, PAGES),
        st.sampled_from([READ, RW]),
        st.sampled_from(["", "a"]),
    ),
    max_size=20,
)


def region(start: int, size: int, flags: MappingFlags = RW, name: str = "") -> MemoryRegion:
    return MemoryRegion(Gpa(start), size, flags, MapType.MAP_ALLOC, name=name)


def layout(regions: RegionMap) -> list[tuple[int, int]]:
    return [(held.start, held.size) for held in regions]


def test_upstreams_map_and_unmap_sequence() -> None:
    regions = RegionMap()
    for start in range(0, 0x10000, 0x1000):
        regions.add(region(start, 0x1000, name=f"{start:#x}"))
    assert len(regions) == 16
    with pytest.raises(OverlapError):
        regions.add(region(0x4000, 0x4000))
    assert len(regions) == 16
    regions.remove(Range(0x4000, 0x8000))
    regions.add(region(0x4000, 0x4000, name="one"))
    assert len(regions) == 13
    regions.remove(Range(0x4000, 0xC000))
    assert len(regions) == 8
    regions.remove(Range(0, 0x20000))
    assert len(regions) == 0


def test_upstreams_split_sequence_in_pages() -> None:
    regions = RegionMap()
    for start in range(0, 0x80000, 0x10000):
        regions.add(region(start, 0x10000))
    assert layout(regions) == [(0, 0x80000)], "equal neighbours are one region"
    regions.remove(Range(0x0C000, 0x24000))
    assert layout(regions) == [(0, 0xC000), (0x24000, 0x5C000)]
    regions.remove(Range(0x30000, 0x31000))
    assert layout(regions) == [(0, 0xC000), (0x24000, 0xC000), (0x31000, 0x4F000)]


def test_clipping_outside_is_an_error() -> None:
    with pytest.raises(NotMappedError):
        clip(region(0, 0x1000), Range(0x1000, 0x2000))


@given(edits=EDITS)
def test_the_region_map_is_a_model_of_pages(edits: list[tuple[str, int, int, MappingFlags, str]]) -> None:
    regions = RegionMap()
    model: dict[int, tuple[MappingFlags, str]] = {}
    for kind, first, count, flags, name in edits:
        pages = range(first, min(first + count, PAGES))
        span = Range(pages[0] * SIZE_4K, (pages[-1] + 1) * SIZE_4K)
        if kind == "add":
            if any(page in model for page in pages):
                before = layout(regions)
                with pytest.raises(OverlapError):
                    regions.add(region(span.start, span.size, flags, name))
                assert layout(regions) == before
            else:
                regions.add(region(span.start, span.size, flags, name))
                model |= dict.fromkeys(pages, (flags, name))
        elif kind == "remove":
            removed = regions.remove(span)
            assert sum(part.size for part in removed) == sum(page in model for page in pages) * SIZE_4K
            for page in pages:
                model.pop(page, None)
        else:
            regions.update(span, lambda held, flags=flags: region(held.start, held.size, flags, held.name))  # type: ignore[misc]
            model |= {page: (flags, model[page][1]) for page in pages if page in model}
        found = {}
        for held in regions:
            for gpa in range(held.start, held.end, SIZE_4K):
                assert gpa // SIZE_4K not in found
                found[gpa // SIZE_4K] = (held.flags, held.name)
                assert regions.find(gpa + 5) is held
        assert found == model
        gaps = {
            gpa // SIZE_4K
            for gap in regions.gaps(Range(0, PAGES * SIZE_4K))
            for gpa in range(gap.start, gap.end, SIZE_4K)
        }
        assert gaps == set(range(PAGES)) - set(model)


@given(edits=EDITS, hint=st.integers(0, PAGES), count=st.integers(1, 6), align=st.sampled_from([1, 2, 4]))
def test_a_free_area_is_the_lowest_one_that_fits(
    edits: list[tuple[str, int, int, MappingFlags, str]], hint: int, count: int, align: int
) -> None:
    regions = RegionMap()
    for _, first, length, _, _ in edits:
        regions.remove(Range(first * SIZE_4K, (first + length) * SIZE_4K))
        regions.add(region(first * SIZE_4K, max(1, length // 4) * SIZE_4K))
    limit = Range(0, PAGES * SIZE_4K)
    fitting = [
        page
        for page in range(hint, PAGES - count + 1)
        if page % align == 0 and not any(regions.find((page + i) * SIZE_4K) for i in range(count))
    ]
    found = regions.find_free(hint * SIZE_4K, count * SIZE_4K, limit, align * SIZE_4K)
    assert found == (fitting[0] * SIZE_4K if fitting else None)
