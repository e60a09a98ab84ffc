"""What a type checker finds at the front door, before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from mypy import api

WRONG = """
from stage2 import AddressSpace, FrameAllocator, GuestTables, Owner, OwnerKind, PageTable, PhysicalMemory
memory = PhysicalMemory([])
frames = FrameAllocator(memory)
AddressSpace.create("sv39x4", frames, nmae="guest")
AddressSpace.create("sv39x4", frames, limit="1 GiB")
AddressSpace("sv39x4", memory)
space = AddressSpace("sv39x4", frames, name="guest")
PageTable(39, frames, owner=Owner(OwnerKind.TABLES, "x"))
GuestTables(space, "sv39")
space.translate("0x8000_0000")
"""
"""Of the last seven lines all but `space = ...` are wrong."""
WRONG_LINES = [5, 6, 7, 9, 10, 11]


@pytest.mark.slow
def test_wrong_calls_of_what_the_package_exports_are_found_by_a_type_checker(tmp_path: Path) -> None:
    source = tmp_path / "wrong.py"
    source.write_text(WRONG)
    out, errors, _ = api.run(["--strict", "--cache-dir", str(tmp_path / "cache"), str(source)])
    assert not errors
    found = [int(line.split(":")[1]) for line in out.splitlines() if "wrong.py:" in line and ": error:" in line]
    assert sorted(set(found)) == WRONG_LINES, out
