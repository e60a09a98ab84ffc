"""Devices that are executable: S3007 and S3008."""

from __future__ import annotations

from collections.abc import Iterator

from ...check.finding import Finding, Severity
from .memory_types import DEVICE, UNCACHED, class_of
from .reach import ANY_EXECUTE
from .scene import Scene
from .spans import without
from .telling import rule, tell

EXECUTABLE_DEVICE = rule(
    "S3007", Severity.ERROR, "memory of a device's type is executable",
    "An Arm CPU may fetch from executable memory speculatively, and reading a device's registers may change what it "
    'does (Arm ARM DDI 0487, "Device memory"; hence execute-never). Uncached memory of x86 is not fetched '
    "speculatively, so there it is a warning: whoever controls the device controls what runs.",
)  # fmt: skip
EXECUTABLE_ELSEWHERE = rule(
    "S3008", Severity.NOTE, "executable memory lies outside the memory that there is",
    "It is a device's, or the source does not have all of the machine's memory.",
)  # fmt: skip
RULES = (EXECUTABLE_DEVICE, EXECUTABLE_ELSEWHERE)


def check_executable_devices(scene: Scene) -> Iterator[Finding]:
    """Of everybody: by the memory type, and by where it leads."""
    for reach in scene.reaches:
        executable = reach.allowing(ANY_EXECUTE)
        classes = [class_of(kind) for kind in reach.kinds]
        devices = executable & reach.of_kind([found in (DEVICE, UNCACHED) for found in classes])
        arm = any(kind.family == "arm" for kind in reach.kinds)
        if arm:  # Non-cacheable memory is Normal memory there
            devices = executable & reach.of_kind([found == DEVICE for found in classes])
        spans = reach.spans(devices)
        if len(spans):
            text = f"{reach.party.name} may execute {{amount}} of a device's memory type"
            severity = Severity.ERROR if arm else Severity.WARNING
            fix = "make it execute-never"
            yield tell(EXECUTABLE_DEVICE, scene.source, spans, [(reach, devices, "")], text, severity=severity, fix=fix)
        outside = without(without(reach.spans(executable), scene.memory), spans)
        if len(outside):
            text = f"{reach.party.name} may execute {{amount}} outside the memory of {scene.source.name}"
            yield tell(EXECUTABLE_ELSEWHERE, scene.source, outside, [(reach, executable, "")], text)
