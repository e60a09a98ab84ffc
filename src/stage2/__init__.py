"""A hypervisor's memory: build it, run it, see it, prove it.

The names below are imported when they are first used, so that `import stage2` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .address import Gpa, Gva, Hpa, Hva, Range
    from .config.load import load_platform, load_vm
    from .engines.run import run_all
    from .errors import (
        ConfigError,
        EncodingError,
        GuestAccessError,
        IsolationError,
        NotMappedError,
        OutOfMemoryError,
        OverlapError,
        OwedInvalidationsWarning,
        Stage2Error,
    )
    from .flags import Access, MappingFlags, MapType, MemoryType
    from .formats import by_name, register_by_name
    from .formats.record import Format
    from .guest.memory import GuestMemory
    from .guest.tables import GuestTables
    from .guest.virtual import GuestVirtualMemory
    from .hypervisor.current import cancel_timer, check_events, register_timer, scheduler_next_event
    from .hypervisor.time import TimeValue
    from .hypervisor.timers import TimerList, VmmTimerEvent
    from .inspect.inspection import Inspection, open_memory
    from .memory.frames import FrameAllocator
    from .memory.owners import Owner, OwnerKind, OwnerMap
    from .memory.physical import PhysicalMemory
    from .memory.window import FrameWindow
    from .processor import Processor
    from .prove.theorem import Proof, Theorem, Witness
    from .space.address_space import AddressSpace
    from .space.faults import FaultResult, Resolution
    from .space.region import MemoryRegion, Populate, ViolationPolicy
    from .space.reverse import ReverseMap, reverse
    from .tables.batch import Batch, TwoStageBatch
    from .tables.explain import Step, Walk, explain_stage, explain_two_stage
    from .tables.mapping import Edit, Mapping
    from .tables.pagetable import PageTable
    from .tables.regime import Regime
    from .tables.result import Fault, Mapped
    from .vm.boot import load_images
    from .vm.host import Host, Options, build
    from .vm.images import read_images
    from .vm.paranoid import IsolationGuard
    from .vm.snapshots.snapshot import Snapshot
    from .vm.vm import Vm

    __version__: str

__all__ = [
    "Access",
    "AddressSpace",
    "Batch",
    "ConfigError",
    "Edit",
    "EncodingError",
    "Fault",
    "FaultResult",
    "Format",
    "FrameAllocator",
    "FrameWindow",
    "Gpa",
    "GuestAccessError",
    "GuestMemory",
    "GuestTables",
    "GuestVirtualMemory",
    "Gva",
    "Host",
    "Hpa",
    "Hva",
    "Inspection",
    "IsolationError",
    "IsolationGuard",
    "MapType",
    "Mapped",
    "Mapping",
    "MappingFlags",
    "MemoryRegion",
    "MemoryType",
    "NotMappedError",
    "Options",
    "OutOfMemoryError",
    "OverlapError",
    "OwedInvalidationsWarning",
    "Owner",
    "OwnerKind",
    "OwnerMap",
    "PageTable",
    "PhysicalMemory",
    "Populate",
    "Processor",
    "Proof",
    "Range",
    "Regime",
    "Resolution",
    "ReverseMap",
    "Snapshot",
    "Stage2Error",
    "Step",
    "Theorem",
    "TimeValue",
    "TimerList",
    "TwoStageBatch",
    "ViolationPolicy",
    "Vm",
    "VmmTimerEvent",
    "Walk",
    "Witness",
    "__version__",
    "build",
    "by_name",
    "cancel_timer",
    "check_events",
    "explain_stage",
    "explain_two_stage",
    "load_images",
    "load_platform",
    "load_vm",
    "open_memory",
    "read_images",
    "register_by_name",
    "register_timer",
    "reverse",
    "run_all",
    "scheduler_next_event",
]

_MODULES = {
    "Access": "flags",
    "AddressSpace": "space.address_space",
    "Batch": "tables.batch",
    "ConfigError": "errors",
    "Edit": "tables.mapping",
    "EncodingError": "errors",
    "Fault": "tables.result",
    "FaultResult": "space.faults",
    "Format": "formats.record",
    "FrameAllocator": "memory.frames",
    "FrameWindow": "memory.window",
    "Gpa": "address",
    "GuestAccessError": "errors",
    "GuestMemory": "guest.memory",
    "GuestTables": "guest.tables",
    "GuestVirtualMemory": "guest.virtual",
    "Gva": "address",
    "Host": "vm.host",
    "Hpa": "address",
    "Hva": "address",
    "Inspection": "inspect.inspection",
    "IsolationError": "errors",
    "IsolationGuard": "vm.paranoid",
    "MapType": "flags",
    "Mapped": "tables.result",
    "Mapping": "tables.mapping",
    "MappingFlags": "flags",
    "MemoryRegion": "space.region",
    "MemoryType": "flags",
    "NotMappedError": "errors",
    "Options": "vm.host",
    "OutOfMemoryError": "errors",
    "OverlapError": "errors",
    "OwedInvalidationsWarning": "errors",
    "Owner": "memory.owners",
    "OwnerKind": "memory.owners",
    "OwnerMap": "memory.owners",
    "PageTable": "tables.pagetable",
    "PhysicalMemory": "memory.physical",
    "Populate": "space.region",
    "Processor": "processor",
    "Proof": "prove.theorem",
    "Range": "address",
    "Regime": "tables.regime",
    "Resolution": "space.faults",
    "ReverseMap": "space.reverse",
    "Snapshot": "vm.snapshots.snapshot",
    "Stage2Error": "errors",
    "Step": "tables.explain",
    "Theorem": "prove.theorem",
    "TimeValue": "hypervisor.time",
    "TimerList": "hypervisor.timers",
    "TwoStageBatch": "tables.batch",
    "ViolationPolicy": "space.region",
    "Vm": "vm.vm",
    "VmmTimerEvent": "hypervisor.timers",
    "Walk": "tables.explain",
    "Witness": "prove.theorem",
    "build": "vm.host",
    "by_name": "formats",
    "cancel_timer": "hypervisor.current",
    "check_events": "hypervisor.current",
    "explain_stage": "tables.explain",
    "explain_two_stage": "tables.explain",
    "load_images": "vm.boot",
    "load_platform": "config.load",
    "load_vm": "config.load",
    "open_memory": "inspect.inspection",
    "read_images": "vm.images",
    "register_by_name": "formats",
    "register_timer": "hypervisor.current",
    "reverse": "space.reverse",
    "run_all": "engines.run",
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
    return sorted(__all__)


def _version() -> str:
    """The installed version; the metadata is read only when somebody asks."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(__name__)
    except PackageNotFoundError:
        return "unknown"
