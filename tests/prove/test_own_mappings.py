"""The theorem `wx`: what is writable and executable for the hypervisor, by both implementations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stage2 import FrameAllocator, MappingFlags, PageTable, PhysicalMemory
from stage2.address import Hpa, Range
from stage2.memory.owners import Owner, OwnerKind
from stage2.prove.certificate import certificate
from stage2.prove.prover import prove_world
from stage2.prove.source import HostTables
from stage2.prove.subject import Space, Subject
from stage2.prove.verify import verify
from stage2.prove.world import World

READ, WRITE, EXECUTE, USER = MappingFlags.READ, MappingFlags.WRITE, MappingFlags.EXECUTE, MappingFlags.USER
RAM, PAGE = 0x8000_0000, 0x1000
HIGH = 0x30_0000_0000
"""Where the test maps a second time."""


@pytest.fixture(params=["sv39", "x86-4level", "arm-s1-4k-48"])
def table(request: pytest.FixtureRequest) -> Iterator[PageTable]:
    memory = PhysicalMemory([Range(RAM, RAM + 0x1000_0000)])
    with memory:
        yield PageTable(request.param, FrameAllocator(memory), owner=Owner(OwnerKind.TABLES))


def judged(table: PageTable, folder: Path) -> tuple[bool | None, str]:
    """What the prover says of `wx`, and its witness; the verifier says the same."""
    frames = tuple(table.table_ranges)
    subject = Subject(HostTables(table.memory), (), (Space("", table.regime, (), frames),))
    world = World.of(subject, by_row=True)
    proof = prove_world(world)
    text, details = certificate(proof, world, "proof.ranges")
    (folder / "proof.json").write_text(text)
    (folder / "proof.ranges").write_bytes(details)
    second = {one.name: one for one in verify(folder / "proof.json", subject).theorems}
    assert second["wx"].holds == proof["wx"].holds
    assert second["wellformed"].holds
    witness = proof["wx"].witness
    if witness is None:
        return proof["wx"].holds, ""
    assert second["wx"].problem == f"HPA {witness.hpa:#x} is writable and executable for the hypervisor"
    return proof["wx"].holds, witness.problem


def test_code_and_data_apart_are_proved(table: PageTable, tmp_path: Path) -> None:
    table.map_range(RAM, Hpa(RAM), 4 * PAGE, READ | EXECUTE)
    table.map_range(RAM + 4 * PAGE, Hpa(RAM + 4 * PAGE), 4 * PAGE, READ | WRITE)
    table.map_range(HIGH, Hpa(RAM), 4 * PAGE, READ)
    assert judged(table, tmp_path) == (True, "")


def test_code_that_is_writable_where_it_is_mapped_again_is_refuted(table: PageTable, tmp_path: Path) -> None:
    table.map_range(RAM, Hpa(RAM), 4 * PAGE, READ | EXECUTE)
    table.map_range(HIGH, Hpa(RAM + 3 * PAGE), 4 * PAGE, READ | WRITE)
    here, there = RAM + 3 * PAGE, RAM + 4 * PAGE
    told = f"{Range(here, there)} is writable at HVA {HIGH:#x} and executable at HVA {here:#x}"
    assert judged(table, tmp_path) == (False, told)


def test_one_mapping_with_both_rights_is_refuted(table: PageTable, tmp_path: Path) -> None:
    table.map_page(HIGH, Hpa(RAM), READ | WRITE | EXECUTE)
    told = f"{Range(RAM, RAM + PAGE)} is writable at HVA {HIGH:#x} and executable at HVA {HIGH:#x}"
    assert judged(table, tmp_path) == (False, told)


def test_a_page_that_users_may_run_is_executable(table: PageTable, tmp_path: Path) -> None:
    table.map_page(HIGH, Hpa(RAM), READ | EXECUTE | USER)
    table.map_page(RAM, Hpa(RAM), READ | WRITE)
    holds, told = judged(table, tmp_path)
    assert (holds, "is writable at HVA 0x80000000 and executable at" in told) == (False, True)
