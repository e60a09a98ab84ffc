"""Flags, memory types, accesses and map types."""

import ast
from pathlib import Path

import pytest

import stage2
from stage2.errors import EncodingError
from stage2.flags import RWX, Access, MappingFlags, MapType, MemoryType


def test_the_bits_are_those_of_upstream() -> None:
    names = ["READ", "WRITE", "EXECUTE", "USER", "DEVICE", "UNCACHED"]
    assert [MappingFlags[name].value for name in names] == [1, 2, 4, 8, 16, 32]
    assert list(MappingFlags) == [MappingFlags[name] for name in names]


@pytest.mark.parametrize("bits", range(64))
def test_every_known_combination_loads_from_a_number(bits: int) -> None:
    flags = MappingFlags.from_bits(bits)
    assert flags.value == bits
    assert flags.permissions == MappingFlags(bits & 7)
    assert flags.permissions | (flags & ~RWX) == flags


@pytest.mark.parametrize("bits", [64, 0x47, -1, 1 << 62])
def test_an_unknown_bit_is_refused(bits: int) -> None:
    with pytest.raises(EncodingError, match="flags"):
        MappingFlags.from_bits(bits)


@pytest.mark.parametrize(
    ("flags", "short"),
    [
        (MappingFlags(0), "------"),
        (RWX, "rwx---"),
        (MappingFlags.READ | MappingFlags.WRITE | MappingFlags.DEVICE, "rw--d-"),
        (MappingFlags(63), "rwxudn"),
    ],
)
def test_short_form(flags: MappingFlags, short: str) -> None:
    assert flags.short == short


def test_device_wins_over_uncached() -> None:
    device, uncached = MappingFlags.DEVICE, MappingFlags.UNCACHED
    assert (RWX | device | uncached).memory_type is MemoryType.DEVICE
    assert (RWX | uncached).memory_type is MemoryType.UNCACHED
    assert RWX.memory_type is MemoryType.WRITE_BACK


def test_each_access_needs_its_own_permission() -> None:
    assert Access.READ.flag is MappingFlags.READ
    assert Access.WRITE.flag is MappingFlags.WRITE
    assert Access.FETCH.flag is MappingFlags.EXECUTE


def test_upstreams_numbers_name_the_first_three_map_types_only() -> None:
    numbered = {kind.number: kind for kind in MapType if kind.number is not None}
    assert numbered == {0: MapType.MAP_ALLOC, 1: MapType.MAP_IDENTICAL, 2: MapType.MAP_RESERVED}
    assert all(MapType.from_number(number) is kind for number, kind in numbered.items())
    assert all(kind.meaning for kind in MapType)


@pytest.mark.parametrize("number", [3, -1, 999])
def test_a_map_type_that_does_not_exist_is_refused_with_those_that_do(number: int) -> None:
    with pytest.raises(EncodingError, match=rf"map_type {number} does not exist: 0 is MAP_ALLOC"):
        MapType.from_number(number)


TRUTH = {
    # The seed's page on memory management, "Memory Region Types": MAP_ALLOC is "memory allocated from hypervisor and
    # mapped to guest, regular guest memory", MAP_IDENTICAL is "identity-mapped memory from host to guest", MMIO is
    # "memory-mapped I/O regions, device access", ROM is "read-only memory: BIOS, firmware".
    MapType.MAP_ALLOC: "mapped ram bytes images execute lazy takes-frames owns-frames",
    MapType.MAP_IDENTICAL: "mapped ram bytes images execute identity fixed owns-frames",
    # Upstream's map_type 2: map_linear(gpa -> gpa), nothing is allocated and nothing freed.
    MapType.MAP_RESERVED: "mapped ram bytes images execute identity fixed",
    MapType.MMIO: "mapped names-hpa fixed",
    MapType.ROM: "mapped bytes images execute takes-frames owns-frames",
    # Ours: what the seed calls an emulated device is unmapped, and a share's frames belong to no VM.
    MapType.EMULATED: "",
    MapType.SHARE: "mapped bytes names-hpa",
}
FACTS = {
    "mapped": "is_mapped",
    "ram": "is_ram",
    "bytes": "holds_bytes",
    "images": "takes_images",
    "execute": "may_execute",
    "lazy": "may_be_lazy",
    "identity": "is_identity",
    "names-hpa": "names_hpa",
    "fixed": "fixed_hpa",
    "takes-frames": "takes_frames",
    "owns-frames": "owns_frames",
}


@pytest.mark.parametrize("kind", MapType)
def test_a_map_type_knows_what_it_is(kind: MapType) -> None:
    assert [word for word, fact in FACTS.items() if getattr(kind, fact)] == TRUTH[kind].split()


def test_every_fact_of_a_map_type_is_in_the_truth_table() -> None:
    facts = {name for name, value in vars(MapType).items() if isinstance(value, property)}
    assert facts - {"number", "noun", "meaning"} == set(FACTS.values())


def test_the_facts_of_a_map_type_do_not_contradict_each_other() -> None:
    implications = {
        "is_ram": ("holds_bytes",),
        "takes_images": ("holds_bytes",),
        "may_execute": ("holds_bytes",),
        "holds_bytes": ("is_mapped",),
        "fixed_hpa": ("is_mapped",),
        "takes_frames": ("is_mapped", "owns_frames"),
        "may_be_lazy": ("takes_frames",),
        "is_identity": ("fixed_hpa",),
    }
    for kind in MapType:
        for fact, follows in implications.items():
            assert not getattr(kind, fact) or all(getattr(kind, other) for other in follows), (kind, fact)
        # Who decides the HPA: the allocator, the GPA or the declaration, and never two of them.
        assert kind.takes_frames + kind.is_identity + kind.names_hpa == kind.is_mapped


def test_no_other_file_keeps_a_set_of_map_types() -> None:
    sources = Path(stage2.__file__).parent
    for path in sources.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            parts = node.elts if isinstance(node, ast.Tuple | ast.Set | ast.List) else []
            types = [part for part in parts if isinstance(part, ast.Attribute) and ast.unparse(part.value) == "MapType"]
            assert len(types) < 2, f"{path.relative_to(sources)}:{types[0].lineno}: ask the map type instead"
