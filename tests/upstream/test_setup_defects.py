"""Defects of upstream's VM setup and device dispatch that must not exist here (inventory 4.5), and cases of 5.7."""

from __future__ import annotations

from pathlib import Path

import pytest
from upstream_bench import HOARD, RAM, RW, RX, R, device, eager, every_format, host, refused, region, space_on

from stage2.address import SIZE_2M, SIZE_4K, Gpa, Gva, Hpa, Range
from stage2.config.document import parse_document
from stage2.config.load import load_platform
from stage2.config.regions import PlannedVm, plan_vm
from stage2.config.vm import read_vm
from stage2.errors import ConfigError, OverlapError, OwnerConflictError
from stage2.flags import RWX, Access, MappingFlags, MapType
from stage2.formats.outcome import FaultKind
from stage2.guest.memory import GuestMemory
from stage2.space.region import ViolationPolicy
from stage2.tables.result import Fault, Mapped
from stage2.vm.devices import Silent
from stage2.vm.exits import Action, MemoryFault
from stage2.vm.host import build
from stage2.vm.vm import Vm

TABLES_AT = Range.sized(0x9000_0000, 2 * SIZE_2M)
"""Memory above RAM, where the allocator takes frames for tables from first."""
TEXT = """\
[base]
id = {id}
name = "{name}"
arch = "riscv64"
[kernel]
entry_point = 0x8000_0000
kernel_load_addr = 0x8000_0000
{location}
memory_regions = [{memory}]
[devices]
passthrough_devices = [{passthrough}]
passthrough_addresses = [{addresses}]
emu_devices = [{emulated}]
{more}
"""


def vm_of(
    id: int = 1,
    name: str = "",
    memory: str = "[0x8000_0000, 0x40_0000, 7, 0]",
    passthrough: str = "",
    addresses: str = "",
    emulated: str = "",
    location: str = "",
    more: str = "",
    folder: Path | None = None,
) -> PlannedVm:
    text = TEXT.format(
        id=id, name=name or f"vm{id}", memory=memory, passthrough=passthrough, addresses=addresses,
        emulated=emulated, location=location, more=more,
    )  # fmt: skip
    return plan_vm(read_vm(parse_document(text, f"vm{id}.toml", folder)))


# --- identical memory ---------------------------------------------------------------------------------------


@every_format
@pytest.mark.parametrize("offset", [0, SIZE_4K, SIZE_2M - SIZE_4K])
def test_identical_memory_that_is_taken_is_an_error_naming_the_holder(fmt: str, offset: int) -> None:
    wanted = region(RAM.start, SIZE_2M, RWX, MapType.MAP_IDENTICAL)
    with host() as frames:
        frames.claim(Range.sized(RAM.start + offset, SIZE_4K), owner=HOARD)
        with space_on(frames, fmt) as space:
            place = Range.sized(RAM.start + offset, SIZE_4K)
            refused(space, OwnerConflictError, lambda: space.map(wanted), match=rf"VM hoard holds \[{place.start:#x}")
            assert not space.contains(RAM.start), "upstream goes on with a hole in the guest's RAM"


@every_format
def test_identical_memory_comes_back_zeroed_for_the_next_vm(fmt: str) -> None:
    wanted = region(RAM.start, SIZE_2M, RWX, MapType.MAP_IDENTICAL)
    with host(RAM, TABLES_AT) as frames:
        for name in ("first", "second"):
            with space_on(frames, fmt, name) as space:
                space.map(wanted)
                assert GuestMemory(space).read(RAM.start, SIZE_2M) == bytes(SIZE_2M)
                GuestMemory(space).write(RAM.start, b"secret" * 1000)
        assert frames.owners.at(RAM.start) is None


@every_format
@pytest.mark.parametrize("flags", [R, RW, RX, RWX])
def test_identical_memory_lies_at_its_own_gpa_with_its_own_flags(fmt: str, flags: MappingFlags) -> None:
    """Upstream's head puts it wherever memory is free, moves the kernel along, and maps everything R|W|X."""
    with host(RAM, TABLES_AT) as frames, space_on(frames, fmt) as space:
        space.map(region(RAM.start + SIZE_2M, SIZE_2M, flags, MapType.MAP_IDENTICAL))
        found = space.query(RAM.start + SIZE_2M + 0x1234)
        assert found is not None
        assert (found.hpa, found.flags) == (RAM.start + SIZE_2M + 0x1234, flags)
        assert space.query(RAM.start) is None


