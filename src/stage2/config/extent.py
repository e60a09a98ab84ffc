"""What a stretch of memory in a file must be like before anything is done with it."""

from __future__ import annotations

from ..address import SIZE_4K, align_offset
from ..errors import ConfigError, EncodingError
from ..flags import MappingFlags
from ..place import Place, Rewrite
from .document import Item

GPA_LIMIT = 1 << 59
"""One past the largest GPA any format reaches: Sv57x4 has 59 bits (RISC-V Privileged Architecture, "Two-Stage
Address Translation"); EPT, NPT and Arm's stage 2 have at most 52."""
HPA_LIMIT = 1 << 56
"""One past the largest HPA any format reaches: 56 bits on RISC-V, 52 elsewhere."""

_FLAG_LETTERS = {flag.short.strip("-"): flag for flag in MappingFlags}


def read_pages(start: Item, size: Item, *, hpa: bool = False) -> tuple[int, int]:
    """The first address and the size of whole pages.

    Args:
        start: item with the first address.
        size: item with the size in bytes.
        hpa: the addresses must also be possible as HPA.

    Raises:
        ConfigError: size 0, a misaligned value, or an end beyond what any format can translate.
    """
    first, length = read_bytes(start, size, hpa=hpa)
    require_pages(start, first)
    require_pages(size, length)
    return first, length


def read_bytes(start: Item, size: Item, *, hpa: bool = False) -> tuple[int, int]:
    """As `read_pages`, for a range that need not be whole pages (the registers of a device)."""
    first, length = start.integer(), size.integer()
    if length == 0:
        raise size.error(f"size 0 is no memory: give a multiple of {SIZE_4K:#x} above 0")
    require_below(start if first >= GPA_LIMIT else size, first, length, HPA_LIMIT if hpa else GPA_LIMIT)
    return first, length


def require_pages(item: Item, value: int) -> None:
    """Raise ConfigError unless `value` is a multiple of 4 KiB."""
    if align_offset(value, SIZE_4K):
        raise item.error(f"{value:#x} is not a multiple of the page size {SIZE_4K:#x}")


def require_below(item: Item, start: int, size: int, limit: int) -> None:
    """Raise ConfigError unless [start, start+size) ends at or below `limit`."""
    require_below_place(item.place, start, size, limit)


def require_below_place(place: Place, start: int, size: int, limit: int) -> None:
    """As `require_below`, for a range that is not the value of one item."""
    if start + size <= limit:
        return
    if start + size > 1 << 64:
        reason = "leaves the 64-bit address space"
    else:
        kind = "guest physical" if limit == GPA_LIMIT else "host physical"
        reason = f"goes beyond {limit:#x}, the widest {kind} address space of any format"
    raise place.error(f"[{start:#x}, {start + size:#x}) {reason}")


def read_flags(item: Item) -> MappingFlags:
    """Mapping flags, as upstream's number or as letters of `rwxudn` (read, write, execute, user, device, uncached).

    Raises:
        ConfigError: a bit or a letter that means nothing, or permissions no format has.
    """
    if isinstance(item.value, str):
        flags = MappingFlags(0)
        for letter in item.text().replace("-", ""):
            if letter not in _FLAG_LETTERS:
                raise item.wanted('letters of "rwxudn" (read, write, execute, user, device, uncached) or a number')
            flags |= _FLAG_LETTERS[letter]
    else:
        try:
            flags = MappingFlags.from_bits(item.integer())
        except EncodingError as error:
            raise item.error(str(error)) from None
    if not flags.permissions:
        raise item.error(f"flags {int(flags):#x} allow neither read, write nor execute")
    if flags & MappingFlags.WRITE and not flags & MappingFlags.READ:
        raise item.error(f"flags {int(flags):#x} allow write without read, which no format can express")
    return flags


def without_flags(item: Item, flags: MappingFlags) -> Rewrite:
    """Flags that `read_flags` has read, written as they were but for some of them."""
    if isinstance(item.value, str):
        kept = "".join(letter for letter in item.value if not _FLAG_LETTERS.get(letter, MappingFlags(0)) & flags)
        return Rewrite(item.place, f'"{kept}"')
    return Rewrite(item.place, f"{item.integer() & ~int(flags):#x}")


def wrapped(place: Place, error: Exception) -> ConfigError:
    """An error of another room, told with the place it comes from."""
    return place.error(str(error))
