"""One memory with two memory types: S3009."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from ...check.finding import Finding, Severity
from ...flags import MemoryType
from .reach import Held, Layer, Reach, Rows
from .scene import Scene
from .spans import common, together
from .telling import rule, tell

MIXED_TYPES = rule(
    "S3009", Severity.WARNING, "one memory is mapped with two memory types",
    "What one mapping writes the other may not see, and writes can be lost (Arm ARM DDI 0487, B2 \"Mismatched memory "
    'attributes"; Intel SDM Vol. 3A, 13.12.4 "Programming the PAT"). It is a note where both are Normal memory of Arm: '
    "Linux gives devices that do not snoop uncached memory so, and takes care of the caches itself.",
)  # fmt: skip
RULES = (MIXED_TYPES,)
DEVICE, UNCACHED = MemoryType.DEVICE.value, MemoryType.UNCACHED.value
_UNCACHED_NAMES = {UNCACHED, "uncached-minus", "UC", "UC-"}


def class_of(kind: Held) -> str | None:
    """The memory type as far as two mappings may not differ in it; None where nothing decides it."""
    name = kind.memory_type
    if name is None:
        return None
    if name == DEVICE or name.startswith("Device"):
        return DEVICE
    return UNCACHED if name in _UNCACHED_NAMES else name


def check_memory_types(scene: Scene) -> Iterator[Finding]:
    """Every two types that some memory is mapped with, by whomever."""
    found: dict[str, list[tuple[Reach, Rows]]] = {}
    for reach in scene.reaches:
        classes = [_decided(reach, kind) for kind in reach.kinds]
        for word in dict.fromkeys(classes):
            if word is not None:
                found.setdefault(word, []).append((reach, reach.of_kind([other == word for other in classes])))
    spans = {word: together(reach.spans(rows) for reach, rows in ways) for word, ways in found.items()}
    for one, other in combinations(sorted(found), 2):
        both = common(spans[one], spans[other])
        if not len(both):
            continue
        ways = [(reach, rows, word) for word in (one, other) for reach, rows in found[word]]
        normal = DEVICE not in (one, other) and all(kind.family == "arm" for reach, *_ in ways for kind in reach.kinds)
        text = f"the same memory is mapped as {one} and as {other}, {{amount}}"
        severity = Severity.NOTE if normal else None
        yield tell(MIXED_TYPES, scene.source, both, ways, text, severity=severity)


def _decided(reach: Reach, kind: Held) -> str | None:
    """The type that accesses have. Stage 2 alone decides it only where Arm's says Device, which nothing weakens."""
    word = class_of(kind)
    if reach.party.layer is Layer.VM and (kind.family != "arm" or word != DEVICE):
        return None
    return word
