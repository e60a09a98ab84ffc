"""Taking snapshots of a VM, the later ones copy-on-write, and putting them back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import MappingError, SnapshotError, Stage2Error
from ...flags import MappingFlags, MapType
from ...space.leaves import runs_of
from ..written import NO_PAGES
from .machine import SavedDevice, SavedMachine
from .memory import PagesOfMemory, pages_in
from .pages import Pages
from .snapshot import RegionShape, Snapshot, VmState

if TYPE_CHECKING:
    from ...tables.mapping import U64Array
    from ..vm import Vm
    from ..written import WrittenReader


@dataclass(frozen=True, slots=True)
class Restored:
    """What putting a snapshot back took.

    Args:
        pages: pages whose bytes were stored.
        populated: how many of them got new frames.
    """

    pages: int
    populated: int


def machine_of(vm: Vm) -> SavedMachine:
    """The machine that has a VM's CPUs.

    Raises:
        SnapshotError: there is none, or something of the VM has state that cannot be had.
    """
    machine = vm.machine
    if machine is None:
        raise SnapshotError(f"VM {vm.name} is on no machine whose state can be saved")
    return machine


class Snapshots:
    """The snapshots of one VM, and which of them its memory goes on from.

    Args:
        vm: it.
    """

    def __init__(self, vm: Vm) -> None:
        self._vm = vm
        self._last: Snapshot | None = None
        self._reader: WrittenReader | None = None
        """Knows what was written since `_last`; None where nobody follows."""

    def take(self, *, follow: bool) -> Snapshot:
        """A snapshot; see `Vm.snapshot`."""
        machine = machine_of(self._vm)
        return machine.at_rest(lambda: self._take(machine, follow=follow))

    def restore(self, snapshot: Snapshot) -> Restored:
        """Put one back; see `Vm.restore`."""
        machine = machine_of(self._vm)
        return machine.at_rest(lambda: self._restore(machine, snapshot))

    def close(self) -> None:
        """Follow writes no more; the next snapshot is a whole one. Harmless when repeated."""
        if self._reader is not None:
            self._reader.close()
        self._reader = self._last = None

    # --- taking ------------------------------------------------------------------------------------------

    def _take(self, machine: SavedMachine, *, follow: bool) -> Snapshot:
        vm = self._vm
        require_saveable(vm, machine)
        with vm.space.lock:
            leaves = vm.space.leaves_of_memory()
            memory = PagesOfMemory(vm.space.frames.memory, leaves)
            if self._last is None or self._reader is None:
                reader = vm.written.reader() if follow else None
                pages, copied = Pages.of(memory.gpas, memory.copy(memory.gpas)), len(memory.gpas)
            else:
                reader = self._reader
                fresh = self._fresh(memory, self._last.pages, reader)
                pages, copied = self._last.pages.renewed(memory.gpas, fresh, memory.copy(fresh)), len(fresh)
            snapshot = Snapshot(state_of(vm, machine, leaves), pages, copied)
        if reader is not None:
            self._last, self._reader = snapshot, reader
        return snapshot

    def _fresh(self, memory: PagesOfMemory, before: Pages, reader: WrittenReader) -> U64Array:
        """The pages that are not what they were: written, or not there before."""
        written = pages_in(reader.take(), self._vm.space.format.page_size)
        here, _ = before.index(memory.gpas)
        changed = [memory.gpas[~here], np.intersect1d(written, memory.gpas)]
        others = untold(self._vm, memory.gpas)
        others = others[before.index(others)[0]]
        changed.append(others[(memory.copy(others) != before.of_gpas(others)).any(axis=1)])
        fresh: U64Array = np.unique(np.concatenate(changed))
        return fresh

    # --- putting back ------------------------------------------------------------------------------------

    def _restore(self, machine: SavedMachine, snapshot: Snapshot) -> Restored:
        vm = self._vm
        require_saveable(vm, machine)
        state = snapshot.state
        require_same_layout(vm, state)
        machine.require(state.machine)
        before = _load_devices(vm, state.devices)
        try:
            with vm.space.lock:
                done = self._restore_memory(snapshot)
        except BaseException:
            _load_devices(vm, before)
            raise
        vm.console.rewind(state.console_position, state.console)
        machine.load(state.machine)
        if vm.dirty_log is not None:
            vm.dirty_log.restart()
        return done

    def _restore_memory(self, snapshot: Snapshot) -> Restored:
        space, last, reader = self._vm.space, self._last, self._reader
        host = space.frames.memory
        changed = fresh = snapshot.pages.gpas
        if last is not None and reader is not None:
            # After this nothing is written that is not known of, and so all that is tracked is withheld.
            fresh = self._fresh(PagesOfMemory(host, space.leaves_of_memory()), last.pages, reader)
            changed = np.union1d(fresh, snapshot.pages.differing(last.pages))
        try:
            new = space.set_leaves_of_memory(snapshot.state.leaves)
        except Stage2Error as error:
            if reader is not None:
                # What was written since the last snapshot still was.
                reader.put_back(fresh)
            if isinstance(error, MappingError):
                raise SnapshotError(f"its leaves do not fit the tables of VM {self._vm.name}: {error}") from None
            raise
        populated = PagesOfMemory(host, np.insert(new, 1, 0, axis=1)).gpas
        changed = np.intersect1d(np.union1d(changed, populated), snapshot.pages.gpas)
        memory = PagesOfMemory(host, space.leaves_of_memory())
        memory.put(changed, snapshot.pages.of_gpas(changed))
        firsts = _firsts(changed, space.format.page_size)
        self._vm.written.tell(firsts, besides=reader)
        if space.page_table.tracks_writes:
            for span in runs_of(firsts, np.full(len(firsts), space.format.page_size, np.uint64)):
                space.page_table.mark(span.start, span.size, write=True)
        if reader is not None:
            self._last = snapshot
        return Restored(len(changed), len(populated))


def _firsts(gpas: U64Array, page: int) -> U64Array:
    """The pages of the format that pages of a snapshot are in."""
    found: U64Array = np.unique(gpas // np.uint64(page)) * np.uint64(page)
    return found


def state_of(vm: Vm, machine: SavedMachine, leaves: U64Array) -> VmState:
    """The state of a VM at rest.

    Args:
        vm, machine: it.
        leaves: (start, HPA, size) of its memory.
    """
    return VmState(
        vm=vm.name,
        arch=vm.arch,
        format=vm.space.format.name,
        regions=tuple(RegionShape.of(region) for region in vm.space.memory_regions),
        leaves=leaves[:, [0, 2]],
        machine=machine.save(),
        devices=_save_devices(vm),
        console_position=vm.console.position,
        console=vm.console.data,
    )


def untold(vm: Vm, gpas: U64Array) -> U64Array:
    """The pages of which nobody is told that they are written: where this guest may not write, or others may too.

    Args:
        vm: whose.
        gpas: its populated pages, in order.
    """
    found: list[U64Array] = [NO_PAGES]
    for region in vm.space.memory_regions:
        kind = region.map_type
        if kind.holds_bytes and (kind is MapType.SHARE or not region.flags & MappingFlags.WRITE):
            low, high = np.searchsorted(gpas, np.array([region.start, region.end], np.uint64)).tolist()
            found.append(gpas[low:high])
    return np.concatenate(found)


def require_saveable(vm: Vm, machine: SavedMachine) -> None:
    """Make sure that all that a VM is can be had.

    Raises:
        SnapshotError: what cannot, by its name.
    """
    if machine.unsaved is not None:
        raise SnapshotError(f"VM {vm.name} cannot be saved: the state of {machine.unsaved} cannot be had")
    for device in vm.bus:
        if not isinstance(device, SavedDevice):
            raise SnapshotError(f"VM {vm.name} cannot be saved: its device {device.name} does not give its state")
    if vm.channels is None:
        return
    if vm.channels.mapped_by(vm.id):
        raise SnapshotError(
            f"VM {vm.name} takes part in a channel, which no snapshot holds: unpublish or unsubscribe it first"
        )
    for region in vm.space.memory_regions:
        if region.map_type is MapType.SHARE and region.host_range is not None:
            for other in vm.channels.writers(region.host_range, besides=vm.id):
                raise SnapshotError(
                    f"VM {vm.name} cannot be saved alone: VM {other} may write the share {region.label} as well"
                )


def require_same_layout(vm: Vm, state: VmState) -> None:
    """Make sure that a snapshot was taken of such a VM.

    Raises:
        SnapshotError: the first thing that differs.
    """
    space = vm.space
    for what, of_it, here in (
        ("name", state.vm, vm.name),
        ("architecture", state.arch, vm.arch),
        ("stage-2 format", state.format, space.format.name),
    ):
        if of_it != here:
            raise SnapshotError(f"the snapshot is of a VM whose {what} is {of_it}; that of this one is {here}")
    shapes = [RegionShape.of(region) for region in space.memory_regions]
    for theirs, own in zip(state.regions, shapes, strict=False):
        if theirs != own:
            raise SnapshotError(f"the snapshot of VM {vm.name} has the memory {theirs}, where it now has {own}")
    if len(state.regions) != len(shapes):
        raise SnapshotError(
            f"the snapshot of VM {vm.name} has {len(state.regions)} regions, and it now has {len(shapes)}"
        )


def _save_devices(vm: Vm) -> dict[str, dict[str, Any]]:
    return {device.name: device.save() for device in vm.bus if isinstance(device, SavedDevice)}


def _load_devices(vm: Vm, states: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Put the states of devices back; what they were before.

    Raises:
        SnapshotError: they are not those of these devices; nothing changed.
    """
    before = _save_devices(vm)
    if before.keys() != states.keys():
        odd = min(before.keys() ^ states.keys())
        raise SnapshotError(f"the snapshot {'lacks' if odd in before else 'has'} the device {odd} of VM {vm.name}")
    devices = {device.name: device for device in vm.bus if isinstance(device, SavedDevice)}
    done: list[str] = []
    try:
        for name, device in devices.items():
            device.load(states[name])
            done.append(name)
    except (ValueError, KeyError, TypeError) as error:
        for name in done:
            devices[name].load(before[name])
        raise SnapshotError(f"the snapshot has no state that device {name} can have: {error}") from None
    return before
