"""Snapshots in any order, of a guest with two harts: its state hangs on its time alone, however it came to be there."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, rule
from writer_guest import Writer, store, sum_of

from effort import examples
from stage2.space.region import Populate
from stage2.vm.snapshots.snapshot import Snapshot

_STEP = 2_500
"""The guest is looked at whenever so many nanoseconds are over."""


class SnapshotsModel(RuleBasedStateMachine):
    """One guest; the model knows for each moment of its time the state that it was first seen in."""

    snapshots: Bundle[Snapshot] = Bundle("snapshots")

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[int, str] = {}
        self.folder = TemporaryDirectory()
        self.writer: Writer | None = None

    @initialize(populate=st.sampled_from(Populate))
    def begin(self, populate: Populate) -> None:
        self.populate = populate
        self.writer = Writer(cpus=2, populate=populate)

    def guest(self) -> Writer:
        assert self.writer is not None
        return self.writer

    def look(self) -> None:
        """The state is the one that belongs to the time."""
        writer = self.guest()
        state = writer.state()
        assert self.seen.setdefault(writer.now, state) == state

    @rule(steps=st.integers(1, 12))
    def run_on(self, steps: int) -> None:
        writer = self.guest()
        writer.run_until((writer.now // _STEP + steps) * _STEP)
        self.look()

    @rule(target=snapshots, follow=st.booleans())
    def take(self, follow: bool) -> Snapshot:
        writer = self.guest()
        taken = writer.vm.snapshot(follow=follow)
        assert self.seen.setdefault(writer.now, sum_of(taken)) == sum_of(taken)
        assert taken.copied <= len(taken.pages)
        return taken

    @rule(target=snapshots, snapshot=snapshots)
    def by_way_of_a_file(self, snapshot: Snapshot) -> Snapshot:
        found = store(Path(self.folder.name) / "a.snapshot", snapshot)
        assert sum_of(found) == sum_of(snapshot)
        return found

    @rule(snapshot=snapshots)
    def put_back(self, snapshot: Snapshot) -> None:
        writer = self.guest()
        writer.vm.restore(snapshot)
        leaves = writer.vm.space.leaves_of_memory()[:, [0, 2]]
        assert leaves.tolist() == snapshot.state.leaves.tolist()
        assert writer.now == snapshot.state.machine.nanos
        self.look()

    @rule(snapshot=snapshots)
    def move_to_another_machine(self, snapshot: Snapshot) -> None:
        self.guest().close()
        self.writer = Writer(cpus=2, populate=self.populate)
        self.writer.vm.restore(snapshot)
        self.look()

    @rule()
    def follow_no_more(self) -> None:
        self.guest().vm.follow_no_more()

    def teardown(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.folder.cleanup()


TestSnapshotsModel = SnapshotsModel.TestCase
TestSnapshotsModel.settings = settings(max_examples=examples(20), stateful_step_count=20, deadline=None)
