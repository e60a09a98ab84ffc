"""What the reports of x86 faults have in common: how they begin, and the fields of the numbers given."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import OutOfRangeError
from ...flags import Access
from ..describe import FieldValue
from ..record import Field

_ADDRESS = "the address of the access"
DID = {
    Access.READ: "A read",
    Access.WRITE: "A write",
    Access.FETCH: "An instruction fetch",
}


def opening(did: str, gva: int | None, gpa: int | None) -> str:
    """The first sentence: what was attempted, and where it was stopped."""
    where = f" of virtual address {gva:#x}" if gva is not None else ""
    if gpa is None:
        return f"{did}{where} faulted."
    return f"{did}{where} was stopped at guest-physical address {gpa:#x}."


def listed(words: list[str]) -> str:
    """`a, b and c`."""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + f" and {words[-1]}"


def require(given: dict[str, int | None]) -> None:
    """Refuse what is wider than 64 bits.

    Raises:
        OutOfRangeError: which of them is.
    """
    for name, value in given.items():
        if value is not None and (value < 0 or value >> 64):
            raise OutOfRangeError(f"{name} has 64 bits; {value:#x} does not fit")


def fields(given: dict[str, int | None], described: tuple[Field, ...]) -> Iterator[tuple[str, FieldValue]]:
    """Every field of the first number, reserved ones when they are set; the others are addresses."""
    first = next(iter(given))
    for name, value in given.items():
        if value is None:
            continue
        for field in described if name == first else (Field(63, 0, name, _ADDRESS),):
            number = field.extract(value)
            if number or not field.reserved:
                yield name, FieldValue(field.bits, field.name, number, field.explain(number), field.reserved)
