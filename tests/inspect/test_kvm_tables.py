"""Tables that Linux's KVM wrote, kept beside the repository: from the registers every pair comes out that KVM told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from kvm_machines import nested

from stage2.inspect.inspection import Inspection, open_memory
from stage2.inspect.root import root_text
from stage2.tables.result import Mapped

FOLDER = Path(__file__).parents[2].parent / "shared" / "data" / "kvm-tables"
NAMES = ("amd64", "arm64", "arm64-max", "arm64-nvhe", "arm64-pkvm", "riscv64", "riscv64-sv39")
READ, WRITE = 1, 2
READ_ONLY = 0xA000_0000
"""GPA of the slot that the guest may not write."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Tables with what is known of them.

    Args:
        memory: the frames of the tables, with the machine's registers.
        pairs: GPA and HPA of pages.
    """

    memory: Inspection
    pairs: tuple[tuple[int, int], ...]


@pytest.fixture(scope="module", params=NAMES)
def kept(request: pytest.FixtureRequest) -> Iterator[Kept]:
    file = FOLDER / f"{request.param}.json"
    if not file.is_file():
        pytest.skip("the tables that KVM wrote are not beside the repository")
    known = json.loads(file.read_text())
    pairs = tuple((int(gpa, 16), int(hpa, 16)) for gpa, hpa in known["maps"])
    registers = {name: int(value, 16) for name, value in known["registers"].items()}
    # Of x86 nothing but the root is known.
    roots = root_text(nested(registers["root"])) if request.param == "amd64" else ()
    with open_memory(str(file.with_suffix(".elf.gz")), roots, registers=registers) as memory:
        yield Kept(memory, pairs)


def test_every_pair_is_walked_and_only_the_slot_that_is_read_only_refuses_writes(kept: Kept) -> None:
    assert len(kept.pairs) == 81
    for gpa, hpa in kept.pairs:
        result = kept.memory.walk(gpa=gpa).result
        assert isinstance(result, Mapped)
        assert result.hpa == hpa
        assert result.permissions & (READ | WRITE) == (READ if gpa == READ_ONLY else READ | WRITE)


def test_every_pair_is_in_the_map_and_comes_back_from_its_hpa(kept: Kept) -> None:
    ranges = list(kept.memory.map("gpa"))
    second = [root for root in kept.memory.roots if root.stage == 2]
    assert len(second) == 1
    for gpa, hpa in kept.pairs:
        (held,) = [one for one in ranges if one.start <= gpa < one.start + one.size]
        assert held.hpa is not None
        assert held.hpa + gpa - held.start == hpa
    for gpa, hpa in kept.pairs:
        assert [one.range.gpa for one in kept.memory.reach(hpa=hpa) if one.root.stage == 2] == [gpa]
