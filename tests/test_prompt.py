"""What the classes of the public face show at a prompt."""

from __future__ import annotations

import enum
import inspect
from pathlib import Path

import numpy as np
import pytest

import stage2
from stage2.hypervisor.clock import VirtualClock
from stage2.inspect.vm_source import HostSource
from stage2.processor import named
from stage2.prove.theorem import Seat
from stage2.vm.snapshots.machine import MachineState
from stage2.vm.snapshots.pages import Pages
from stage2.vm.snapshots.snapshot import VmState

RAM = 0x8000_0000
VM = f"""
[base]
id = 1
arch = "riscv64"
name = "linux"
vm_type = 1
cpu_num = 1
[kernel]
entry_point = {RAM:#x}
kernel_load_addr = {RAM:#x}
memory_regions = [[{RAM:#x}, 0x20_0000, 7, 0]]
[devices]
"""


def _examples(folder: Path) -> list[object]:
    """One or more of every exported class, with addresses above 2^31 in them where it holds addresses."""
    memory = stage2.PhysicalMemory([stage2.Range.sized(RAM, 16 << 20)])
    frames = stage2.FrameAllocator(memory)
    space = stage2.AddressSpace("sv39x4", frames)
    flags = stage2.MappingFlags(7)
    kind = stage2.MapType.MAP_ALLOC
    region = stage2.MemoryRegion(stage2.Gpa(RAM), 0x20_0000, flags, kind, populate=stage2.Populate.EAGER)
    space.map(region)
    table, guest = space.page_table, stage2.GuestTables(space, "sv39", RAM + 0x10_0000)
    timers = stage2.TimerList(VirtualClock(), frames)
    timers.register_timer(stage2.TimeValue(1 << 40), lambda _now: None)
    (folder / "vm.toml").write_text(VM)
    host = stage2.build([stage2.load_vm(folder / "vm.toml")])
    walk = space.walk(RAM, guest.regime)
    return [
        memory, frames, frames.owners, space, region, space.range, table, table.regime, table.format, guest, timers,
        stage2.FrameWindow(frames, stage2.Range.sized(RAM, 4096)), *timers, stage2.TimeValue(5),
        table.translate(RAM), table.translate(0x1000), table.explain(RAM), table.explain(RAM).steps[0], walk,
        table.mappings()[0], space.query(RAM), space.handle_page_fault(RAM, stage2.Access.READ), stage2.Edit(),
        space.translate_many([RAM, 1]), space.translate_many([[RAM] * 512] * 512), host.vms[0], host, stage2.Options(),
        space.translate_gva_many([RAM] * 100_000, guest.regime), stage2.GuestMemory(space),
        frames.owners.at(table.root), stage2.GuestVirtualMemory(space, guest.regime), stage2.ReverseMap([space]),
        *named("riscv64").values(), stage2.IsolationGuard(host), *_proved(host),
        _snapshot(), stage2.open_memory(HostSource(host)),
    ]  # fmt: skip


def _snapshot() -> stage2.Snapshot:
    gpas, data = np.array([RAM], np.uint64), np.zeros((1, 512), np.uint64)
    machine = MachineState("unicorn", 0, False, None, ())
    state = VmState("linux", "riscv64", "sv39x4", (), np.array([[RAM, 4096]], np.uint64), machine, {}, 0, b"")
    return stage2.Snapshot(state, Pages.of(gpas, data), 1)


def _proved(host: stage2.Host) -> list[object]:
    """A proof that holds, and one that fails with its witness."""
    sound = host.prove()
    seat = Seat("VM linux", RAM)
    witness = stage2.Witness("VM linux reaches what belongs to nobody", seat, RAM, span=stage2.Range.sized(RAM, 4096))
    theorem = stage2.Theorem("owned", "no VM reaches host memory that is not its own", False, witness=witness)
    return [sound, *sound.theorems, stage2.Proof((theorem,)), theorem, witness, seat]


def test_every_exported_class_shows_itself_on_one_short_line_with_addresses_in_hexadecimal(tmp_path: Path) -> None:
    things = _examples(tmp_path)
    texts = [repr(thing) for thing in things]
    assert [text for text in texts if len(text) >= 160 or "\n" in text] == []
    assert [text for text in texts if str(RAM)[:4] in text or " object at 0x" in text] == []
    shown = {type(thing) for thing in things}
    for name in stage2.__all__:
        member = getattr(stage2, name)
        if inspect.isclass(member) and not issubclass(member, (BaseException, enum.Enum, int)):
            assert any(issubclass(kind, member) for kind in shown), f"no example of {name}"


@pytest.mark.parametrize("name", [name for name in stage2.__all__ if inspect.isclass(getattr(stage2, name))])
def test_help_tells_of_the_class_and_not_of_numbers_or_texts(name: str) -> None:
    listed = dir(getattr(stage2, name))
    assert not {"bit_length", "to_bytes", "capitalize", "zfill"} & set(listed)
