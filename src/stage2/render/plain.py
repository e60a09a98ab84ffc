"""Text and numbers as people read them. Imports nothing heavy: every error message passes through here."""

from __future__ import annotations

from ..address import KIB

_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def plain(text: str) -> str:
    """`text` as one printable line: what a terminal would obey instead of show is escaped."""
    return "".join(_visible(letter) for letter in " ".join(text.split("\n")))


def _visible(letter: str) -> str:
    # A file name that is no UTF-8 reaches us with surrogates, which cannot be printed either.
    return letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")


def about(size: int) -> str:
    """A size in bytes to three digits: 4096 -> "4 KiB", 60124160 -> "57.3 MiB"."""
    if size < KIB:
        return f"{size} B"
    value, unit = size / KIB, 0
    while value >= 1023.5 and unit + 1 < len(_UNITS):
        value, unit = value / KIB, unit + 1
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    number = f"{value:.{digits}f}"
    return f"{number.rstrip('0').rstrip('.') if digits else number} {_UNITS[unit]}"


def percent(part: int, whole: int) -> str:
    """A share of a whole: "22 %", and "0.4 %" below one."""
    if not whole:
        return "0 %"
    value = 100 * part / whole
    return f"{value:.0f} %" if value >= 1 or not part else f"{value:.1g} %"


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun: "1 table", "14,668 tables"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def span_text(start: int, end: int) -> str:
    """A half-open range: `[0x1000, 0x2000)`."""
    return f"[{start:#x}, {end:#x})"
