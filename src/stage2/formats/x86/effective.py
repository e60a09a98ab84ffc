"""Memory types of both stages combined: the guest's PAT with EPT's type, or with the host's PAT and the MTRRs.

Intel SDM Vol. 3C, 30.3.7.2 "Memory Type Used for Translated Guest-Physical Addresses", and Vol. 3A, table 13-7
"Effective Page-Level Memory Types", where EPT's type takes the place of the MTRR's; AMD APM Vol. 2, 15.25.8 "Combining
Memory Types, MTRRs", tables 15-19 and 15-20.
"""

from __future__ import annotations

from ...errors import EncodingError
from ...flags import MemoryType
from ..effective import EffectiveType, Leaf, TypeSources
from . import ept
from .kinds import is_ept
from .longmode import PAT_MSR
from .memory_types import NAMES, TYPES

WORDS = {NAMES[code]: word for code, word in TYPES.items()} | {
    "WC+": "write-combining, and snoop the caches",
    "CD": "uncached, and snoop the caches",
}
"""The words for a result; UC- never is one."""

_PAT_ORDER = ("UC", "UC-", "WC", "WP", "WT", "WB")


def _by_column(row: str) -> dict[str, str]:
    return dict(zip(_PAT_ORDER, row.split(), strict=True))


_BY_PAT = {
    "UC": _by_column("UC UC  WC UC UC UC"),
    "WC": _by_column("UC WC  WC UC UC WC"),
    "WT": _by_column("UC UC  WC WP WT WT"),
    "WP": _by_column("UC WC  WC WP WT WP"),
    "WB": _by_column("UC UC  WC WP WT WB"),
}
"""Intel: type of EPT (or of the MTRRs, without EPT) -> PAT type -> effective type."""
_GUEST_AND_HOST = {
    "UC": _by_column("UC UC  UC UC  UC  UC"),
    "UC-": _by_column("UC UC- WC UC  UC  UC"),
    "WC": _by_column("WC WC  WC WC+ WC+ WC+"),
    "WP": _by_column("UC UC  UC WP  UC  WP"),
    "WT": _by_column("UC UC  UC UC  WT  WT"),
    "WB": _by_column("UC UC  WC WP  WT  WB"),
}
"""AMD: guest's PAT type -> host's PAT type -> combined PAT type."""
_WITH_MTRR = {
    "UC": {"UC": "UC", "WC": "CD", "WP": "CD", "WT": "CD", "WB": "CD"},
    "UC-": {"UC": "UC", "WC": "WC", "WP": "CD", "WT": "CD", "WB": "CD"},
    "WC": {"UC": "WC", "WC": "WC", "WP": "WC", "WT": "WC", "WB": "WC"},
    "WC+": {"UC": "WC", "WC": "WC", "WP": "WC+", "WT": "WC+", "WB": "WC+"},
    "WP": {"UC": "UC", "WC": "CD", "WP": "WP", "WT": "CD", "WB": "WP"},
    "WT": {"UC": "UC", "WC": "CD", "WP": "CD", "WT": "WT", "WB": "WT"},
    "WB": {"UC": "UC", "WC": "WC", "WP": "WP", "WT": "WT", "WB": "WB"},
}
"""AMD: combined PAT type -> MTRR type -> effective type."""
_MTRR = {
    MemoryType.UNCACHED: "UC",
    MemoryType.DEVICE: "UC",
    MemoryType.WRITE_COMBINING: "WC",
    MemoryType.WRITE_PROTECTED: "WP",
    MemoryType.WRITE_THROUGH: "WT",
    MemoryType.WRITE_BACK: "WB",
}

_MANUAL_EPT = (
    'Intel SDM Vol. 3C, 30.3.7.2 "Memory Type Used for Translated Guest-Physical Addresses", and Vol. 3A, table 13-7'
)
_MANUAL_PAT = 'Intel SDM Vol. 3A, 13.5.2 "Precedence of Cache Controls", table 13-7'
_MANUAL_NPT = 'AMD APM Vol. 2, 15.25.8 "Combining Memory Types, MTRRs", tables 15-19 and 15-20'


