"""What an x86-64 processor makes of the family's tables: controls, widths, and what it refuses."""

from __future__ import annotations

from ...errors import EncodingError
from ...processor import Processor
from ...processor.x86 import AMD, INTEL
from ..record import Format
from . import ept, longmode
from .kinds import is_ept, is_nested

_WIDTH = 0xFF


def controls(fmt: Format, processor: Processor) -> int:
    """See `Family.controls`. MAXPHYADDR is what the C-bit leaves of it."""
    _require_tables(fmt, processor)
    found = fmt.default_controls & ~(_WIDTH << longmode.MAXPHYADDR_SHIFT)
    found |= output_bits(fmt, processor) << longmode.MAXPHYADDR_SHIFT
    if is_ept(fmt):
        if not processor.has("ept-execute-only"):
            found &= ~ept.EXECUTE_ONLY
        return found if processor.has("ept-gib-pages") else found | ept.NO_GIB
    if not processor.has("nx"):
        found &= ~longmode.NXE
    if processor.vendor == AMD:
        found |= longmode.AMD
    if not processor.has("gib-pages"):
        found |= longmode.NO_GIB
    return found | processor.numbers["c-bit"] << longmode.C_BIT_SHIFT


def require(fmt: Format, processor: Processor, controls: int) -> None:
    """See `Family.require`."""
    _require_tables(fmt, processor)
    width = controls >> longmode.MAXPHYADDR_SHIFT & _WIDTH
    if width > output_bits(fmt, processor):
        raise EncodingError(
            f"{processor.name} has physical addresses of {output_bits(fmt, processor)} bits, not {width}"
        )
    if is_ept(fmt):
        asked = {
            "ept-ad": controls & ept.AD_ENABLED,
            "mbec": controls & ept.MODE_BASED_EXECUTE,
            "ept-execute-only": controls & ept.EXECUTE_ONLY,
            "ept-gib-pages": not controls & ept.NO_GIB,
        }
    else:
        asked = {"nx": controls & longmode.NXE, "gib-pages": not controls & longmode.NO_GIB}
    for feature, wanted in asked.items():
        if wanted and not processor.has(feature):
            raise EncodingError(f"{processor.name} lacks {feature}: {processor.parts.features[feature].meaning}")


def output_bits(fmt: Format, processor: Processor) -> int:
    """See `Family.output_bits`. Of the bits above SEV's C-bit none is part of an address."""
    c_bit = 0 if is_ept(fmt) else processor.numbers["c-bit"]
    return min(fmt.output_bits, processor.pa_bits, c_bit or fmt.output_bits)


def _require_tables(fmt: Format, processor: Processor) -> None:
    """Refuse a processor that cannot have tables of this format at all."""
    if is_ept(fmt) and processor.vendor == AMD:
        raise EncodingError(f"{processor.name} is an AMD processor: it has nested paging (npt4, npt5) and no EPT")
    if is_nested(fmt) and processor.vendor == INTEL:
        raise EncodingError(f"{processor.name} is an Intel processor: it has EPT (ept4, ept5) and no nested paging")
    feature = "ept-5level" if is_ept(fmt) else "la57"
    if fmt.levels == 5 and not processor.has(feature):
        raise EncodingError(f"{processor.name} lacks {feature}, which {fmt.name} needs")
