"""Faults as the architectures report them: numbers in, plain sentences out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from ..flags import Access
from .describe import FieldValue
from .outcome import FaultKind


class Refusal(Protocol):
    """What stage 2 says of an access that it refused; `tables.result.Fault` is one."""

    @property
    def kind(self) -> FaultKind:
        """Why."""

    @property
    def level(self) -> int:
        """Level of the entry that ended the walk, counted from 0 = smallest page."""

    @property
    def on_table(self) -> bool:
        """Whether the access was the hardware's own, to a stage-1 table."""

    @property
    def on_mark(self) -> bool:
        """Whether that access was to write an accessed or dirty bit, or counts as a write."""


@dataclass(frozen=True, slots=True)
class FaultReport:
    """What a crash's registers say.

    Args:
        arch: "riscv64", "aarch64" or "x86_64".
        title: the exception in a few words: "data abort from a lower exception level".
        sentences: what happened, in plain sentences, most important first.
        kind: the kind of fault, None for an exception that is no memory fault.
        stage: 1 or 2, None when the registers do not say or it is no memory fault.
        level: counted from 0 = smallest page where the registers say; None otherwise.
        access: what was attempted, None when unknown.
        user: whether from user mode, None when unknown.
        gva, gpa: the addresses, None when unknown or not valid.
        on_table: stage 2 refused an access to a stage-1 table.
        fields: every field of every register given, with its meaning, reserved bits flagged.
        manual: the section that defines the layout.
    """

    arch: str
    title: str
    sentences: tuple[str, ...]
    kind: FaultKind | None = None
    stage: int | None = None
    level: int | None = None
    access: Access | None = None
    user: bool | None = None
    gva: int | None = None
    gpa: int | None = None
    on_table: bool = False
    fields: tuple[tuple[str, FieldValue], ...] = field(default=())
    manual: str = ""
