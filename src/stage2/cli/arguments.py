"""Numbers on the command line."""

from __future__ import annotations

import re
from collections.abc import Callable

from ..address import ADDRESS_LIMIT, SIZE_4K
from ..errors import ConfigError

_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+(?:_[0-9a-fA-F]+)*|[0-9a-fA-F]+(?:_[0-9a-fA-F]+)*")
_MAX_LENGTH = 40


def parse_address(option: str, value: str) -> int:
    """An address as people write it: `0x8000_0000`, `2147483648`, `8000f000`: bare digits are decimal, with a letter
    among them hexadecimal.

    Args:
        option: its name, for the error.
        value: what was given.

    Raises:
        ConfigError: it is no number, or has more than 64 bits.
    """
    written = value.strip()
    shown = written if len(written) <= _MAX_LENGTH else written[:_MAX_LENGTH] + "..."
    if len(written) > _MAX_LENGTH or not _NUMBER.fullmatch(written):
        raise ConfigError(f"{option} {shown} is no address: write 0x8000_0000 or 2147483648")
    digits = written.replace("_", "")
    number = int(digits, 10 if digits.isdecimal() else 16)
    if number >= ADDRESS_LIMIT:
        raise ConfigError(f"{option} {shown} has more than 64 bits")
    return number


def parse_span(option: str, value: str) -> tuple[int, int | None]:
    """`ADDRESS:SIZE`, or an address alone, whose size is None.

    Args:
        option, value: as for `parse_address`.

    Raises:
        ConfigError: it is neither, or does not begin and end at a multiple of 4 KiB.
    """
    address, separator, size = value.partition(":")
    if not _NUMBER.fullmatch(address.strip()) or (separator and not _NUMBER.fullmatch(size.strip())):
        raise ConfigError(
            f"{option} {value[:_MAX_LENGTH]}: write ADDRESS:SIZE with both as numbers, such as 0x9000_0000:0x10_0000"
        )
    start = parse_address(option, address)
    length = parse_address(option, size) if separator else None
    if start % SIZE_4K or (length is not None and (length % SIZE_4K or not length)):
        what = "the size is 0" if not length and not start % SIZE_4K else "4 KiB is the least unit of host memory"
        raise ConfigError(f"{option} {value}: {what}: write multiples of 0x1000")
    if length is not None and start + length > ADDRESS_LIMIT:
        raise ConfigError(f"{option} {value} ends beyond 64 bits")
    return start, length


def other_reading(option: str, value: str, known: Callable[[int], bool]) -> str | None:
    """A hint for bare digits that mean something only when read as hexadecimal.

    Args:
        option, value: as for `parse_address`, which took them.
        known: whether something is at an address.
    """
    digits = value.strip().replace("_", "")
    if not digits.isdecimal() or known(int(digits)):
        return None
    meant = int(digits, 16)
    if meant >= ADDRESS_LIMIT or not known(meant):
        return None
    return (
        f"{option} {value.strip()} was read as decimal, {int(digits):#x}, where nothing is declared; {meant:#x} is in "
        f"a region: write 0x{digits} if that was meant"
    )
