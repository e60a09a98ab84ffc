"""Pre-copy: the file of a guest that ran while it was copied holds what the guest was when it stopped."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from writer_guest import RAM, Writer, sum_of

from stage2.address import MIB
from stage2.engines.unicorn.machine import Machine
from stage2.errors import ConfigError, OutOfRangeError, SnapshotError
from stage2.space.region import Populate
from stage2.vm.snapshots.precopy import PrecopyReport, Round, _Copy, precopy
from stage2.vm.snapshots.snapshot import Snapshot
from waiting import HANG_S, until


class Running:
    """A guest that runs on a thread until it is stopped."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self._thread = threading.Thread(target=self._run)
        self.stopped = False
        """Somebody has stopped it already; to do so again would end its next run."""

    def stop(self) -> None:
        self.stopped = True
        self.writer.machine.stop("copied", "it is there")

    def _run(self) -> None:
        self.result = self.writer.machine.run()

    def __enter__(self) -> Running:
        self._thread.start()
        until(lambda: self.writer.now > 100_000, "the guest does not run")
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive() and not self.stopped:
            self.writer.machine.stop("stopped", "the test is over")
        self._thread.join(HANG_S)


@pytest.fixture(params=["riscv64", "aarch64", "x86_64", "two harts", "blocks"])
def writer(request: pytest.FixtureRequest) -> Iterator[Writer]:
    if request.param == "two harts":
        made = Writer(cpus=2)
    elif request.param == "blocks":
        made = Writer(populate=Populate.EAGER)
    else:
        made = Writer(request.param)
    yield made
    made.close()


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the guest write some pages after each round, however busy the machine is."""
    real = _Copy.round

    def slowly(self: _Copy) -> Round:
        machine = self._vm.machine
        assert isinstance(machine, Machine)
        done, now = real(self), machine.clock.now().nanos
        until(lambda: machine.clock.now().nanos > now + 20_000, "the guest stands still")
        return done

    monkeypatch.setattr(_Copy, "round", slowly)


def copied(writer: Writer, file: Path, **options: int) -> PrecopyReport:
    """A copy of a guest that runs, which is stopped by it."""
    with Running(writer) as running:
        return precopy(writer.vm, file, then=running.stop, **options)


@pytest.mark.usefixtures("written")
def test_the_file_is_the_guests_memory_at_the_end_byte_for_byte(writer: Writer, tmp_path: Path) -> None:
    report = copied(writer, tmp_path / "a.snapshot", rounds=3, until=0)
    snapshot = Snapshot.open(tmp_path / "a.snapshot")
    assert sum_of(snapshot) == writer.state()
    assert report.pages == len(snapshot.pages) == report.rounds[0].pages
    assert report.nanos == writer.now == snapshot.state.machine.nanos
    assert len(report.rounds) == 3
    assert all(one.pages for one in (*report.rounds, report.last))
    assert not writer.vm.space.tracked(writer.vm.space.memory_regions[-1].range)
    other = Writer(writer.vm.arch, cpus=writer.vm.cpu_count)
    try:
        other.vm.restore(snapshot)
        later = writer.now + 100_000
        for one in (writer, other):
            one.run_until(later)
        assert other.state() == writer.state()
    finally:
        other.close()


def test_a_guest_that_was_copied_runs_on_unless_it_is_stopped(tmp_path: Path) -> None:
    writer = Writer()
    try:
        with Running(writer):
            report = precopy(writer.vm, tmp_path / "a.snapshot")
            until(lambda: writer.now > report.nanos + 100_000, "the guest stands still")
        snapshot = Snapshot.open(tmp_path / "a.snapshot")
        later = writer.now
        state = writer.state()
        writer.vm.restore(snapshot)
        writer.run_until(later)
        assert writer.state() == state
    finally:
        writer.close()


def test_when_few_pages_are_left_the_guest_is_stopped_for_them(tmp_path: Path) -> None:
    writer = Writer()
    try:
        report = copied(writer, tmp_path / "a.snapshot", rounds=5, until=1000)
        # There are not so many pages: one round is enough.
        assert len(report.rounds) == 1
        assert report.last.pages <= 1000
        assert report.downtime_s == report.last.seconds
    finally:
        writer.close()


def test_what_is_given_back_while_it_is_copied_is_not_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer()
    lower, upper = RAM + 3 * MIB, RAM + 3 * MIB + 0x8000
    real = _Copy.round

    def then_unmapped(self: _Copy) -> object:
        done = real(self)
        writer.vm.space.unmap(lower, 0x8000)
        return done

    try:
        writer.vm.memory.write(lower, b"\1" * 0x10000)
        monkeypatch.setattr(_Copy, "round", then_unmapped)
        report = precopy(writer.vm, tmp_path / "a.snapshot", rounds=1)
        snapshot = Snapshot.open(tmp_path / "a.snapshot")
        assert sum_of(snapshot) == writer.state()
        assert snapshot.read(lower, 0x8000) == bytes(0x8000)
        assert snapshot.read(upper, 0x8000) == b"\1" * 0x8000
        assert report.pages == report.rounds[0].pages - 8
    finally:
        writer.close()


def test_a_copy_that_cannot_be_written_leaves_guest_and_folder_as_they_were(tmp_path: Path) -> None:
    writer = Writer()
    try:
        writer.run_until(20_000)
        before = writer.state()
        with pytest.raises(ConfigError, match="cannot be written: No such file or directory"):
            precopy(writer.vm, tmp_path / "missing" / "a.snapshot")
        with pytest.raises(OutOfRangeError, match="0 rounds until 64 pages are left"):
            precopy(writer.vm, tmp_path / "a.snapshot", rounds=0)
        with pytest.raises(ZeroDivisionError):
            precopy(writer.vm, tmp_path / "a.snapshot", then=lambda: 1 // 0)
        assert writer.state() == before
        assert not writer.vm.space.tracked(writer.vm.space.memory_regions[-1].range)
        assert not list(tmp_path.iterdir())
        writer.machine.close()
        with pytest.raises(SnapshotError, match="is on no machine"):
            precopy(writer.vm, tmp_path / "a.snapshot")
        assert not list(tmp_path.iterdir())
    finally:
        writer.close()
