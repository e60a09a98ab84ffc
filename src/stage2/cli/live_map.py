"""`--map-interval`: how the memory of running guests fills, drawn again and again."""

from __future__ import annotations

import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from ..address import SIZE_4K
from ..render.plain import about, percent

if TYPE_CHECKING:
    from ..space.region import MemoryRegion
    from ..vm.host import Host
    from ..vm.vm import Vm

CELLS = 64
"""Characters of a region's bar."""
_SHADES = " ░▒▓█"
_NAME = 16


def bar(vm: Vm, region: MemoryRegion, cells: int = CELLS) -> tuple[str, int]:
    """How full each part of a region is, and bytes of it that have host memory.

    Args:
        vm: whose.
        region: a region.
        cells: into how many equal parts it is cut.

    Returns:
        A character for each part, from empty to full; and the bytes.
    """
    filled = [0.0] * cells
    populated = 0
    with vm.space.lock:
        rows = vm.space.page_table.rows(region.start, region.size).tolist()
    width = region.size / cells
    for gpa, _, size, _ in rows:
        start, end = max(gpa, region.start) - region.start, min(gpa + size, region.end) - region.start
        populated += end - start
        for cell in range(int(start / width), min(int((end - 1) / width), cells - 1) + 1):
            filled[cell] += max(0.0, min(end, (cell + 1) * width) - max(start, cell * width))
    # What is there at all shows, however little it is.
    marks = [_SHADES[0 if not one else max(1, round(one / width * (len(_SHADES) - 1)))] for one in filled]
    return "".join(marks), populated


def draw(host: Host, cells: int = CELLS) -> Group:
    """The memory of all VMs of a host, a line for each region that may fill."""
    lines: list[RenderableType] = []
    for vm in host.vms:
        for region in vm.space.memory_regions:
            if not region.map_type.holds_bytes or region.size < cells * SIZE_4K:
                continue
            marks, populated = bar(vm, region, cells)
            name = f"{vm.name} {region.label}"
            share = f"{about(populated)} of {about(region.size)} ({percent(populated, region.size)})"
            lines.append(Text(f"{name:<{_NAME}.{_NAME}} |{marks}| {share}", no_wrap=True, overflow="ellipsis"))
    return Group(*lines)


class LiveMap:
    """Draws the map at an interval while guests run: in place on a terminal, else one picture below the other.

    Args:
        host: whose VMs.
        seconds: the interval.
        console: where to; None for standard error.
    """

    def __init__(self, host: Host, seconds: float, console: Console | None = None) -> None:
        self._host, self._seconds = host, seconds
        self._console = console or Console(stderr=True, highlight=False)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="map", daemon=True)
        self._live = Live(draw(host), console=self._console, auto_refresh=False) if self._console.is_terminal else None
        self._partial = ""

    def write(self, text: str) -> None:
        """Print what guests print above the map, whole lines at once."""
        if self._live is None:
            sys.stdout.write(text)
            return
        *lines, self._partial = (self._partial + text).split("\n")
        for line in lines:
            self._live.console.print(Text(line), soft_wrap=True)

    def _run(self) -> None:
        while not self._over.wait(self._seconds):
            self._show()

    def _show(self) -> None:
        picture = draw(self._host)
        if self._live is None:
            self._console.print(picture)
        else:
            self._live.update(picture, refresh=True)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._show()
        if self._live is not None:
            self._live.stop()
