"""The CPUs of a machine: one clock for all, and for each an area with its timer list and what it knows of VMIDs."""

from __future__ import annotations

import numpy as np

from ..config.defconfig import TICKS_PER_SEC
from ..memory.frames import FrameAllocator
from ..memory.linear import LinearMap
from ..memory.owners import Owner, OwnerKind
from ..tlb.identifiers import Identifiers
from .clock import Clock
from .percpu import PerCpu, PerCpuLayout
from .timer_head import TimerFields, TimerHead
from .timer_service import TimerService
from .timers import CAPACITY


class Cpus:
    """The CPUs of a machine.

    Args:
        clock: the machine's one clock.
        frames: host memory for the areas and the timer events.
        count: how many CPUs.
        machine: whom the frames are owned for: the name of the VM that runs on them; empty for the hypervisor's own.
        capacity: timer events of each CPU.
        ticks_per_sec: what `scheduler_next_event` keeps to.
        image: the bytes of the image's `.percpu`, with which every area begins.
        linear: where the hypervisor sees physical memory; None where HVA is HPA.

    Raises:
        OutOfRangeError: no CPU, no event, or no tick.
        OutOfMemoryError: the host has no frames for it; nothing was taken.
    """

    def __init__(
        self,
        clock: Clock,
        frames: FrameAllocator,
        *,
        count: int = 1,
        machine: str = "",
        capacity: int = CAPACITY,
        ticks_per_sec: int = TICKS_PER_SEC,
        image: bytes = b"",
        linear: LinearMap | None = None,
    ) -> None:
        layout = PerCpuLayout(image)
        heads = TimerFields.declare(layout)
        tick = layout.declare("scheduler_tick", np.uint64)
        self._generation = layout.declare("vmid_generation", np.uint64)
        self.areas = PerCpu(layout, frames, cpus=count, linear=linear, owner=Owner(OwnerKind.PER_CPU, machine))
        self._generations = [self.areas.cell(self._generation, cpu) for cpu in range(count)]
        try:
            self.timers = TimerService(
                clock,
                frames,
                cpus=count,
                capacity=capacity,
                ticks_per_sec=ticks_per_sec,
                heads=[TimerHead(self.areas, heads, cpu) for cpu in range(count)],
                ticks=[self.areas.cell(tick, cpu) for cpu in range(count)],
                owner=Owner(OwnerKind.TIMERS, machine),
            )
        except BaseException:
            self._close_areas()
            raise

    @property
    def clock(self) -> Clock:
        """The machine's one clock."""
        return self.timers.clock

    def generation(self, cpu: int) -> int:
        """The generation of VMIDs for which a CPU dropped its translations last."""
        return int(self.areas.read(self._generation, cpu))

    def enter(self, cpu: int, identifiers: Identifiers) -> bool:
        """A CPU is about to run a guest: whether it must drop everything first, because VMIDs have started again since
        it did so last (`Family.roll_over`). It is noted that it does.

        Args:
            cpu: its number.
            identifiers: the host's VMIDs.
        """
        generation, known = identifiers.generation, self._generations[cpu]
        if known[0] == generation:
            return False
        known[0] = generation
        return True

    def close(self) -> None:
        """Drop all events and give the memory back."""
        self.timers.close()
        self._close_areas()

    def _close_areas(self) -> None:
        for cell in self._generations:
            cell.release()
        self.areas.close()
