"""What a processor makes of the family's tables: controls, widths, and what it refuses."""

from __future__ import annotations

from ...processor import Processor
from ..record import Format


def controls(fmt: Format, processor: Processor) -> int:
    """See `Family.controls`."""
    return fmt.default_controls


def require(fmt: Format, processor: Processor, controls: int) -> None:
    """See `Family.require`."""


def output_bits(fmt: Format, processor: Processor) -> int:
    """See `Family.output_bits`."""
    return min(fmt.output_bits, processor.pa_bits)
