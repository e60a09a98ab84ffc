"""A hypervisor's memory: build it, run it, see it, prove it.

The names below are imported when they are first used, so that `import stage2` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .errors import Stage2Error
    from .flags import Access, MappingFlags, MapType
    from .hypervisor.current import cancel_timer, check_events, register_timer, scheduler_next_event
    from .hypervisor.time import TimeValue
    from .hypervisor.timers import TimerList, VmmTimerEvent
    from .memory.frames import FrameAllocator
    from .memory.physical import PhysicalMemory
    from .space.address_space import AddressSpace
    from .space.region import MemoryRegion, Populate, ViolationPolicy
    from .tables.pagetable import PageTable

    __version__: str

__all__ = [
    "Access",
    "AddressSpace",
    "FrameAllocator",
    "MapType",
    "MappingFlags",
    "MemoryRegion",
    "PageTable",
    "PhysicalMemory",
    "Populate",
    "Stage2Error",
    "TimeValue",
    "TimerList",
    "ViolationPolicy",
    "VmmTimerEvent",
    "__version__",
    "cancel_timer",
    "check_events",
    "register_timer",
    "scheduler_next_event",
]

_MODULES = {
    "Access": "flags",
    "AddressSpace": "space.address_space",
    "FrameAllocator": "memory.frames",
    "MapType": "flags",
    "MappingFlags": "flags",
    "MemoryRegion": "space.region",
    "PageTable": "tables.pagetable",
    "PhysicalMemory": "memory.physical",
    "Populate": "space.region",
    "Stage2Error": "errors",
    "TimeValue": "hypervisor.time",
    "TimerList": "hypervisor.timers",
    "ViolationPolicy": "space.region",
    "VmmTimerEvent": "hypervisor.timers",
    "cancel_timer": "hypervisor.current",
    "check_events": "hypervisor.current",
    "register_timer": "hypervisor.current",
    "scheduler_next_event": "hypervisor.current",
}


if not TYPE_CHECKING:  # mypy would take every name for an object

    def __getattr__(name: str) -> object:
        if name == "__version__":
            value: object = _version()
        elif name in _MODULES:
            value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    """The installed version; the metadata is read only when somebody asks."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(__name__)
    except PackageNotFoundError:
        return "unknown"
