"""Registers and entries as people paste them: always hexadecimal, with or without 0x."""

from __future__ import annotations

import re

from ..errors import ConfigError, OutOfRangeError

NUMBER = r"0[xX][0-9a-fA-F]+(?:_[0-9a-fA-F]+)*|[0-9a-fA-F]+(?:[_`][0-9a-fA-F]+)*"
_WHOLE = re.compile(NUMBER)
_MAX_LENGTH = 4096
MAX_TEXT = 1 << 20
"""Characters of the longest text that is read."""
_MAX_SHOWN = 40


def shown(text: str) -> str:
    """As much of a text as an error repeats."""
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."


def parse_register(what: str, text: str) -> int:
    """The value of a register or an entry: `0x8000_0000`, `80000000`, `ffff8000`12345678`.

    Args:
        what: whose number it is, for the error.
        text: what was given.

    Raises:
        ConfigError: it is no hexadecimal number.
        OutOfRangeError: it has more than 64 bits.
    """
    written = text.strip()
    if not written:
        raise ConfigError(f"{what} has no value and so is no number: write {what}=0x1f")
    if len(written) > _MAX_LENGTH or not _WHOLE.fullmatch(written):
        raise ConfigError(f"{what} {shown(written)} is no number: registers and entries are hexadecimal, such as 0x1f")
    number = int(re.sub("[_`]", "", written), 16)
    if number >> 64:
        raise OutOfRangeError(f"{what} {shown(written)} has more than 64 bits")
    return number
