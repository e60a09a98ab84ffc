"""A virtual machine: an address space, devices, a console, and the policy that answers its faults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..address import SIZE_4K, Gpa, Range, align_down
from ..config.defconfig import TICKS_PER_SEC
from ..config.extensions import TIMER_EVENTS
from ..errors import EncodingError
from ..flags import Access
from ..formats import family_of
from ..guest.memory import GuestMemory
from ..space.address_space import AddressSpace
from ..space.faults import FaultResult, Resolution
from ..space.region import MemoryRegion, ViolationPolicy
from ..tables.explain import Walk
from ..tables.result import Mapped
from ..tlb.identifiers import Identifiers
from .channels import ChannelTable
from .console import Console
from .devices import DeviceBus
from .exits import Action, MemoryFault
from .written import WrittenPages

if TYPE_CHECKING:
    # What only a VM that runs needs is imported when it does.
    from ..hypervisor.cpus import Cpus
    from ..images.devicetree import SerialPort
    from ..images.guest_tree import GicPlace
    from .dirty_log import DirtyLog
    from .exit_log import ExitReport
    from .gic.gic import Gic
    from .plic import Plic
    from .report import RegionReport, ViolationReport, VmReport
    from .snapshots.machine import SavedMachine
    from .snapshots.snapshot import Snapshot
    from .snapshots.taking import Restored, Snapshots

_VIOLATIONS_KEPT = 256
_KEPT_OF_A_KIND = 48
"""Limit: violations of one kind (region and access), so that a sweep through a hole leaves room for later ones."""
_WALKS_OF_A_KIND = 2
_ACTIONS = {
    ViolationPolicy.STOP: Action.STOP,
    ViolationPolicy.INJECT: Action.INJECT,
    ViolationPolicy.DISCARD: Action.DISCARD,
}


@dataclass(frozen=True, slots=True)
class Boot:
    """Where a guest starts.

    Args:
        entry: first PC, a GPA.
        device_tree: GPA of the flattened device tree, if there is one.
        boot_params: GPA of what an x86 Linux is told, if it is one: then it starts in 64-bit mode.
    """

    entry: Gpa
    device_tree: Gpa | None = None
    boot_params: Gpa | None = None


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended and what the engine counted.

    Args:
        exit: "off", "stopped", "time limit", "interrupted" or "error".
        reason: one sentence.
        wall_s: seconds of running.
        guest_faults: stage-1 faults delivered to the guest.
        fills: translations asked of the walker.
        exits: what stopped the guest, by kind, where the engine tells.
    """

    exit: str
    reason: str
    wall_s: float
    guest_faults: int
    fills: int
    exits: tuple[ExitReport, ...] = ()


