"""Which addresses a table can be asked about, and which it can answer: widths, alignment, sign extension."""

from __future__ import annotations

from contextlib import suppress

from ..address import ADDRESS_LIMIT, Range, require_aligned
from ..errors import EncodingError, OutOfRangeError
from ..flags import RWX
from ..formats.outcome import LEAF
from ..formats.record import Format


class Extent:
    """The input and output addresses of a format under given controls.

    Args:
        fmt: the format.
        controls: may narrow the output (x86 MAXPHYADDR), and take large leaves away (x86 without pages of 1 GiB).
    """

    def __init__(self, fmt: Format, controls: int) -> None:
        self._format = fmt
        self._page_mask = fmt.page_size - 1
        width = 1 << fmt.input_bits
        self._low_end = 0 if fmt.high_half else width >> 1 if fmt.sign_extended else width
        self._high_start = ADDRESS_LIMIT - (self._low_end or width)
        self.has_sign = fmt.high_half or fmt.sign_extended
        """Whether addresses are other numbers without sign extension, as kernels take them."""
        self.output_end = _output_end(fmt, controls)
        """One past the largest address that a leaf can hold."""
        self.leaf_sizes = fmt.leaf_sizes[: _top_leaf_level(fmt, controls) + 1]
        """Size in bytes of the leaf at each level that may hold one."""

    def level_of(self, size: int) -> int:
        """The level whose leaves have `size` bytes.

        Raises:
            OutOfRangeError: the format, or the processor, has no such leaf.
        """
        if size not in self.leaf_sizes:
            sizes = ", ".join(f"{leaf:#x}" for leaf in self.leaf_sizes)
            whose = f"this processor's {self._format.name}" if size in self._format.leaf_sizes else self._format.name
            raise OutOfRangeError(f"{whose} has no leaf of {size:#x} bytes; it has {sizes}")
        return self.leaf_sizes.index(size)

    def range(self, start: int, size: int) -> tuple[int, int]:
        """(start, end) as the kernels take a range: without the sign extension that the format demands.

        Raises:
            MisalignedError, OutOfRangeError: it is no whole pages, or wider than the format.
        """
        fmt, end = self._format, start + size
        if 0 <= start < end <= self._low_end and not (start | size) & self._page_mask:
            return start, end
        span = Range.sized(start, size)
        require_aligned("address", start, fmt.page_size)
        require_aligned("size", size, fmt.page_size)
        if self.has_sign and start >= self._high_start:
            inside = (1 << fmt.input_bits) - 1
            return start & inside, (end - 1 & inside) + 1
        raise OutOfRangeError(f"{span} is beyond the {fmt.input_bits}-bit addresses of {fmt.name}")


def _output_end(fmt: Format, controls: int) -> int:
    """One past the largest address that a leaf can hold; a control may narrow it (x86 MAXPHYADDR, SEV's C-bit)."""
    bits = fmt.output_bits
    while bits > fmt.page_shift:
        address = 1 << (bits - 1)
        leaf = fmt.leaf_entry(0, address, RWX, controls=controls)
        if fmt.decode(leaf, 0, controls)[:2] == (LEAF, address):
            break
        bits -= 1
    return 1 << bits


def _top_leaf_level(fmt: Format, controls: int) -> int:
    """The highest level that may hold a leaf."""
    for level in range(fmt.top_leaf_level, 0, -1):
        with suppress(EncodingError):
            fmt.leaf_entry(level, 0, RWX, controls=controls)
            return level
    return 0
