"""What a translation can end in: `Mapped`, or a `Fault` of one kind. A closed set; neither is an exception."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..address import Gpa, Gva, Hpa, format_size
from ..flags import Access, MappingFlags
from ..formats.outcome import USER_SHIFT, FaultKind
from .walk import AT_STAGE_2, KIND_MASK, LEVEL_SHIFT, ON_MARK, ON_TABLE

_FLAGS = tuple(MappingFlags(bits) for bits in range(8))


@dataclass(frozen=True, slots=True)
class Mapped:
    """An address that translates.

    Args:
        hpa: where the byte is.
        permissions: effective permissions of all levels and stages; R, W, X of a privileged access in bits
            0-2, of a user access in bits 3-5.
        size: bytes of the smallest leaf used by any stage.
        gpa: the guest physical address (equals the input when only stage 2 translated).
    """

    hpa: Hpa
    permissions: int
    size: int
    gpa: Gpa

    @property
    def flags(self) -> MappingFlags:
        """What a privileged access may do."""
        return _FLAGS[self.permissions & 7]

    def __str__(self) -> str:
        return f"HPA {self.hpa:#x} {permission_text(self.permissions)} in a {format_size(self.size)} leaf"

    def __repr__(self) -> str:
        return f"Mapped(hpa={self.hpa:#x}, {permission_text(self.permissions)}, size={self.size:#x}, gpa={self.gpa:#x})"


class _Draft:
    """A `Mapped` that is being made: its fields, where they can still be assigned."""

    __slots__ = ("gpa", "hpa", "permissions", "size")

    def __init__(self, hpa: Hpa, permissions: int, size: int, gpa: Gpa) -> None:
        self.hpa, self.permissions, self.size, self.gpa = hpa, permissions, size, gpa


def mapped(hpa: Hpa, permissions: int, size: int, gpa: Gpa) -> Mapped:
    """`Mapped`, made in less than half the time that a frozen record takes to make itself."""
    made: Any = _Draft(hpa, permissions, size, gpa)
    made.__class__ = Mapped
    return made  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Fault:
    """An address that does not translate, or not for this access.

    Args:
        kind: why.
        stage: 1 or 2, the stage that refused.
        level: level of the entry that ended the walk; 0 is the smallest page.
        address: the address that the refusing stage was given: a GVA at stage 1, a GPA at stage 2.
        gva: the address of the whole translation, when stage 1 took part.
        access: what was attempted, None for a mere lookup.
        on_table: stage 2 refused an access to a stage-1 table.
        on_mark: that access was the hardware's write of an accessed or dirty bit, or counts as such a write.
    """

    kind: FaultKind
    stage: int
    level: int
    address: int
    gva: Gva | None = None
    access: Access | None = None
    on_table: bool = False
    on_mark: bool = False

    @property
    def gpa(self) -> Gpa | None:
        """The GPA that stage 2 refused, None for a stage-1 fault."""
        return Gpa(self.address) if self.stage == 2 else None

    def __str__(self) -> str:
        return self.told("GVA")

    def what(self, level: str = "") -> str:
        """Which fault it is, without the address: `translation fault at stage 2, level 0`.

        Args:
            level: the level in words; its number, if empty.
        """
        at = level or f"level {self.level}"
        return f"{self.kind.name.lower().replace('_', ' ')} fault at stage {self.stage}, {at}"

    def told(self, kind: str, level: str = "") -> str:
        """The fault in words.

        Args:
            kind: what an address of stage 1 is: `GVA`, or `HVA` where a hypervisor's own tables are walked.
            level: the level in words; its number, if empty.
        """
        what = self.what(level)
        where = f"{'GPA' if self.stage == 2 else kind} {self.address:#x}"
        if self.on_mark:
            cause = " (writing an accessed or dirty bit of a stage-1 table)"
        elif self.on_table:
            cause = " (reading a stage-1 table)"
        else:
            cause = f" ({self.access.name.lower()})" if self.access is not None else ""
        return f"{what}: {where}{cause}: {self.kind.meaning}"

    def __repr__(self) -> str:
        return f"Fault({self})"


def fault_from_status(
    status: int, address: int, *, stage: int, gva: Gva | None = None, access: Access | None = None
) -> Fault:
    """The Fault that a walk's status number stands for.

    Args:
        status: not 0; see `tables.walk`.
        address: what the walk reported as refused, or its input.
        stage: the stage of the walk; a status with AT_STAGE_2 overrides it.
    """
    return Fault(
        kind=FaultKind(status & KIND_MASK),
        stage=2 if status & AT_STAGE_2 else stage,
        level=(status >> LEVEL_SHIFT) & 0xFF,
        address=address,
        gva=gva,
        access=access,
        on_table=bool(status & ON_TABLE),
        on_mark=bool(status & ON_MARK),
    )


def need_mask(access: Access | None, *, user: bool = False) -> int:
    """The effective-permission bit an access needs; 0 for a mere lookup."""
    if access is None:
        return 0
    return 1 << (access + (USER_SHIFT if user else 0))


def permission_text(permissions: int) -> str:
    """`rwx` when user and privileged accesses may do the same, else `rwx/r-x` (privileged/user)."""
    privileged = _letters(permissions & 7)
    user = _letters(permissions >> USER_SHIFT & 7)
    return privileged if privileged == user else f"{privileged}/{user}"


def _letters(bits: int) -> str:
    return "".join(letter if bits & (1 << i) else "-" for i, letter in enumerate("rwx"))
