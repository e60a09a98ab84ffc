"""Who gets which device of a board on which several VMs run: one VM at most owns a physical one.

Files give every VM the machine's interrupt controller and serial port, as if it were alone. The first VM whose file
names a device has it. Those after it get a model of the interrupt controller and of the serial port at the addresses
where they expect them; of anything else that is taken, and of what the board does not have, they get nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ...address import SIZE_4K, Range
from ...config.devices import EmulatedDevice, PassthroughDevice
from ...config.document import Notice
from ...config.vm import VmConfig
from ...images.host_tree import HostTree
from ...ranges import RangeMap
from ...vm.emulated import CONSOLES, V2_DISTRIBUTORS, V3_DISTRIBUTORS, is_one_of

GIC_SIZE = 0x2_0000
"""Of a GICv2 in one piece: distributor and CPU interfaces."""
_CONSOLE_IRQ = 33
"""INTID of the `virt` board's serial port."""
_TAKEN = "taken"
"""The rule under which a device is given to nobody else."""


def share_out(configs: Sequence[VmConfig], tree: HostTree) -> list[VmConfig]:
    """The VMs with the devices that each has on a board.

    Args:
        configs: as their files have them, the nodes of the board's tree found.
        tree: the board's.
    """
    board = _Board(tree)
    return [board.give(config) for config in configs]


class _Board:
    def __init__(self, tree: HostTree) -> None:
        self._there: RangeMap[str] = RangeMap(merge=False)
        for placed in tree.nodes:
            for span in placed.ranges or ():
                wide = span.widened(SIZE_4K)
                if not self._there.overlapping(wide):
                    self._there.add(wide, placed.path)
        self._gic = [span for one in tree.controllers for _, span in one.regions]
        self._distributor = next((one.named("GICD")[0] for one in tree.controllers if one.named("GICD")), None)
        self._console = None if tree.console is None or not tree.console.ranges else tree.console.ranges[0]
        self._taken: RangeMap[str] = RangeMap(merge=False)

    def give(self, config: VmConfig) -> VmConfig:
        devices, notices = config.devices, list(config.notices)
        wanted = list(devices.mapped)
        # An interrupt controller is one thing: who cannot have all of it has none of it.
        gic_taken = any(self._taken.overlapping(span) for span in self._gic)
        kept: list[PassthroughDevice] = []
        lost: list[Range] = []
        for device in wanted:
            parts = list(self._parts(device, without=self._gic if gic_taken else []))
            kept += parts
            if sum(part.size for part in parts) == _host(device).size:
                continue
            held = {owner for _, owner in self._taken.overlapping(_host(device))}
            lost += [_guest(device)]
            why = f"{', '.join(sorted(held))} has it" if held else "the board has nothing there"
            notices.append(
                Notice(f"HPA {_host(device)} is not given whole to {config.label}: {why}", device.place, _TAKEN)
            )
        for part in kept:
            self._taken.set(_host(part), config.label)
        models = [*self._models(config, kept, lost)]
        given = replace(devices, passthrough=tuple(kept), addresses=(), resolved=() if devices.nodes else None)
        if not lost:
            given = devices
        return replace(config, notices=tuple(notices), devices=replace(given, emulated=(*devices.emulated, *models)))

    def _parts(self, device: PassthroughDevice, without: Sequence[Range]) -> Iterator[PassthroughDevice]:
        """What nobody else has of a device, and is on the board."""
        host = _host(device)
        if not self._there.overlapping(host):
            return
        gone: RangeMap[str] = RangeMap()
        for span in [*(held for held, _ in self._taken.overlapping(host)), *without]:
            shared = span.widened(SIZE_4K).intersection(host)
            if shared is not None:
                gone.set(shared, "")
        for gap in gone.gaps(host):
            offset = gap.start - host.start
            yield replace(device, gpa=_guest(device).start + offset, hpa=gap.start, size=gap.size)

    def _models(
        self, config: VmConfig, kept: Sequence[PassthroughDevice], lost: Sequence[Range]
    ) -> Iterator[EmulatedDevice]:
        """Models of what a VM expects and does not get, where its file has none already."""
        hypervisors = config.guest_type is not None
        """The present format: upstream plays controller and console in every guest."""
        for name, span, size, irq, kinds in (
            ("interrupt-controller", self._distributor, GIC_SIZE, 0, (*V2_DISTRIBUTORS, *V3_DISTRIBUTORS)),
            ("console", self._console, SIZE_4K, _CONSOLE_IRQ, CONSOLES),
        ):
            if span is None or any(is_one_of(device, kinds) for device in config.devices.emulated):
                continue
            if any(_guest(device).covers(span) for device in kept):
                continue
            if hypervisors or any(one.overlaps(span) for one in lost):
                yield EmulatedDevice(name, span.start, size, irq, 0, kinds[:1], (), on_ports=False, place=config.place)


def _host(device: PassthroughDevice) -> Range:
    return Range.sized(device.hpa, device.size).widened(SIZE_4K)


def _guest(device: PassthroughDevice) -> Range:
    return Range.sized(device.gpa, device.size).widened(SIZE_4K)
