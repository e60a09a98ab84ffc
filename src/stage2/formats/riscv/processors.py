"""What a processor makes of the family's tables: controls, widths, and what it refuses."""

from __future__ import annotations

from ...errors import EncodingError
from ...processor import Processor
from ..record import Format
from . import entry

_MODES = {4: ("sv48", 9), 5: ("sv57", 10)}
"""Levels -> the feature that a processor needs for them, and MODE in satp and hgatp."""
_NEEDS = (
    (entry.SVNAPOT, "svnapot", "no Svnapot, so bit 63 of a leaf is reserved"),
    (entry.SVPBMT, "svpbmt", "no Svpbmt, so bits 62:61 of a leaf are reserved"),
    (entry.HLVX, "h", "no hypervisor extension, so no HLVX"),
)
"""Control bits, the feature behind them, and what its absence means."""


def controls(fmt: Format, processor: Processor) -> int:
    """The format's own; hardware that always sets A and D is told so. See `Family.controls`."""
    found = fmt.default_controls
    if not fmt.is_bare and not processor.has("svade") and not processor.has("svadu"):
        found |= entry.HARDWARE_AD
    require(fmt, processor, found)
    return found


def require(fmt: Format, processor: Processor, controls: int) -> None:
    """See `Family.require`."""
    problem = _missing(fmt, processor, controls)
    if problem is not None:
        raise EncodingError(f"{processor.name} has {problem}")


def _missing(fmt: Format, processor: Processor, controls: int) -> str | None:
    """What the processor lacks, or has always."""
    if fmt.is_bare:
        return None
    if fmt.stage == 2 and not processor.has("h"):
        return f"no hypervisor extension, so no {fmt.name}"
    feature, mode = _MODES.get(fmt.levels, ("", 0))
    if feature and not processor.has(feature):
        register, suffix = ("hgatp", "x4") if fmt.stage == 2 else ("satp", "")
        widest = next((name for name in ("sv57", "sv48") if processor.has(name)), "sv39")
        return f"no {fmt.name} ({register}.MODE {mode}); the widest it has is {widest}{suffix}"
    for bits, name, text in _NEEDS:
        if controls & bits == bits and not processor.has(name):
            return text
    if controls & entry.HARDWARE_AD:
        if processor.has("svade") and not processor.has("svadu"):
            return "no Svadu: hardware does not set A and D (Svade)"
    elif not processor.has("svade") and not processor.has("svadu"):
        return "no Svade: hardware always sets A and D"
    return None


def output_bits(fmt: Format, processor: Processor) -> int:
    """See `Family.output_bits`."""
    return min(fmt.output_bits, processor.pa_bits)
