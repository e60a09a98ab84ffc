"""The names of the package root."""

from __future__ import annotations

import importlib
import inspect

import pytest

import stage2


def test_every_public_name_is_there_and_listed() -> None:
    for name in stage2.__all__:
        assert getattr(stage2, name) is not None
        assert name in dir(stage2)


def test_the_names_are_the_things_themselves() -> None:
    space = importlib.import_module("stage2.space.address_space")
    tables = importlib.import_module("stage2.tables.pagetable")
    assert stage2.AddressSpace is space.AddressSpace
    assert stage2.PageTable is tables.PageTable
    assert issubclass(importlib.import_module("stage2.errors").ConfigError, stage2.Stage2Error)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="NoSuchName"):
        _ = stage2.NoSuchName  # type: ignore[attr-defined]


MEMBERS = [
    "Access", "AddressSpace", "Batch", "ConfigError", "Edit", "EncodingError", "Fault", "FaultResult", "Format",
    "FrameAllocator", "FrameWindow", "Gpa", "GuestAccessError", "GuestMemory", "GuestTables", "GuestVirtualMemory",
    "Gva", "Host", "Hpa", "Hva", "Inspection", "IsolationError", "IsolationGuard", "MapType", "Mapped", "Mapping",
    "MappingFlags", "MemoryRegion", "MemoryType", "NotMappedError", "Options", "OutOfMemoryError", "OverlapError",
    "OwedInvalidationsWarning", "Owner", "OwnerKind", "OwnerMap", "PageTable", "PhysicalMemory", "Populate",
    "Processor", "Proof", "Range", "Regime", "Resolution", "ReverseMap", "Snapshot", "Stage2Error", "Step", "Theorem",
    "TimeValue", "TimerList", "TwoStageBatch", "ViolationPolicy", "Vm", "VmmTimerEvent", "Walk", "Witness",
    "__version__", "build", "by_name", "cancel_timer", "check_events", "explain_stage", "explain_two_stage",
    "load_images", "load_platform", "load_vm", "open_memory", "read_images", "register_by_name", "register_timer",
    "reverse", "run_all", "scheduler_next_event",
]  # fmt: skip


def test_the_exported_members_are_these_and_dir_shows_no_others() -> None:
    assert sorted(MEMBERS) == sorted(stage2.__all__) == dir(stage2)


def test_every_exported_member_says_what_it_is() -> None:
    for name in stage2.__all__:
        if name != "__version__":
            assert getattr(stage2, name).__doc__, name


def test_settings_are_written_out_so_that_a_wrong_one_is_found_before_anything_runs() -> None:
    signature = inspect.signature(stage2.AddressSpace.create)
    own = inspect.signature(stage2.AddressSpace)
    assert list(signature.parameters.values()) == list(own.parameters.values())


def test_a_page_table_takes_the_name_of_its_format() -> None:
    with stage2.PhysicalMemory([stage2.Range.sized(0x8000_0000, 4 << 20)]) as memory:
        owner = stage2.Owner(stage2.OwnerKind.TABLES, "one")
        table = stage2.PageTable("sv39", stage2.FrameAllocator(memory), owner=owner)
        assert table.format is stage2.by_name("sv39")