def combine_ept(pat: str, ept_type: str, *, ignore_pat: bool = False, cache_disabled: bool = False) -> str:
    """The effective type under EPT, as Intel names it.

    Args:
        pat: the type that the guest's PAT gives; WB while CR0.PG is 0.
        ept_type: bits 5:3 of the EPT leaf, as a name.
        ignore_pat: bit 6 of the EPT leaf.
        cache_disabled: CR0.CD.

    Raises:
        EncodingError: there is no such type.
    """
    found = _look_up(_BY_PAT, "EPT", ept_type, "the guest's PAT", pat)
    return "UC" if cache_disabled else ept_type if ignore_pat else found


def combine_npt(guest: str, host: str, mtrr: str, *, cache_disabled: bool = False) -> str:
    """The effective type under nested paging, as AMD names it; WC+ and CD snoop the caches.

    Args:
        guest, host: the types that the two PATs give.
        mtrr: what the MTRRs say of the HPA.
        cache_disabled: CR0.CD of the guest or the host.

    Raises:
        EncodingError: there is no such type.
    """
    combined = _look_up(_GUEST_AND_HOST, "the guest's PAT", guest, "the host's PAT", host)
    found = _look_up(_WITH_MTRR, "the PATs", combined, "the MTRRs", mtrr)
    return "CD" if cache_disabled else found


def _look_up(table: dict[str, dict[str, str]], row: str, row_type: str, column: str, column_type: str) -> str:
    for where, found, known in ((row, row_type, table), (column, column_type, next(iter(table.values())))):
        if found not in known:
            raise EncodingError(f"{where} has no memory type {found}: there are {', '.join(known)}")
    return table[row_type][column_type]


def pat_type(pat: int, index: int) -> str:
    """The type in entry `index` of an IA32_PAT.

    Raises:
        EncodingError: the entry holds a reserved type.
    """
    found = pat >> 8 * index & 0xFF
    if found not in NAMES:
        raise EncodingError(f"entry {index} of IA32_PAT {pat:#x} holds {found}, a reserved memory type")
    return NAMES[found]


def effective_type(stage_1: Leaf | None, stage_2: Leaf | None, sources: TypeSources) -> EffectiveType:
    """What an access gets.

    Args:
        stage_1: the guest's leaf; None while CR0.PG is 0.
        stage_2: the leaf of EPT or of the nested tables; None without a second stage.
        sources: the PATs, CR0.CD and the MTRRs.

    Raises:
        EncodingError: a type is reserved.
    """
    guest, why = "WB", "the guest's paging is off, which counts as WB"
    if stage_1 is not None:
        guest, why = _by_pat("the guest's", sources.pat, stage_1)
    disabled, mtrr = sources.cache_disabled, _MTRR[sources.memory or MemoryType.WRITE_BACK]
    by_mtrr = f"the MTRRs say {mtrr}" if sources.memory else f"the MTRRs are taken to say {mtrr}"
    if stage_2 is None:
        found = combine_ept(guest, mtrr, cache_disabled=disabled)
        why, manual = f"{why}; {by_mtrr}", _MANUAL_PAT
    elif is_ept(stage_2.format):
        second = _ept_type(stage_2.memory_type & 7)
        alone = bool(stage_2.attributes & ept.IGNORE_PAT)
        found = combine_ept(guest, second, ignore_pat=alone, cache_disabled=disabled)
        why = f"EPT says {second} and ignores the guest's PAT" if alone else f"{why}; EPT says {second}"
        manual = _MANUAL_EPT
    else:
        second, by_host = _by_pat("the host's", sources.host_pat, stage_2)
        found = combine_npt(guest, second, mtrr, cache_disabled=disabled)
        why, manual = f"{why}; {by_host}; {by_mtrr}", _MANUAL_NPT
    if disabled:
        why = "CR0.CD is set"
    return EffectiveType(found, f"Accesses are {found} ({WORDS[found]}): {why}.", manual)


def _by_pat(whose: str, pat: int | None, leaf: Leaf) -> tuple[str, str]:
    """The type that a leaf chooses from a PAT, and a clause about it."""
    value, index = PAT_MSR if pat is None else pat, leaf.memory_type & 7
    found, shown = pat_type(value, index), f"{value:#018x}" if pat is not None else f"(taken to be {value:#018x})"
    return found, f"entry {index} of {whose} PAT {shown} says {found}"


def _ept_type(code: int) -> str:
    found = NAMES.get(code)
    if found not in _BY_PAT:
        raise EncodingError(f"EPT memory type {code} is reserved")
    return found
