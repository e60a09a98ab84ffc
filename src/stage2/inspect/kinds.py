"""What pairs of leaves amount to: permissions, the size of the smaller, a word for the memory type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ..errors import EncodingError
from ..formats import Leaf, TypeSources, effective_type, family_of
from ..formats.effective import NOTHING_KNOWN
from ..formats.outcome import USER, USER_SHIFT
from ..formats.record import Format
from ..tables.mapping import ATTRIBUTES, LEVEL_FIELD
from ..tables.regime import Regime
from ..tables.walk import make_asking, make_both

NONE = (1 << 64) - 1
"""As a key: no stage of that number."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What leaves of one kind at each stage amount to.

    Args:
        permissions: effective ones, as in `Mapped`.
        leaf: bytes of the smaller leaf.
        memory_type: as in `MapRange`.
        user: the page belongs to user mode, at stage 1.
    """

    permissions: int
    leaf: int
    memory_type: str | None
    user: bool


@lru_cache(4096)
def kind_of(
    first: Regime | None, second: Regime | None, key_1: int, key_2: int, types: TypeSources = NOTHING_KNOWN
) -> Kind:
    """What a pair of leaves allows together.

    Args:
        first, second: the stages that take part.
        key_1, key_2: their leaves' attributes with the level; NONE where a stage maps nothing.
        types: what beside the leaves decides the memory type.
    """
    sizes: list[int] = []
    leaves: list[Leaf | None] = []
    granted: list[int] = []
    for regime, key in ((first, key_1), (second, key_2)):
        if regime is None:
            leaves.append(None)
            continue
        if key == NONE:
            granted.append(0)
            leaves.append(None)
            continue
        attributes = key & ATTRIBUTES
        leaves.append(Leaf(regime.format, attributes, regime.controls))
        granted.append(int(regime.format.permissions(attributes, regime.controls)))
        if not regime.format.is_bare:
            sizes.append(regime.format.leaf_size(key >> LEVEL_FIELD))
    user = first is not None and key_1 != NONE and bool(key_1 & USER)
    allowed = granted[0]
    if len(granted) == 2:
        assert second is not None, "two stages were asked"
        allowed = int(make_both(second.format)(granted[0], granted[1], _side(second.format, key_1)))
    return Kind(allowed, min(sizes, default=1 << 12), _memory_type(leaves, types), user)


def _side(second: Format, key_1: int) -> int:
    """Whose side of stage 2's permissions counts for a page of stage 1."""
    _, side = make_asking(second)(key_1 & ATTRIBUTES, 0)
    return min(int(side), USER_SHIFT)


def _memory_type(leaves: Sequence[Leaf | None], types: TypeSources) -> str | None:
    """A word for what accesses get; None where that hangs on a register that is not known."""
    first, second = leaves
    if first is not None and not first.format.is_bare:
        if first.format.family == "arm" and types.mair is None:
            return None  # the leaf holds nothing but an index into MAIR
        if second is None and first.format.family != "arm":
            return family_of(first.format).memory_type(first.format, first.attributes, first.controls)[0]
        try:
            return effective_type(first, second, types).name or None
        except EncodingError:
            return None
    only = second or first
    if only is None or only.format.is_bare:
        return None
    return family_of(only.format).memory_type(only.format, only.attributes, only.controls)[0]
