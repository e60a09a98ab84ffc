"""What readers and planners of VM files noticed, as findings of the rules below."""

from __future__ import annotations

from collections.abc import Iterator

from ..config.document import NO_TREE
from ..config.vm import UNDECIDED
from .finding import Finding, FixIt, Rule, Severity, found_at
from .setup import Setup

NOTICE = Rule(
    "S2901", Severity.NOTE, "a VM file says something that may not be meant",
    "AxVisor skips it, reads it otherwise than it looks, or does more than the file says.",
)  # fmt: skip
CPU_LIST = Rule(
    "S2801", Severity.WARNING, "a list of host CPUs has another length than the VM has vCPUs",
    "AxVisor goes by position: vCPUs without an entry keep a default, entries without a vCPU are ignored.",
)  # fmt: skip
TWO_DRIVERS = Rule(
    "S2608", Severity.WARNING, "one device is given to two VMs",
    "Both drivers program it, and each undoes what the other set up.",
)  # fmt: skip
PART_PAGE = Rule(
    "S2609", Severity.NOTE, "a device is smaller than the pages that are mapped for it",
    "The guest reaches whatever else is in them; the host's device tree (--host-dtb) tells what that is.",
)  # fmt: skip
TWO_TYPES = Rule(
    "S2512", Severity.WARNING, "one HPA is mapped with two memory types",
    "What is written through the cache is not what is read around it: the guest loses data, or the CPU stops with a "
    "machine check.",
)  # fmt: skip
WHOLE_WINDOW = Rule(
    "S2613", Severity.WARNING, "a passthrough guest reaches all of the host's memory",
    "AxVisor maps every address that nothing else claims one to one for guest_type \"passthrough\": the guest reads "
    "and writes the hypervisor and other VMs. It is a guest to be trusted, or one for guest_type \"virtualized\".",
)  # fmt: skip
TRAP_INSIDE = Rule(
    "S2615", Severity.NOTE, "a device that the hypervisor plays lies within a passed-through range",
    "Its pages trap here. AxVisor of the seed and of head maps the whole range over it: the guest reaches the real "
    "registers, and the device that is played is never asked.",
)  # fmt: skip
NO_NODE = Rule(
    "S2731", Severity.ERROR, "the host's device tree has no such node",
    "AxVisor finds nothing to pass through: the device is missing in the guest, or the VM is refused.",
)  # fmt: skip
NO_REGISTERS = Rule(
    "S2732", Severity.NOTE, "a node that a VM is given has no registers",
    "Nothing is mapped for it.",
)  # fmt: skip
UNRESOLVED = Rule(
    "S2733", Severity.NOTE, "a VM is given what only the host's device tree knows, and it is not at hand",
    "What it comes with cannot be checked: give the tree with --host-dtb.",
)  # fmt: skip
UNUSED_FLAGS = Rule(
    "S2902", Severity.NOTE, "flags of RAM that are not used since head",
    "The region is mapped readable, writable and executable, whatever they say.",
)  # fmt: skip
DEVICE_FLAG = Rule(
    "S2903", Severity.WARNING, "a memory region that AxVisor leaves out",
    "The device bit in the flags makes it no RAM: AxVisor skips it with a warning, and the guest faults there.",
)  # fmt: skip
PORTS = Rule(
    "S2904", Severity.NOTE, "an emulated device on I/O ports",
    "No guest physical memory traps for it.",
)  # fmt: skip
LENGTH_0 = Rule(
    "S2905", Severity.NOTE, "an emulated device of length 0",
    "No access reaches it.",
)  # fmt: skip
DEVICE_TYPE = Rule(
    "S2906", Severity.WARNING, "the number of a device's type means another device in another generation",
    "AxVisor of the other generation plays a different device, or refuses the VM.",
)  # fmt: skip
UNUSED_KEY = Rule(
    "S2907", Severity.NOTE, "a key of another generation",
    "AxVisor of this generation skips it, or refuses the file.",
)  # fmt: skip
DEVICE_ADDRESS = Rule(
    "S2926", Severity.WARNING, "an address of a platform's device does not fit the rest of the file",
    "The hypervisor's own page tables map what mmio-regions say: its driver faults at the first access, or drives "
    "another device.",
)  # fmt: skip
VM_TYPE = Rule(
    "S2908", Severity.NOTE, "an unknown vm_type",
    "AxVisor takes it for a real-time system.",
)  # fmt: skip
_KINDS = {
    "": NOTICE,
    "cpu-list": CPU_LIST,
    "two-drivers": TWO_DRIVERS,
    "part-page": PART_PAGE,
    "two-ways": TWO_TYPES,
    "whole-window": WHOLE_WINDOW,
    "trap-inside": TRAP_INSIDE,
    "no-node": NO_NODE,
    "no-registers": NO_REGISTERS,
    NO_TREE: UNRESOLVED,
    "unused-flags": UNUSED_FLAGS,
    "device-flag": DEVICE_FLAG,
    "ports": PORTS,
    "length-0": LENGTH_0,
    "device-type": DEVICE_TYPE,
    "unused-key": UNUSED_KEY,
    "device-address": DEVICE_ADDRESS,
    "vm-type": VM_TYPE,
}
RULES = tuple(_KINDS.values())


def check_notices(setup: Setup) -> Iterator[Finding]:
    """Every notice of the readers and planners."""
    planned = {vm.file: vm for vm in setup.vms}
    notices = [notice for file in setup.files for notice in planned.get(file.file, file).notices]
    notices += setup.together
    if setup.other is not None:  # S2909 tells what it comes to
        notices = [notice for notice in notices if notice.kind != UNDECIDED]
    if setup.tree is not None:  # what else is in such pages is known then, and told by S2604
        notices = [notice for notice in notices if notice.kind != "part-page"]
    for notice in (*notices, *(setup.platform.notices if setup.platform is not None else ())):
        key = f"{notice.place.key}: " if notice.place.key else ""
        yield found_at(
            _KINDS.get(notice.kind, NOTICE), f"{key}{notice.text}", notice.place, edit=FixIt.of(notice.rewrite)
        )
