"""Registers in words: what a family's control registers hold, field by field."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..errors import OutOfRangeError, Stage2Error
from .record import Field

Summary = Callable[[int], Mapping[str, str]]
"""Value -> facts it amounts to (name -> text): "format" -> "sv39x4", "root" -> "HPA 0x..."."""


Layout = Callable[[int], tuple[Field, ...]]
"""Value -> the fields that a register with this value has."""


def _nothing(_value: int) -> Mapping[str, str]:
    return {}


@dataclass(frozen=True, slots=True)
class Register:
    """One register that takes part in translation.

    Args:
        name: the manual's: `hgatp`, `VTCR_EL2`, `EPTP`.
        title: one line for people.
        arch: "riscv64", "aarch64" or "x86_64".
        fields: every bit that means something; reserved ones marked.
        manual: where it is specified.
        bits: its width.
        summary: what a value amounts to. It raises EncodingError when fields contradict each other.
        aliases: other names people use (`vsatp` for `satp`).
        layout: the fields of a value, where the value decides which there are; `fields` are the usual ones.
    """

    name: str
    title: str
    arch: str
    fields: tuple[Field, ...]
    manual: str
    bits: int = 64
    summary: Summary = _nothing
    aliases: tuple[str, ...] = field(default=())
    layout: Layout | None = None

    def fields_of(self, value: int) -> tuple[Field, ...]:
        """The fields that a value has."""
        return self.fields if self.layout is None else self.layout(value)

    def judge(self, value: int) -> tuple[Mapping[str, str], str | None]:
        """What a value amounts to; of one that the manual does not allow nothing, and why it does not."""
        try:
            return self.summary(value), None
        except Stage2Error as error:
            return {}, str(error).removeprefix(f"{self.name} {value:#x}").removeprefix(self.name).lstrip(": ")

    def require(self, value: int) -> None:
        """Refuse a value that the register cannot hold.

        Raises:
            OutOfRangeError: it is negative or wider than the register.
        """
        if value < 0 or value >> self.bits:
            raise OutOfRangeError(f"{self.name} has {self.bits} bits; {value:#x} does not fit")
