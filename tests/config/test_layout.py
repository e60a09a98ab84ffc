"""The guest's physical memory, from everything a file declares."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage2.config.document import parse_document
from stage2.config.regions import RegionPlan, plan_regions
from stage2.config.vm import read_vm
from stage2.errors import ConfigError
from stage2.flags import MapType

TEXT = """\
[base]
id = 1
name = "vm"
[kernel]
entry_point = {entry}
kernel_load_addr = {load}
memory_regions = [
{memory}
]
[devices]
passthrough_devices = [
{passthrough}
]
emu_devices = [
{emulated}
]
{more}
"""
RAM = "[0x8000_0000, 0x100_0000, 7, 0],"


def layout_of(
    memory: str = RAM,
    passthrough: str = "",
    emulated: str = "",
    more: str = "",
    entry: int = 0x8000_0000,
    load: int = 0x8000_0000,
    folder: Path | None = None,
) -> RegionPlan:
    text = TEXT.format(memory=memory, passthrough=passthrough, emulated=emulated, more=more, entry=entry, load=load)
    return plan_regions(read_vm(parse_document(text, "vm.toml", folder)))


def error_of(**parts: object) -> str:
    with pytest.raises(ConfigError) as caught:
        layout_of(**parts)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rows(layout: RegionPlan) -> list[tuple[str, str, int, int | None]]:
    return [(r.name, str(r.range), int(r.flags), r.hpa) for r in layout.regions]


def test_regions_are_sorted_and_know_where_they_were_declared() -> None:
    layout = layout_of(RAM + "\n[0x1000_0000, 0x1000, 3, 1],", '["uart", 0x900_0000, 0xa00_0000, 0x1000, 1],')
    assert [(r.name, r.start, r.map_type, str(r.place)) for r in layout.regions] == [
        ("uart", 0x900_0000, MapType.MMIO, "vm.toml:13"),
        ("ram1", 0x1000_0000, MapType.MAP_IDENTICAL, "vm.toml:9"),
        ("ram0", 0x8000_0000, MapType.MAP_ALLOC, "vm.toml:8"),
    ]
    assert layout.regions[0].hpa == 0xA00_0000


def test_a_device_across_a_page_border_gets_both_pages() -> None:
    layout = layout_of(passthrough='["odd", 0x1803, 0x9803, 0x1000, 1],')
    assert rows(layout)[0] == ("odd", "[0x1000, 0x3000)", 0x13, 0x9000)


def test_a_device_whose_page_offsets_differ_is_refused() -> None:
    message = error_of(passthrough='["odd", 0x1803, 0x9800, 0x1000, 1],')
    assert message.startswith("vm.toml:12: devices.passthrough_devices[0]: GPA 0x1803 and HPA 0x9800 have different")


def test_devices_that_agree_on_the_hpa_become_one_region() -> None:
    layout = layout_of(
        passthrough='["a", 0x1000, 0x9000, 0x2000, 1],\n'
        '["b", 0x2000, 0xa000, 0x2000, 1],\n["c", 0x4000, 0xc000, 16, 1],'
    )
    assert rows(layout)[:2] == [
        ("a + b", "[0x1000, 0x4000)", 0x13, 0x9000),
        ("c", "[0x4000, 0x5000)", 0x13, 0xC000),
    ]


def test_two_hpas_for_one_gpa_are_refused_with_both_parties() -> None:
    message = error_of(passthrough='["a", 0x1000, 0x9000, 0x2000, 1],\n["b", 0x2000, 0x2000, 0x2000, 1],')
    assert message == (
        "vm.toml:13: devices.passthrough_devices[1]: passed-through device 'b' [0x2000, 0x4000) overlaps "
        "passed-through device 'a' [0x1000, 0x3000) of vm.toml:12 in [0x2000, 0x3000): "
        "GPA 0x2000 would be HPA 0xa000 and HPA 0x2000: keep one"
    )


def test_overlapping_ram_is_refused_with_both_parties() -> None:
    assert error_of(memory=RAM + "\n[0x80ff_f000, 0x2000, 7, 1],") == (
        "vm.toml:9: kernel.memory_regions[1]: RAM 'ram1' [0x80fff000, 0x81001000) overlaps RAM 'ram0' "
        "[0x80000000, 0x81000000) of vm.toml:8 in [0x80fff000, 0x81000000): every GPA belongs to one of them "
        "only: move or shrink one"
    )


def test_ram_under_a_device_is_refused_even_by_its_page_only() -> None:
    message = error_of(passthrough='["late", 0x80ff_fff0, 0xfff0, 0x1, 1],')
    assert "passed-through device 'late' [0x80fff000, 0x81000000) (the pages of [0x80fffff0, 0x80fffff1))" in message
    assert "overlaps RAM 'ram0'" in message


def test_a_wide_device_cannot_hide_ram_that_starts_before_it() -> None:
    message = error_of(
        memory=RAM + "\n[0x9000_0000, 0x1000, 7, 0],",
        passthrough='["wide", 0x8100_0000, 0, 0x4000_0000, 1],',
    )
    assert "'wide'" in message
    assert "'ram1'" in message


@pytest.mark.parametrize(
    ("more", "parties"),
    [
        ('[[rom]]\nname = "r"\ngpa = 0x8000_0000\nsize = 0x1000\nimage = "x"', "ROM 'r'"),
        ('[[share]]\nname = "s"\ngpa = 0x8000_0000\nsize = 0x1000\naccess = "r"\npeers = [2]', "share 's'"),
        ('[[region]]\nname = "t"\ngpa = 0x8000_0000\nsize = 0x1000\ntype = "emulated"', "emulated device 't'"),
    ],
)
def test_our_tables_obey_the_same_rules(more: str, parties: str) -> None:
    message = error_of(more=more)
    assert parties in message
    assert "RAM 'ram0'" in message


def test_overlapping_emulated_devices_are_refused_by_the_byte() -> None:
    shape = '["{}", {}, 0x200, 0, 2, []],'
    message = error_of(emulated=shape.format("a", 0x0A00_0000) + "\n" + shape.format("b", 0x0A00_01FF))
    assert "emulated device 'b' [0xa0001ff, 0xa0003ff) overlaps emulated device 'a' [0xa000000, 0xa000200)" in message
    layout = layout_of(emulated=shape.format("a", 0x0A00_0000) + "\n" + shape.format("b", 0x0A00_0200))
    assert rows(layout)[0] == ("a + b", "[0xa000000, 0xa001000)", 0, None)


def test_an_emulated_device_makes_a_hole_in_a_passed_through_range() -> None:
    layout = layout_of(
        passthrough='["all", 0x0, 0x4000_0000, 0x1_0000, 1],',
        emulated='["one", 0x20_00, 0x800, 0, 0x21, []],\n["two", 0x8000, 0x1000, 0, 0x21, []],',
        more='[stage2]\ngeneration = "head"\n[[region]]\nname="x"\ngpa=0x10_0000\nsize=0x1000\n',
        memory=RAM,
    )
    # Devices this low are I/O ports unless the file names an architecture that has none.
    assert [r.map_type for r in layout.regions].count(MapType.EMULATED) == 0
    layout = layout_of(
        passthrough='["all", 0x1000_0000, 0x4000_0000, 0x1_0000, 1],',
        emulated='["one", 0x1000_2000, 0x800, 0, 0x21, []],\n["two", 0x1000_8000, 0x1000, 0, 0x21, []],',
    )
    assert rows(layout)[:5] == [
        ("all", "[0x10000000, 0x10002000)", 0x13, 0x4000_0000),
        ("one", "[0x10002000, 0x10003000)", 0, None),
        ("all", "[0x10003000, 0x10008000)", 0x13, 0x4000_3000),
        ("two", "[0x10008000, 0x10009000)", 0, None),
        ("all", "[0x10009000, 0x10010000)", 0x13, 0x4000_9000),
    ]
    assert [str(notice).split(":")[1] for notice in layout.notices] == ["15", "16"]
    assert "is taken out of passed-through device 'all'" in layout.notices[0].text


def test_a_device_at_the_hpa_of_identity_mapped_ram_is_told() -> None:
    layout = layout_of(memory="[0x8000_0000, 0x1000, 7, 1],", passthrough='["a", 0x1000, 0x8000_0000, 0x1000, 1],')
    assert "a second way to it" in layout.notices[0].text


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        (
            {"entry": 0x7FFF_F000},
            "vm.toml:5: kernel.entry_point: entry point 0x7ffff000 is outside the guest's memory; "
            "its RAM is [0x80000000, 0x81000000)",
        ),
        ({"entry": 0x8100_0000}, "entry point 0x81000000 is outside"),
        ({"entry": 0x1000, "passthrough": '["a", 0x1000, 0x1000, 0x1000, 1],'}, "is in passed-through device 'a'"),
        ({"memory": "[0x8000_0000, 0x1000, 3, 0],"}, "which is not executable (rw----): add flag bit 2"),
        (
            {"load": 0x7000_0000},
            "vm.toml:6: kernel.kernel_load_addr: the kernel is to be loaded at 0x70000000, outside",
        ),
        (
            {"load": 0x1000, "passthrough": '["a", 0x1000, 0x1000, 0x1000, 1],'},
            "the kernel is to be loaded at 0x1000, in passed",
        ),
        (
            {"load": 0x1000, "more": '[[rom]]\nname = "r"\ngpa = 0x1000\nsize = 0x1000\nimage = "x"'},
            "a ROM holds the image",
        ),
        ({"memory": "[0x8000_0000, 0x1000, 0x33, 1],"}, "it has no RAM at all"),
    ],
)
def test_a_guest_that_cannot_start_is_refused(parts: dict[str, object], problem: str) -> None:
    assert problem in error_of(**parts)


def test_a_guest_may_start_in_a_rom() -> None:
    rom = '[[rom]]\nname = "r"\ngpa = 0x1000\nsize = 0x1000\nimage = "x"\non_write = "discard"'
    region = layout_of(entry=0x1000, more=rom).regions[0]
    assert (region.map_type, region.flags.short, region.violation.value if region.violation else "") == (
        MapType.ROM,
        "r-x---",
        "discard",
    )


def test_a_rom_without_a_size_is_as_large_as_its_image(tmp_path: Path) -> None:
    rom = '[[rom]]\nname = "r"\ngpa = 0x1000\nimage = "rom.bin"'
    assert "has no size, and its image 'rom.bin' is not there" in error_of(more=rom, folder=tmp_path)
    (tmp_path / "rom.bin").write_bytes(b"")
    assert "the image is empty" in error_of(more=rom, folder=tmp_path)
    (tmp_path / "rom.bin").write_bytes(bytes(4097))
    assert layout_of(more=rom, folder=tmp_path).regions[0].size == 0x2000


PAGE = st.integers(0, 40)
SPANS = st.lists(st.tuples(PAGE, st.integers(1, 8), st.integers(0, 2)), max_size=8)


@given(SPANS, SPANS, SPANS)
def test_no_layout_has_an_overlap_and_none_loses_a_page(
    ram: list[tuple[int, int, int]],
    devices: list[tuple[int, int, int]],
    emulated: list[tuple[int, int, int]],
) -> None:
    base = 0x1000_0000
    parts = {
        "memory": RAM + "".join(f"\n[{base + p * 4096}, {n * 4096}, 7, 0]," for p, n, _ in ram),
        "passthrough": "".join(
            f'["d", {base + p * 4096}, {(p + d * 64) * 4096}, {n * 4096}, 1],' for p, n, d in devices
        ),
        "emulated": "".join(f'["e", {base + p * 4096}, {n * 4096 - 16}, 0, 2, []],' for p, n, _ in emulated),
    }

    def pages(spans: list[tuple[int, int, int]]) -> list[tuple[int, int]]:
        return [(p + i, d) for p, n, d in spans for i in range(n)]

    held, traps = [p for p, _ in pages(ram)], [p for p, _ in pages(emulated)]
    hpas: dict[int, set[int]] = {}
    for page, delta in pages(devices):
        hpas.setdefault(page, set()).add(delta)
    wrong = (
        len(set(held)) < len(held)
        or len(set(traps)) < len(traps)
        or any(len(deltas) > 1 for deltas in hpas.values())
        or set(held) & (set(traps) | hpas.keys())
    )
    try:
        layout = layout_of(**parts)  # type: ignore[arg-type]
    except ConfigError:
        assert wrong
        return
    assert not wrong
    seen: dict[int, tuple[MapType, int | None]] = {}
    end = 0
    for region in layout.regions:
        assert region.start >= end
        end = region.end
        for offset in range(0, region.size, 4096) if region.start < 0x8000_0000 else ():
            hpa = None if region.hpa is None else (region.hpa + offset) // 4096
            seen[(region.start + offset - base) // 4096] = (region.map_type, hpa)
    expected: dict[int, tuple[MapType, int | None]] = {
        page: (MapType.MMIO, page + next(iter(deltas)) * 64) for page, deltas in hpas.items()
    }
    expected |= dict.fromkeys(traps, (MapType.EMULATED, None))
    expected |= dict.fromkeys(held, (MapType.MAP_ALLOC, None))
    assert seen == expected
