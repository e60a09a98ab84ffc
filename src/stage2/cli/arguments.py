"""Numbers on the command line."""

from __future__ import annotations

import re

from ..address import ADDRESS_LIMIT
from ..errors import ConfigError

_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+(?:_[0-9a-fA-F]+)*|[0-9]+(?:_[0-9]+)*")
_MAX_LENGTH = 40


def parse_address(option: str, value: str) -> int:
    """An address as people write it: `0x8000_0000`, `2147483648`.

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
    number = int(written.replace("_", ""), 16 if written[1:2] in "xX" and len(written) > 1 else 10)
    if number >= ADDRESS_LIMIT:
        raise ConfigError(f"{option} {shown} has more than 64 bits")
    return number
