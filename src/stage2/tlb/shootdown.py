"""The TLBs of a host's CPUs, and how an invalidation reaches all that may hold what is to go.

Arm's Inner Shareable operations are carried to the other CPUs by hardware. Elsewhere software must ask each CPU on
which the VM has run since that CPU last forgot it (an inter-processor interrupt); one that never ran it has nothing.
"""

from __future__ import annotations

from functools import partial

from ..formats import family_of
from ..formats.invalidation import Operation
from ..tables.pagetable import PageTable
from .identifiers import Identifiers
from .model import Tlb


class Cpus:
    """A host's CPUs, each with its TLBs.

    Args:
        count: how many.
        identifiers: numbers for the VMs that run on them.
    """

    def __init__(self, count: int, identifiers: Identifiers) -> None:
        self.tlbs = [Tlb() for _ in range(count)]
        self.interrupts = 0
        """How often one CPU had to interrupt another."""
        self._identifiers = identifiers
        self._runs: list[PageTable | None] = [None] * count
        self._held_by: dict[int, set[int]] = {}
        """Root of a stage-2 table -> the CPUs that may hold translations of it."""

    def enter(self, cpu: int, table: PageTable) -> None:
        """Let a CPU run the guest of a stage-2 table; the table gets its identifier, and its edits reach the CPUs."""
        self.leave(cpu)
        given = self._identifiers.acquire(table)
        if given.rolled_over:
            self._forget_everything(table)
        table.identify(given.number)
        table.flush = partial(self.perform, root=table.root)
        self._runs[cpu] = table
        held_by = self._held_by.setdefault(table.root, set())
        if cpu not in held_by:
            for operation in family_of(table.format).first_entry(table.format, given.number):
                self.tlbs[cpu].apply(operation)
            held_by.add(cpu)

    def leave(self, cpu: int) -> None:
        """Let a CPU do something else. It keeps its translations."""
        table = self._runs[cpu]
        if table is not None:
            self._identifiers.leave(table)
            self._runs[cpu] = None

    def retire(self, table: PageTable) -> None:
        """Destroy a table whose guest runs nowhere any more; all CPUs forget it, and its identifier is free."""
        for cpu, running in enumerate(self._runs):
            if running is table:
                self.leave(cpu)
        table.destroy()
        self._identifiers.retire(table)
        self._held_by.pop(table.root, None)

    def holders(self, table: PageTable) -> frozenset[int]:
        """The CPUs that may hold translations of a table."""
        return frozenset(self._held_by.get(table.root, ()))

    def perform(self, operations: tuple[Operation, ...], root: int | None = None) -> None:
        """Do operations on every CPU that they concern.

        Args:
            operations: in order.
            root: of the table that was edited; None asks all CPUs.
        """
        everybody = range(len(self.tlbs))
        asked = everybody if root is None else sorted(self._held_by.get(root, ()))
        if operations and not all(operation.broadcast for operation in operations):
            self.interrupts += max(len(asked) - 1, 0)
        for operation in operations:
            for cpu in everybody if operation.broadcast else asked:
                self.tlbs[cpu].apply(operation)

    def _forget_everything(self, table: PageTable) -> None:
        """Identifiers start again: no CPU may hold an entry with an old one but those that go on running."""
        self.perform(family_of(table.format).roll_over(table.format))
        running = {found.root: found for found in self._runs if found is not None}
        self._held_by = {
            root: {cpu for cpu, found in enumerate(self._runs) if found is running[root]} for root in running
        }
