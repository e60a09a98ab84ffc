"""A trace of edits, read back: the same verdict as the live checker's, and one clear error for what is no trace."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import effort
from format_lists import KINDS
from stage2.address import Hpa, Range
from stage2.errors import ConfigError, EncodingError, StaleTranslationError
from stage2.formats import by_name, family_of, names
from stage2.formats.arm import invalidation as arm
from stage2.formats.invalidation import FEW, Context, Operation
from stage2.formats.outcome import ACCESSED
from stage2.formats.riscv import invalidation as riscv
from stage2.formats.x86 import invalidation as x86
from stage2.memory.frames import FrameAllocator
from stage2.memory.physical import PhysicalMemory
from stage2.tables.pagetable import PageTable
from stage2.tlb.instructions import Operands, operation_named
from stage2.tlb.trace import EditTrace
from stage2.tlb.trace_check import check_trace
from table_edits import RW, RX, SCENES, TABLES, R, base_of, checked, prepare, random_edits

PAGE = Range(0x1000, 0x2000)
every_format = pytest.mark.parametrize("name", names())
every_kind = pytest.mark.parametrize("name", KINDS)


def traced(path: Path, name: str, edits: Callable[[PageTable], object]) -> Path:
    """The trace of edits of a table that is empty at first."""
    with checked(name) as (table, _), EditTrace(path) as trace:
        trace.watch(table, "linux")
        edits(table)
    return path


def scene_of(path: Path, name: str, scene: str) -> tuple[list[str], int]:
    """The lines of a scene's trace, and where the scene begins."""
    begins = 0

    def play(table: PageTable) -> None:
        nonlocal begins
        prepare(table)
        begins = len(path.read_text().splitlines())
        SCENES[scene](table)

    return traced(path, name, play).read_text().splitlines(), begins


def without(path: Path, lines: list[str], number: int) -> Path:
    """A trace from which a line was taken; its last line counts what is left."""
    left = lines[:number] + lines[number + 1 : -1]
    path.write_text("\n".join([*left, json.dumps({"event": "close", "lines": len(left) + 1})]) + "\n")
    return path


def event(line: str) -> str:
    found = json.loads(line)["event"]
    assert isinstance(found, str)
    return found