def test_a_vm_with_several_pieces_of_identical_memory_gets_them_all(tmp_path: Path) -> None:
    """Its own tables must not land in a piece whose turn has not come; RAM is nearly full, so they are tempted to."""
    platform = tmp_path / "platform.toml"
    platform.write_text(
        'arch = "riscv64"\nplatform = "p"\n[plat]\nfamily = "p"\nphys-memory-base = 0x8000_0000\n'
        "phys-memory-size = 0x100_0000\n[devices]\nmmio-regions = []\n"
    )
    pieces = "[0x8000_0000, 0x14_9000, 7, 1], [0x8089_a000, 0x13_d000, 7, 1], [0x80ac_9000, 0x30_4000, 7, 2], "
    config = vm_of(memory=pieces + "[0x80dc_e000, 0x20_c000, 7, 2]")
    with build([config], platform=load_platform(platform)) as made:
        for wanted in made.vms[0].space.memory_regions:
            found = made.vms[0].space.query(wanted.end - 1)
            assert found is not None
            assert found.hpa == wanted.end - 1


# --- passed-through devices --------------------------------------------------------------------------------


def test_the_hpa_of_a_device_is_honoured_and_its_last_page_is_mapped() -> None:
    """Upstream's head maps GPA = HPA, and one page of the two that 0x1803 + 0x1000 touches."""
    with build([vm_of(passthrough='["odd", 0x1803, 0x900_0803, 0x1000, 1]')]) as made:
        space = made.vms[0].space
        for gpa in (0x1803, 0x2802):
            found = space.query(gpa)
            assert found is not None
            assert (found.hpa, found.flags) == (gpa - 0x1803 + 0x900_0803, RW | MappingFlags.DEVICE)
        assert space.query(0x3000) is None


def test_an_unaligned_address_list_entry_is_its_page_and_maps_to_itself() -> None:
    """Upstream's planner case (5.7): 0x1803 with 0x20 bytes is the page 0x1000."""
    found = vm_of(addresses="[0x1803, 0x20]").plan.regions[0]
    assert (found.start, found.size, found.hpa, found.map_type) == (0x1000, 0x1000, 0x1000, MapType.MMIO)


def test_only_declared_devices_are_mapped_each_at_its_hpa() -> None:
    """Upstream's planner case (5.7): device 0x2000 -> 0x9000 and nothing else."""
    layout = vm_of(passthrough='["one", 0x2000, 0x9000, 0x1000, 1]').plan
    assert [(r.start, r.size, r.hpa) for r in layout.regions] == [
        (0x2000, 0x1000, 0x9000), (0x8000_0000, 0x40_0000, None)
    ]  # fmt: skip


def test_devices_with_different_deltas_are_not_merged_and_equal_ones_are() -> None:
    """Upstream's planner cases (5.7)."""
    apart = vm_of(passthrough='["a", 0x1000, 0x9000, 0x1000, 1], ["b", 0x2000, 0xb000, 0x1000, 1]').plan
    assert [(r.start, r.size, r.hpa) for r in apart.regions[:2]] == [(0x1000, 0x1000, 0x9000), (0x2000, 0x1000, 0xB000)]
    joined = vm_of(passthrough='["a", 0x1000, 0x9000, 0x2000, 1], ["b", 0x2000, 0xa000, 0x2000, 1]').plan
    assert [(r.start, r.size, r.hpa) for r in joined.regions[:1]] == [(0x1000, 0x3000, 0x9000)]


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"passthrough": '["a", 0x1000, 0x1000, 0, 1]'}, "passthrough_devices"),
        ({"memory": "[0x8000_0000, 0, 7, 0]"}, "memory_regions"),
        ({"memory": "[0x8000_0000, 0x2000, 7, 0], [0x8000_1000, 0x2000, 7, 0]"}, "overlaps"),
        ({"passthrough": '["a", 0x8000_1000, 0x1000, 0x1000, 1]'}, "overlaps"),
        ({"passthrough": '["a", 0x1000, 0x9000, 0x1000, 1], ["b", 0x1000, 0xa000, 0x1000, 1]'}, "GPA 0x1000 would be"),
        ({"passthrough": '["a", 0xffff_ffff_ffff_f000, 0x1000, 0x2000, 1]'}, "passthrough_devices"),
    ],
)
def test_what_cannot_be_laid_out_is_refused_before_a_vm_exists(parts: dict[str, str], says: str) -> None:
    """Upstream validates nothing at the seed; its planner refuses these (5.7)."""
    with pytest.raises(ConfigError, match=says) as caught:
        vm_of(**parts)  # type: ignore[arg-type]  # a test's table
    assert caught.value.line is not None