class Vm:
    """One VM, whatever engine runs it.

    Args:
        name, id: from its configuration.
        arch: "riscv64", "aarch64" or "x86_64".
        space: its guest physical memory; the VM owns it and destroys it.
        console: where its output goes.
        cpu_count: number of vCPUs.
        timer_events: room for timers on each of the CPUs that it runs on.
        ticks_per_sec: the scheduler's ticks on those CPUs, in Hz.
        identifiers: the host's VMIDs, one of which is the space's; the VM gives it back when it is closed.
        channels: the host's channels between VMs; the VM takes part until it is closed.
    """

    def __init__(
        self,
        name: str,
        id: int,
        arch: str,
        space: AddressSpace,
        *,
        console: Console | None = None,
        cpu_count: int = 1,
        channels: ChannelTable | None = None,
        timer_events: int = TIMER_EVENTS,
        ticks_per_sec: int = TICKS_PER_SEC,
        identifiers: Identifiers | None = None,
        write_xor_execute: bool = False,
    ) -> None:
        self.name, self.id, self.arch, self.space = name, id, arch, space
        self.console = console or Console()
        self.cpu_count = cpu_count
        self.write_xor_execute = write_xor_execute
        self.timer_events = timer_events
        self.ticks_per_sec = ticks_per_sec
        self.cores: tuple[int, ...] = ()
        """The host's core that each vCPU has to itself; none where vCPUs are nowhere in particular."""
        self.cpus: Cpus | None = None
        """The CPUs that it runs on, as long as an engine has made any."""
        self.machine: SavedMachine | None = None
        """The machine that has its CPUs, as long as there is one whose state can be saved."""
        self.written = WrittenPages(space)
        """Which pages it writes, for those who want to know."""
        self._snapshots: Snapshots | None = None
        self.dirty_log: DirtyLog | None = None
        """The log of its writes, while it runs with one."""
        self._identifiers = identifiers
        self.channels = channels
        if channels is not None:
            channels.join(id, space)
        self.memory = GuestMemory(space)
        self.bus = DeviceBus()
        self.gic: Gic | None = None
        """Its emulated interrupt controller, if it has one."""
        self.gic_place: GicPlace | None = None
        """Where that is."""
        self.plic: Plic | None = None
        """The same of RISC-V,"""
        self.plic_place: Range | None = None
        """and where that is."""
        self.serial: list[SerialPort] = []
        """Its emulated serial ports."""
        self.boot = Boot(Gpa(0))
        self.violations_dropped = 0
        self._violations: dict[tuple[int, str, int, str], ViolationReport] = {}
        self._violation_kinds: dict[tuple[str, str], int] = {}

    def enters(self, cpu: int) -> bool:
        """A CPU is about to run the guest: whether it must drop all translations first, since VMIDs started again."""
        if self.cpus is None or self._identifiers is None:
            return False
        return self.cpus.enter(cpu, self._identifiers)

    def has_registers(self, span: Range) -> bool:
        """Whether stage 2 leads all of a device's registers to themselves."""
        regions = self.space.regions_in(span)
        mapped = all(region.map_type.is_mapped and region.host_range == region.range for region in regions)
        return mapped and not self.space.undeclared(span)

    # --- policy ------------------------------------------------------------------------------------------

    def memory_fault(self, fault: MemoryFault) -> tuple[Action, FaultResult]:
        """What is to happen to an access that stage 2 refused.

        Returns:
            The action, and how the address space resolved the fault. RETRY only when the page is there now; an
            access to a stage-1 table cannot be emulated or dropped, so there DISCARD and EMULATE become INJECT.
        """
        result = self.space.handle_page_fault(fault.gpa, fault.access)
        return self.action_for(fault, result), result

    def action_for(self, fault: MemoryFault, result: FaultResult) -> Action:
        """The action of `memory_fault`, for one that the address space has resolved."""
        if result.retry:
            return Action.RETRY
        if result.resolution is Resolution.OUT_OF_MEMORY:
            return Action.STOP
        page = Range.sized(align_down(fault.gpa, SIZE_4K), SIZE_4K)
        if result.resolution is Resolution.DEVICE and self.bus.answers(page):
            action = Action.EMULATE
        else:
            # A device region in which nobody answers is as good as a hole.
            action = self._policy(result)
        plain = fault.access is not Access.FETCH and not fault.fault.on_table
        if not plain and action in (Action.EMULATE, Action.DISCARD):
            action = Action.INJECT
        return action

    def unanswered(self, result: FaultResult) -> Action:
        """What is to happen when no device answers at an address within a device's page.

        The access is under way by then, so it can no longer become an access fault: INJECT reads as ones too.
        """
        action = self._policy(result)
        return action if action is Action.STOP else Action.DISCARD

    def _policy(self, result: FaultResult) -> Action:
        return _ACTIONS[self.space.policy.violation_of(result.region)]

    def record_violation(
        self,
        fault: MemoryFault,
        action: Action,
        result: FaultResult,
        *,
        value: int | None = None,
        walk: Callable[[], Walk] | None = None,
        instruction: Callable[[], int | None] | None = None,
    ) -> None:
        """Note a forbidden access for the report; repeated ones from the same place are counted.

        Args:
            fault, action, result: what was tried, what is done about it, and why.
            value: what a write wanted to store.
            walk: makes the explained walk; asked for the first ones of a kind, and for one that stops the guest.
            instruction: reads the instruction that did it.
        """
        region = result.region.label if result.region else "hole"
        if result.resolution is Resolution.OUT_OF_MEMORY:
            region += " (out of memory)"
        if fault.fault.on_table:
            region += " (stage-1 table)"
        access = fault.access.name.lower()
        key = (fault.gpa, access, fault.pc, action.value)
        known = self._violations.get(key)
        if known is not None:
            self._violations[key] = replace(known, count=known.count + 1)
            return
        kind = (region, access)
        before = self._violation_kinds.get(kind, 0)
        stops = action is Action.STOP
        if not stops and (len(self._violations) >= _VIOLATIONS_KEPT or before >= _KEPT_OF_A_KIND):
            self.violations_dropped += 1
            return
        self._violation_kinds[kind] = before + 1
        steps = walk() if walk is not None and (stops or before < _WALKS_OF_A_KIND) else None
        syndrome = self._syndrome(fault, None if instruction is None else instruction())
        from .report import ViolationReport

        self._violations[key] = ViolationReport(
            fault.gpa, fault.gva, fault.pc, access, region, action.value, 1, value, steps, syndrome, result
        )

    def _syndrome(self, fault: MemoryFault, instruction: int | None) -> dict[str, int]:
        """The registers in which hardware would report a fault; none for one that it has no words for."""
        # A refused access to a stage-1 table is reported as the access that needed the table.
        refused = fault.fault
        attempted = refused.access if refused.on_table and refused.access is not None else fault.access
        mapped = self.space.translate(fault.gpa)
        allowed = mapped.permissions if isinstance(mapped, Mapped) else 0
        regime = self.space.regime
        try:
            return family_of(regime.format).hardware_report(
                regime.format, refused, attempted, fault.gva, fault.gpa, allowed, regime.controls, instruction
            )
        except EncodingError:
            return {}

    @property
    def violations(self) -> tuple[ViolationReport, ...]:
        """The forbidden accesses so far, in order of appearance."""
        return tuple(self._violations.values())

    # --- snapshots ---------------------------------------------------------------------------------------

    def snapshot(self, *, follow: bool = True) -> Snapshot:
        """All that the VM is at this moment: memory, tables' leaves, CPUs, clock, devices, console.

        May be called from any thread, while its machine runs too: it is taken between two turns of its CPUs.

        Args:
            follow: track writes from now on, so that the next snapshot copies only what was written since and a
                restore puts only that back; a page that is written costs one fault more each time. Without it, and
                where nobody follows yet, a snapshot is a whole one.

        Raises:
            SnapshotError: it is on no machine, or something of it has state that cannot be had, which is named.
            EncodingError: the format cannot take write permission away alone.
        """
        return self._all_snapshots.take(follow=follow)

    def restore(self, snapshot: Snapshot) -> Restored:
        """Put everything back as it was at a snapshot; its machine goes on from there when it runs (again).

        Args:
            snapshot: of this VM, or of one of the same name and memory layout.

        Raises:
            SnapshotError: it is of another VM, or does not fit this machine; nothing changed.
            OutOfMemoryError: there are not enough frames; nothing changed.
        """
        return self._all_snapshots.restore(snapshot)

    def follow_no_more(self) -> None:
        """Track no writes for snapshots any more: the next one is a whole one. Harmless when repeated."""
        if self._snapshots is not None:
            self._snapshots.close()

    @property
    def _all_snapshots(self) -> Snapshots:
        if self._snapshots is None:
            from .snapshots.taking import Snapshots

            self._snapshots = Snapshots(self)
        return self._snapshots

    # --- report ------------------------------------------------------------------------------------------

    def report(self, engine: str, result: RunResult) -> VmReport:
        """What the run did to memory, read off the tables."""
        from .report import VmReport

        statistics = self.space.page_table.statistics()
        regions = self.region_reports()
        memory = [region for region in regions if region.map_type.holds_bytes]
        counters, promoted = self.space.counters, self.space.promoter.done
        return VmReport(
            name=self.name,
            id=self.id,
            engine=engine,
            arch=self.arch,
            format=self.space.format.name,
            exit=result.exit,
            reason=result.reason,
            wall_s=result.wall_s,
            guest_faults=result.guest_faults,
            stage2_faults=counters.total,
            fills=result.fills,
            populated_bytes=sum(region.populated_bytes for region in memory),
            declared_bytes=sum(region.size for region in memory),
            leaves=statistics.leaves,
            tables=statistics.tables,
            table_bytes=statistics.table_bytes,
            regions=regions,
            console=self.console.text,
            resolutions={kind.value: count for kind, count in counters.faults.items() if count},
            fault_latency_ns=counters.histogram(),
            promotions=(
                {"in place": promoted.in_place, "by copy": promoted.by_copy} if self.space.policy.promote else {}
            ),
            violations=self.violations,
            violations_dropped=self.violations_dropped,
            devices=dict(self.bus.accesses),
            dirty_log=None if self.dirty_log is None else self.dirty_log.report,
            exits=result.exits,
        )

    def region_reports(self) -> tuple[RegionReport, ...]:
        """The regions in order of GPA, with the host memory behind each."""
        return tuple(self._region_report(region) for region in self.space.memory_regions)

    def _region_report(self, region: MemoryRegion) -> RegionReport:
        from .report import RegionReport

        spans: list[tuple[int, int]] = []
        # What is never mapped need not be whole pages of the format.
        mapped = region.map_type.is_mapped
        rows = self.space.page_table.rows(region.start, region.size).tolist() if mapped else []
        runs = sorted((hpa, hpa + size) for _, hpa, size, _ in rows)
        for start, end in runs:
            if spans and spans[-1][1] == start:
                spans[-1] = (spans[-1][0], end)
            else:
                spans.append((start, end))
        return RegionReport(
            name=region.label,
            start=region.start,
            size=region.size,
            map_type=region.map_type,
            flags=region.flags,
            populated_bytes=sum(end - start for start, end in spans),
            hpa=tuple(spans),
        )

    def close(self) -> None:
        """Give back everything the VM holds. Harmless when repeated."""
        if self.channels is not None:
            self.channels.leave(self.id)
        self.space.destroy()
        if self._identifiers is not None:
            self._identifiers.retire(self.id)

    def __repr__(self) -> str:
        return f"Vm({self.name!r}, id {self.id}, {self.arch}, {self.space.format.name})"
