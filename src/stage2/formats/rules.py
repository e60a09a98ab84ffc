"""The rules of one kind of entry: plain functions that every walk, kernel and callback is built from.

All but `encode_leaf` are written in the compilable subset (see `u64`): no imports of numba, constants through `u64()`,
arguments and results unsigned 64-bit. A format's rules stand nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..flags import MappingFlags, MemoryType
from .u64 import u64

if TYPE_CHECKING:
    from .record import Format

ENTRY_SIZE = 8
"""Bytes of an entry: rules and kernels take 64-bit words."""

Decode = Callable[[int, int, int], tuple[int, int, int]]
"""(entry, level, controls) -> (kind, address, attributes), see `outcome`."""
Permissions = Callable[[int, int], int]
"""(attributes of the whole walk, controls) -> effective permissions, privileged in bits 0-2, user in 3-5."""
Mark = Callable[[int, int, int], int]
"""(leaf entry, 1 for a write, controls) -> the entry as hardware leaves it after the access."""
Resize = Callable[[int, int, int], int]
"""(leaf entry, its level, another level) -> the bits, without address, of an equal leaf at the other level."""
Inherit = Callable[[int, int], int]
"""(old leaf, new leaf) -> the new leaf with the accessed and dirty state of the old one."""
Forget = Callable[[int, int], int]
"""(leaf entry, what: ACCESSED, DIRTY or both of `outcome`) -> the entry with that state cleared."""
MarkTable = Callable[[int, int], int]
"""(table entry, controls) -> the entry as hardware leaves it after a walk through it."""
WalkWrite = Callable[[int], int]
"""Controls of stage 2 -> 1 when its reads of stage-1 tables count as writes."""
Group = Callable[[int, int], int]
"""(leaf entry, level) -> the entry marked as one of an aligned group."""
Ungroup = Callable[[int, int, int], int]
"""(leaf entry, level, the leaf's own output address) -> the entry on its own."""
RootTooWide = Callable[[int, int], int]
"""(address of the root table, controls) -> 1 when the walk ends there in an address size fault, else 0."""
PackAddress = Callable[[int], int]
"""Output address -> its bits in an entry."""
EncodeLeaf = Callable[[int, MappingFlags, MemoryType, int], int]
"""(level, flags, memory type, controls) -> all bits of a leaf but its address."""


TABLE_WALK = 1 << 63
"""Set in the controls that `permissions` of stage 2 sees while hardware reads or marks a stage-1 table."""


def counts_as_read(controls: int) -> int:
    """Reads of stage-1 tables are reads: the rule of most formats."""
    return u64(0)


def takes_any_root(root: int, controls: int) -> int:
    """No walk ends because of the root's address alone, as long as the table is in memory: the rule of most formats."""
    return u64(0)


def stands_alone(entry: int, level: int) -> int:
    """The format knows no groups."""
    return entry


def stood_alone(entry: int, level: int, address: int) -> int:
    """The format knows no groups."""
    return entry


def assumes_nothing(fmt: Format) -> str | None:
    """Rules that hold for every geometry."""
    return None


@dataclass(frozen=True, eq=False)
class Rules:
    """How one kind of entry is read and written, whatever the number of levels.

    Args:
        name: of the kind of entry: `ept`, `long mode`.
        family: folder of `formats` it belongs to.
        decode, permissions, mark, pack_address, resize, inherit, forget: see the types above.
        encode_leaf: the inverse of decode, in plain Python; raises EncodingError.
        mark_table: hardware's accessed flag in table entries; None where there is none.
        walk_write: of stage 2, whether its reads of stage-1 tables count as writes.
        group, ungroup: the mark of a leaf in a group.
        root_too_wide: whether the root's address is one that the output size does not allow.
        root_fault_level: the level at which that is reported.
        assumes: what the functions take for granted of a format's geometry: None where it is so, else a sentence that
            says what is assumed and is not so.
        wrong_on_purpose: a planted error, which no check of the record may refuse.
    """

    name: str
    family: str
    decode: Decode
    permissions: Permissions
    mark: Mark
    pack_address: PackAddress
    resize: Resize
    inherit: Inherit
    forget: Forget
    encode_leaf: EncodeLeaf
    mark_table: MarkTable | None = None
    walk_write: WalkWrite = counts_as_read
    group: Group = stands_alone
    ungroup: Ungroup = stood_alone
    root_too_wide: RootTooWide = takes_any_root
    root_fault_level: int = 0
    assumes: Callable[[Format], str | None] = assumes_nothing
    wrong_on_purpose: bool = False

    @property
    def functions(self) -> tuple[Callable[..., object], ...]:
        """The functions in the compilable subset."""
        always = (
            self.decode, self.permissions, self.mark, self.pack_address, self.resize, self.inherit, self.forget,
            self.walk_write, self.group, self.ungroup, self.root_too_wide,
        )  # fmt: skip
        return always if self.mark_table is None else (*always, self.mark_table)