def test_a_device_inside_a_passed_through_range_is_emulated_and_not_mapped() -> None:
    config = vm_of(
        passthrough='["all", 0x1000_0000, 0x4000_0000, 0x1_0000, 1]',
        emulated='["uart", 0x1000_8000, 0x1000, 1, 2, []]',
        more='[stage2]\ngeneration = "head"',
    )
    with build([config]) as made:
        vm = made.vms[0]
        assert [vm.space.query(0x1000_0000 + page) is None for page in (0x7000, 0x8000, 0x9000)] == [False, True, False]
        assert vm.bus.read(Gpa(0x1000_8005), 1) is not None
        found = vm.space.query(0x1000_9000)
        assert found is not None
        assert found.hpa == 0x4000_9000
        assert made.frames.owners.at(0x4000_8000) is None, "what is not mapped is not held either"


@every_format
def test_removing_one_device_keeps_exactly_the_others(fmt: str) -> None:
    """Upstream's remove_pass_through_device keeps what it was to remove."""
    with host() as frames, space_on(frames, fmt) as space:
        for number in range(3):
            space.map(device(0x1000 * (2 * number + 1), 0x1000, 0x900_0000 + 0x10_0000 * number))
        space.unmap(0x3000, 0x1000)
        assert [(r.start, r.hpa) for r in space.memory_regions] == [(0x1000, 0x900_0000), (0x5000, 0x920_0000)]
        held = [frames.owners.at(0x900_0000 + 0x10_0000 * number) for number in range(3)]
        assert [holder is not None for holder in held] == [True, False, True]


# --- who answers ----------------------------------------------------------------------------------------------


ACTIONS = [
    (ViolationPolicy.STOP, Action.STOP),
    (ViolationPolicy.INJECT, Action.INJECT),
    (ViolationPolicy.DISCARD, Action.DISCARD),
]


def access_at(vm: Vm, gpa: int, access: Access = Access.READ) -> Action:
    fault = Fault(FaultKind.TRANSLATION, 2, 0, gpa, Gva(gpa), access)
    return vm.memory_fault(MemoryFault(0, Gpa(gpa), Gva(gpa), access, 0, fault))[0]


@pytest.mark.parametrize(("policy", "action"), ACTIONS)
def test_an_unanswered_mmio_address_follows_the_policy(policy: ViolationPolicy, action: Action) -> None:
    """Upstream's hypervisor panics at an address that no device has."""
    with host() as frames, space_on(frames, "sv39x4", violation=policy) as space:
        vm = Vm("vm", 1, "riscv64", space)
        space.map(region(0x1000_0000, 0x3000, RW, MapType.EMULATED, name="bus"))
        vm.bus.attach(Range.sized(0x1000_1000, 0x1000), Silent("uart"))
        for access in (Access.READ, Access.WRITE):
            assert access_at(vm, 0x1000_1008, access) is Action.EMULATE
            for gpa in (0x1000_0FFF, 0x1000_2000, 0x2000_0000):
                assert access_at(vm, gpa, access) is action, hex(gpa)
        assert access_at(vm, 0x1000_1008, Access.FETCH) is Action.INJECT


def test_an_emulated_device_without_registers_takes_no_address() -> None:
    """Upstream's planner refuses a length of zero (5.7); files have it for devices that are no registers."""
    layout = vm_of(emulated='["gic", 0x1000_0000, 0, 1, 1, []]', more='[stage2]\ngeneration = "head"').plan
    assert [r.map_type for r in layout.regions] == [MapType.MAP_ALLOC]