# --- the same verdict -------------------------------------------------------------------------------------------------
@every_kind
def test_what_the_checker_passed_alive_it_passes_when_read_back(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(effort.seeded(names().index(name)))
    path = traced(tmp_path / "t", name, lambda table: random_edits(table, rng, 12 * effort.FACTOR))
    verdict = check_trace(path)
    assert verdict.refuted is None
    assert verdict.tables == {"linux": name}
    assert verdict.lines == len(path.read_text().splitlines())


@every_kind
@pytest.mark.parametrize("scene", SCENES)
def test_a_trace_without_one_of_its_invalidations_is_refuted_as_the_live_edit_is(
    name: str, scene: str, tmp_path: Path
) -> None:
    lines, begins = scene_of(tmp_path / "whole", name, scene)
    owed = [at for at in range(begins, len(lines)) if event(lines[at]) == "invalidate"]
    assert owed, "these edits all owe something"
    assert check_trace(tmp_path / "whole").refuted is None
    for which, at in enumerate(owed):
        refuted = check_trace(without(tmp_path / "cut", lines, at)).refuted
        assert refuted is not None
        ends = next(number for number in range(at, len(lines)) if event(lines[number]) == "end")
        # The line taken away was before it, and lines are counted from 1.
        assert (refuted.vm, refuted.line) == ("linux", ends)
        assert refuted.problem == live_problem(name, scene, which)


def live_problem(name: str, scene: str, left_out: int) -> str:
    """What the checker says alive of a scene without one of its invalidations."""
    count = -1

    def perform(_: Operation) -> bool:
        nonlocal count
        count += 1
        return count != left_out

    with checked(name) as (table, checker):
        prepare(table)
        checker.perform = perform
        with pytest.raises(StaleTranslationError) as found:
            SCENES[scene](table)
        checker.stop()
    return str(found.value)


@pytest.mark.parametrize("name", [name for name in names() if by_name(name).break_before_make])
def test_a_trace_without_one_of_its_barriers_is_refuted(name: str, tmp_path: Path) -> None:
    lines, begins = scene_of(tmp_path / "whole", name, "unmap part of a block")
    barriers = [at for at in range(begins, len(lines)) if event(lines[at]) == "barrier"]
    assert len(barriers) > 1
    for at in barriers:
        after = event(lines[at + 1])
        refuted = check_trace(without(tmp_path / "cut", lines, at)).refuted
        assert refuted is not None, lines[at]
        assert refuted.line == at + 1
        assert "DSB ISH" in refuted.problem
        assert (" without " in refuted.problem) == (after == "invalidate")


def test_a_break_that_is_missing_is_refuted(tmp_path: Path) -> None:
    lines, begins = scene_of(tmp_path / "whole", "arm-s2-4k-40", "unmap part of a block")
    broken = next(at for at in range(begins, len(lines)) if '"level": 1' in lines[at] and '"new": "0x0"' in lines[at])
    store = json.loads(lines[broken])
    made = next(at for at in range(broken + 1, len(lines)) if '"level": 1' in lines[at])
    lines[made] = lines[made].replace('"old": "0x0"', f'"old": "{store["old"]}"')
    refuted = check_trace(without(tmp_path / "cut", lines, broken)).refuted
    assert refuted is not None
    assert "contradict" in refuted.problem or "break-before-make" in refuted.problem


def test_tables_that_are_there_already_are_written_down_first(tmp_path: Path) -> None:
    with checked("sv39x4") as (table, _):
        prepare(table)
        with EditTrace(tmp_path / "t") as trace:
            trace.watch(table, "late")
            table.unmap_range(0, table.format.page_size)
    lines = (tmp_path / "t").read_text().splitlines()
    assert '"by": "found"' in lines[3]
    assert check_trace(tmp_path / "t").refuted is None
    owed = next(at for at, line in enumerate(lines) if event(line) == "invalidate")
    assert check_trace(without(tmp_path / "cut", lines, owed)).refuted is not None


def test_two_tables_are_kept_apart(tmp_path: Path) -> None:
    with (
        checked("ept4") as (one, _),
        checked("arm-s2-4k-40") as (other, _),
        EditTrace(tmp_path / "t") as trace,
    ):
        trace.watch(one, "one")
        trace.watch(other, 'the "other"')
        for table in (one, other):
            prepare(table)
        other.unmap_range(0, 0x1000)
        one.unmap_range(0, 0x1000)
    verdict = check_trace(tmp_path / "t")
    assert verdict.refuted is None
    assert verdict.tables == {"one": "ept4", 'the "other"': "arm-s2-4k-40"}


# --- what walkers store -----------------------------------------------------------------------------------------------
def test_bits_that_a_walker_set_are_written_down_as_its_own(tmp_path: Path) -> None:
    with checked("ept4", hardware_ad=True) as (table, _), EditTrace(tmp_path / "t") as trace:
        trace.watch(table, "linux")
        table.map_range(0, Hpa(0), 0x2000, RW)
        table.harvest(0, 0x2000, ACCESSED)
        step = table.explain(0).steps[-1]
        table.memory.store_u64(step.slot_hpa, step.entry | 1 << 8)
        table.unmap_range(0, 0x1000)
    assert check_trace(tmp_path / "t").refuted is None
    (walked,) = [line for line in (tmp_path / "t").read_text().splitlines() if '"by": "walker"' in line]
    assert json.loads(walked)["new"] == f"{step.entry | 1 << 8:#x}"


def test_a_store_that_no_edit_and_no_walker_made_is_refuted(tmp_path: Path) -> None:
    with checked("ept4") as (table, checker), EditTrace(tmp_path / "t") as trace:
        checker.stop()
        trace.watch(table, "linux")
        table.map_range(0, Hpa(0), 0x2000, R)
        step = table.explain(0).steps[-1]
        table.memory.store_u64(step.slot_hpa, step.entry | 2)
        table.unmap_range(0, 0x1000)
    refuted = check_trace(tmp_path / "t").refuted
    assert refuted is not None
    assert refuted.problem == (
        f"{step.entry:#x} became {step.entry | 2:#x} without an edit, and not by accessed or dirty bits alone"
    )


def test_an_identifier_that_changes_is_written_down(tmp_path: Path) -> None:
    def edits(table: PageTable) -> None:
        table.identify(9)
        prepare(table)
        table.unmap_range(base_of(table.format), table.format.page_size)

    assert check_trace(traced(tmp_path / "t", "npt4", edits)).refuted is None
    assert '"identifier": 9' in (tmp_path / "t").read_text()


# --- operations by name -----------------------------------------------------------------------------------------------
@every_format
def test_every_operation_that_is_owed_is_read_back_as_it_was(name: str) -> None:
    asked: list[Operation] = []

    def note(operation: Operation) -> bool:
        asked.append(operation)
        return True

    with checked(name, note) as (table, _):
        prepare(table)
        for scene in SCENES.values():
            scene(table)
        table.map_range(base_of(table.format) + 4 * table.format.leaf_size(1), Hpa(0), 2 * FEW * 0x1_0000, RX)
        table.unmap_range(base_of(table.format) + 4 * table.format.leaf_size(1), 2 * FEW * 0x1_0000)
    assert asked
    for operation in asked:
        assert operation_named(operation.name, Operands.of(operation)) == operation


@every_format
def test_what_is_owed_beside_edits_is_read_back_too(name: str) -> None:
    fmt = by_name(name)
    family, context = family_of(fmt), Context(5, 0x8000_0000, None if fmt.stage == 2 else 3)
    for operation in (*family.retire(fmt, context), *family.roll_over(fmt), *family.first_entry(fmt, 5)):
        assert operation_named(operation.name, Operands.of(operation)) == operation


@pytest.mark.parametrize(
    ("operation", "other"),
    [
        (arm.ipas2e1is(5, PAGE, 4096, last_level=True), arm.ipas2e1is(5, PAGE, 4096)),
        (arm.vae1is(3, 5, PAGE, 4096, last_level=True), arm.vae1is(3, 5, PAGE, 4096)),
        (arm.vaae1is(3, PAGE, 4096), arm.aside1is(3, 5)),
        (riscv.hfence_vvma(5, 7, PAGE), riscv.hfence_vvma_all(5)),
        (riscv.sfence_vma(None, 7, PAGE), riscv.sfence_vma_all(None, 7)),
        (x86.invvpid_address(5, PAGE), x86.invvpid_retaining_globals(5)),
        (x86.invlpga(5, PAGE), x86.flush_asid_but_globals(5)),
        (x86.invlpg(None, PAGE), x86.mov_cr3(None, 7)),
    ],
)
def test_operations_that_no_edit_owes_are_read_back_and_kept_apart(operation: Operation, other: Operation) -> None:
    for one in (operation, other):
        assert operation_named(one.name, Operands.of(one)) == one
    with pytest.raises(EncodingError):
        operation_named(operation.name, Operands.of(x86.invept_single_context(0x1000)))


def test_an_operation_of_vpid_0_is_refused() -> None:
    with pytest.raises(EncodingError, match="INVVPID single-context: VPID 0 is the host's own"):
        operation_named("INVVPID single-context", Operands(vmid=0))


# --- writing ----------------------------------------------------------------------------------------------------------
def test_a_file_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as found:
        EditTrace(tmp_path / "no" / "t")
    assert str(found.value) == f"{tmp_path / 'no' / 't'}: the trace cannot be written: No such file or directory"


def test_a_disk_that_is_full_tears_no_edit_and_is_told_at_the_end() -> None:
    with checked("sv39x4") as (table, checker):
        trace = EditTrace(Path("/dev/full"))
        trace.watch(table, "linux")
        table.map_range(0, Hpa(0), 0x1000, RW)
        with pytest.raises(ConfigError) as found:
            trace.close()
        assert str(found.value) == "/dev/full: the trace cannot be written: No space left on device"
        assert table.hpa_of(0) == 0
        assert table.flush == checker.flush


def test_a_trace_that_was_stopped_leaves_the_table_as_it_was(tmp_path: Path) -> None:
    with PhysicalMemory([Range.sized(0x8000_0000, 1 << 20)]) as memory:
        done: list[Operation] = []
        table = PageTable("sv39x4", FrameAllocator(memory), owner=TABLES, flush=done.extend)
        before = table.flush
        with EditTrace(tmp_path / "t") as trace:
            trace.watch(table, "linux")
            table.map_range(0, Hpa(0), 0x1000, RW)
            table.unmap_range(0, 0x1000)
            # An engine sets its own when it begins.
            table.flush = later = lambda operations: done.extend(operations)
            table.map_range(0, Hpa(0), 0x1000, RW)
            table.unmap_range(0, 0x1000)
        assert len(done) == 2, "what is owed is done all the same"
        assert table.flush in (before, later)
        assert table.editor.watcher is None
        size = (tmp_path / "t").stat().st_size
        table.map_range(0, Hpa(0), 0x1000, RW)
        assert (tmp_path / "t").stat().st_size == size
        table.destroy()
    verdict = check_trace(tmp_path / "t")
    assert (verdict.refuted, verdict.operations) == (None, 2)


def test_memory_does_not_grow_with_the_length_of_a_trace(tmp_path: Path) -> None:
    peaks = []
    for rounds in (20, 200):
        path = tmp_path / f"{rounds}"
        with PhysicalMemory([Range.sized(0x8000_0000, 1 << 20)]) as memory:
            table = PageTable("sv39x4", FrameAllocator(memory), owner=TABLES)
            tracemalloc.start()
            with EditTrace(path) as trace:
                trace.watch(table, "linux")
                for _ in range(rounds):
                    table.map_range(0, Hpa(0), 0x4000, RW)
                    table.unmap_range(0, 0x4000)
            written = tracemalloc.get_traced_memory()[1]
            tracemalloc.reset_peak()
            assert check_trace(path).edits == 2 * rounds
            peaks.append((written, tracemalloc.get_traced_memory()[1]))
            tracemalloc.stop()
            table.destroy()
    (short_written, short_read), (long_written, long_read) = peaks
    assert path.stat().st_size > 200_000
    assert long_written < short_written + 100_000
    assert long_read < short_read + 100_000
