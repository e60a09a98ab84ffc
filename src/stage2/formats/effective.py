"""The memory type that both stages together give an access: what goes in, and what comes out.

`formats.effective_type` combines them by the rules of the leaves' family (`effective` in its folder).
"""

from __future__ import annotations

from dataclasses import dataclass

from ..flags import MemoryType
from .outcome import MEMORY_TYPE_MASK, MEMORY_TYPE_SHIFT, SHAREABILITY_MASK, SHAREABILITY_SHIFT
from .record import Format


@dataclass(frozen=True, slots=True)
class EffectiveType:
    """What an access gets. A family may know more of it (`arm.effective.ArmType`).

    Args:
        name: the manual's short name: "WB", "Device-nGnRE", "NC".
        text: one sentence on how it came about.
        manual: the section with the rule.
    """

    name: str
    text: str
    manual: str


@dataclass(frozen=True, slots=True)
class Leaf:
    """The leaf that a stage's walk ended in, as far as memory types go.

    Args:
        format: of its table.
        attributes: what `decode` said of it.
        controls: the regime's.
    """

    format: Format
    attributes: int
    controls: int

    @property
    def memory_type(self) -> int:
        """The format's own memory-type field."""
        return (self.attributes & MEMORY_TYPE_MASK) >> MEMORY_TYPE_SHIFT

    @property
    def shareability(self) -> int:
        """Arm's SH field."""
        return (self.attributes & SHAREABILITY_MASK) >> SHAREABILITY_SHIFT


@dataclass(frozen=True, slots=True)
class TypeSources:
    """What beside the leaves decides a memory type.

    None where it is not known: the value that `encode_leaf` counts on, and write-back memory, are taken instead, and
    the result says so.

    Args:
        mair: MAIR_EL1 of an Arm guest.
        pat: IA32_PAT of an x86 guest (G_PAT of the VMCB).
        host_pat: IA32_PAT of the hypervisor, for nested tables.
        memory: what the hardware says of the HPA: RISC-V's PMAs, AMD's MTRRs.
        cache_disabled: CR0.CD of an x86 guest is set, SCTLR_EL1.C of an Arm guest clear.
    """

    mair: int | None = None
    pat: int | None = None
    host_pat: int | None = None
    memory: MemoryType | None = None
    cache_disabled: bool = False


NOTHING_KNOWN = TypeSources()
"""Nothing but the leaves is known."""