def test_an_address_without_a_device_is_answered_by_nobody_and_no_exception() -> None:
    with host() as frames, space_on(frames, "sv39x4") as space:
        vm = Vm("vm", 1, "riscv64", space)
        vm.bus.attach(Range.sized(0x1000, 0x10), Silent("a"))
        vm.bus.attach(Range.sized(0x1010, 0x10), Silent("b"))
        assert [vm.bus.read(Gpa(gpa), 4) for gpa in (0xFFF, 0x1000, 0x101F, 0x1020)] == [None, 0, 0, None]
        assert [vm.bus.write(Gpa(gpa), 4, 1) for gpa in (0xFFF, 0x1000, 0x101F, 0x1020)] == [False, True, True, False]
        with pytest.raises(OverlapError, match=r"device c .* overlaps device b"):
            vm.bus.attach(Range.sized(0x101F, 0x10), Silent("c"))
        assert vm.bus.accesses == {"a": 2, "b": 2}


# --- memory of the host ---------------------------------------------------------------------------------------


def test_memory_is_given_back_in_other_pieces_than_it_was_taken() -> None:
    """Upstream's dealloc_contiguous_frames frees with another layout than it allocated with."""
    with host() as frames:
        start = frames.allocate(SIZE_2M, owner=HOARD)
        frames.free(Range.sized(start + SIZE_2M - SIZE_4K, SIZE_4K), owner=HOARD)
        frames.free(Range.sized(start, 3 * SIZE_4K), owner=HOARD)
        frames.free(Range(start + 3 * SIZE_4K, start + SIZE_2M - SIZE_4K), owner=HOARD)
        assert (frames.used_bytes, list(frames.owners)) == (0, [])
        assert frames.allocate(RAM.size, align=SIZE_4K, owner=HOARD) == RAM.start


@every_format
def test_what_an_entry_points_to_is_an_hpa_and_never_a_host_virtual_address(fmt: str) -> None:
    with host() as frames, space_on(frames, fmt) as space:
        space.map(eager(0, 3 * SIZE_4K))
        for _, hpa, size, _ in space.page_table.rows().tolist():
            assert RAM.covers(Range.sized(hpa, size))
        found = space.translate(0)
        assert isinstance(found, Mapped)
        frames.memory.write(Hpa(found.hpa), b"here")
        assert GuestMemory(space).read(0, 4) == b"here"


# --- VMs side by side -----------------------------------------------------------------------------------------


def test_no_two_vms_have_one_vmid() -> None:
    """A VMID has 14 bits (RISC-V), a VM's id in its file has 32; upstream leaves every VMID 0.

    None is 0: with "enable VPID", VM entry fails with a VPID of 0 (SDM Vol. 3C, 28.2.1.1).
    """
    configs = [vm_of(1), vm_of(0x4001), vm_of(0xFFFF_FFFF), vm_of(0)]
    with build(configs) as made:
        identifiers = [vm.space.regime.identifier for vm in made.vms]
        assert len(set(identifiers)) == len(identifiers)
        assert all(0 < identifier < 1 << 14 for identifier in identifiers)
        assert identifiers[0] == 1, "an id that fits is the VMID"


def test_a_vm_with_id_0_has_cpus_like_any_other() -> None:
    """Upstream takes the id minus one for a CPU's number."""
    with build([vm_of(0)]) as made:
        assert (made.vms[0].id, made.vms[0].cpu_count) == (0, 1)


def test_two_vms_of_one_name_do_not_own_each_others_memory() -> None:
    with build([vm_of(1, "twin"), vm_of(2, "twin")]) as made:
        one, two = made.vms
        one.memory.write(0x8000_0000, b"one")
        found = one.space.query(0x8000_0000)
        assert found is not None
        assert one.space.owner != two.space.owner
        with pytest.raises(OwnerConflictError):
            made.frames.free(Range.sized(found.hpa, SIZE_4K), owner=two.space.owner)
        two.close()
        assert one.memory.read(0x8000_0000, 3) == b"one"


@pytest.mark.parametrize("location", ['image_location = "nowhere"', "image_location = 5"])
def test_an_unknown_image_location_is_an_error_and_a_missing_one_is_none(location: str) -> None:
    """Upstream panics at both."""
    vm_of()
    with pytest.raises(ConfigError, match="image_location"):
        vm_of(location=location)
