"""Guests that reach each other, or the hypervisor's code: S3011 to S3013 and S3018.

These are the theorems `apart` and `owned` of `prove`, asked of tables whose owners are inferred.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from ...check.finding import Finding, Severity
from ...formats.outcome import ALL_PERMISSIONS, EXECUTE
from ...prove.packing import U64Array
from ..source import MemorySource
from .memory_types import DEVICE, class_of
from .reach import ANY_READ, ANY_WRITE, Layer, Reach
from .scene import Scene
from .spans import common, size_of, together, without
from .telling import places, rule, tell

SHARED_MEMORY = rule(
    "S3011", Severity.ERROR, "two VMs reach the same memory",
    "What one guest writes the other reads. Shares that were meant to be (grants of Xen, memory for inter-VM devices) "
    "look the same in the tables. It is a warning where both only read, as after merging of equal pages, and a note "
    "where what they read is zeros, as hosts give it for memory that no guest wrote yet.",
)  # fmt: skip
SHARED_DEVICE = rule(
    "S3012", Severity.WARNING, "two VMs reach the same device",
    "What one guest tells the device the other meets. Arm's virtual CPU interface (GICV) is meant to be so: each CPU "
    "has its own behind one address.",
)  # fmt: skip
HYPERVISOR_CODE = rule(
    "S3013", Severity.ERROR, "a guest reaches code of the hypervisor",
    "Who writes it runs with the hypervisor's rights; where a guest only reads it, it is a warning. The hypervisor's "
    "code is what its tables, or the host's, let supervisor mode execute.",
)  # fmt: skip
SAME_VIEW = rule(
    "S3018", Severity.WARNING, "two roots of a stage 2 map the same",
    "They are taken for two views of one VM, as hypervisors keep them for system management mode or for introspection. "
    "If they are two VMs, these are not apart at all.",
)  # fmt: skip
RULES = (SHARED_MEMORY, SHARED_DEVICE, HYPERVISOR_CODE, SAME_VIEW)
_MOST_COMPARED = 1 << 21
"""Limit: bytes that are read to see whether they are zeros."""


def check_guests_apart(scene: Scene) -> Iterator[Finding]:
    """Every two VMs, and every VM beside the hypervisor."""
    vms = scene.of_layer(Layer.VM)
    reached = [reach.spans(reach.allowing(ALL_PERMISSIONS)) for reach in vms]
    written = [reach.spans(reach.allowing(ANY_WRITE)) for reach in vms]
    for one, other in combinations(range(len(vms)), 2):
        both = common(reached[one], reached[other])
        if len(both):
            writes = together((written[one], written[other]))
            yield from _shared(scene, (vms[one], vms[other]), both, writes)
    yield from _code(scene, vms)
    for first, second in scene.same:
        text = f"{first.name} and {second.name} lead most of their addresses to the same memory"
        yield Finding(SAME_VIEW, text, locations=places(scene.source, [first, second]))


def _shared(scene: Scene, pair: tuple[Reach, Reach], both: U64Array, writes: U64Array) -> Iterator[Finding]:
    names = f"{pair[0].party.name} and {pair[1].party.name}"
    ways = [(reach, reach.allowing(ALL_PERMISSIONS), "") for reach in pair]
    typed = (reach.of_kind([class_of(kind) == DEVICE for kind in reach.kinds]) for reach in pair)
    devices = together(reach.spans(rows) for reach, rows in zip(pair, typed, strict=True))
    registers = common(both, devices)
    if len(registers):
        yield tell(SHARED_DEVICE, scene.source, registers, ways, f"{names} both reach {{amount}} of devices")
    memory = without(both, devices)
    changed = common(memory, writes)
    if len(changed):
        text = f"{names} both reach {{amount}}, and one of them may write there"
        fix = "give each VM memory of its own"
        yield tell(SHARED_MEMORY, scene.source, changed, ways, text, fix=fix)
    seen = without(memory, writes)
    if len(seen):
        zeros = _is_zeros(scene.source, seen)
        text = f"{names} both read {{amount}}" + (", all zeros" if zeros else "")
        severity = Severity.NOTE if zeros else Severity.WARNING
        yield tell(SHARED_MEMORY, scene.source, seen, ways, text, severity=severity)


def _is_zeros(source: MemorySource, spans: U64Array) -> bool:
    """Whether memory holds nothing but zeros; what cannot be read, or is very much, is taken to hold something."""
    if size_of(spans) > _MOST_COMPARED:
        return False
    for start, end in spans.tolist():
        found = source.bytes_at(start, end - start)
        if found is None or any(found):
            return False
    return True


def _code(scene: Scene, vms: list[Reach]) -> Iterator[Finding]:
    for host in scene.of_layer(Layer.OWN):
        runs = host.of_kind([bool(kind.permissions & EXECUTE) and not kind.user for kind in host.kinds])
        code = host.spans(runs)
        for vm in vms if len(code) else ():
            write, read = vm.allowing(ANY_WRITE), vm.allowing(ANY_READ)
            changed = common(code, vm.spans(write))
            if len(changed):
                ways = [(vm, write, "writable"), (host, runs, "executable")]
                text = f"{vm.party.name} may write {{amount}} that {host.party.name} executes"
                yield tell(HYPERVISOR_CODE, scene.source, changed, ways, text, fix="take it out of the guest's tables")
            seen = without(common(code, vm.spans(read)), changed)
            if len(seen):
                ways = [(vm, read, "readable"), (host, runs, "executable")]
                text = f"{vm.party.name} may read {{amount}} that {host.party.name} executes"
                yield tell(HYPERVISOR_CODE, scene.source, seen, ways, text, severity=Severity.WARNING)
