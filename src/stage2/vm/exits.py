"""Why a vCPU left its guest, and what is to happen next: values, not callbacks with side effects."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ..address import Gpa, Gva
from ..flags import Access
from ..tables.result import Fault


@dataclass(frozen=True, slots=True)
class MemoryFault:
    """Stage 2 refused an access.

    Args:
        vcpu: which one.
        gpa: what stage 2 was asked for. Only the page is exact as long as `gva` is not.
        gva: the guest's own address.
        access: what was attempted.
        pc: the guest's program counter.
        fault: kind, stage and level, and whether it was an access to a stage-1 table.
    """

    vcpu: int
    gpa: Gpa
    gva: Gva
    access: Access
    pc: int
    fault: Fault


@dataclass(frozen=True, slots=True)
class MmioRead:
    """The guest reads `width` bytes of an emulated device."""

    vcpu: int
    gpa: Gpa
    width: int
    pc: int


@dataclass(frozen=True, slots=True)
class MmioWrite:
    """The guest writes `width` bytes to an emulated device."""

    vcpu: int
    gpa: Gpa
    width: int
    value: int
    pc: int


@dataclass(frozen=True, slots=True)
class Hypercall:
    """The guest's kernel calls its firmware; arguments are the calling convention's registers in order."""

    vcpu: int
    arguments: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Halt:
    """The vCPU waits for an interrupt."""

    vcpu: int


@dataclass(frozen=True, slots=True)
class Off:
    """The guest is done.

    Args:
        reason: what it asked for: "shutdown", "reboot", or "failure".
    """

    vcpu: int
    reason: str


Exit = MemoryFault | MmioRead | MmioWrite | Hypercall | Halt | Off


class Action(Enum):
    """What is to happen to a refused access."""

    RETRY = "retry"
    """The page is there now: repeat the access."""
    EMULATE = "emulated"
    """Hand it to the device bus."""
    DISCARD = "discarded"
    """A write is dropped, a read returns all ones."""
    INJECT = "injected"
    """The guest gets its architecture's access fault."""
    STOP = "stopped"
    """The guest is stopped."""
