"""What in memory names a root: words as a register would hold them, VMCBs, and Linux's own notes.

How a register names a root is asked of the formats: the value for one root, and the bits that may be otherwise while it
still selects that root (ASID, VMID, flags).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from ...address import SIZE_4K, Range
from ...errors import Stage2Error
from ...formats import Format, family_of
from ...formats.x86 import vmcb
from ...prove.packing import U64Array
from ...tables.regime import Regime
from ..listing import Lister
from ..source import MemorySource
from .candidates import Candidate
from .survey import THREADS

_PAGES = 128
_MOST_KEPT = 16
"""Words that are kept for one root."""
_SYMBOL = re.compile(rb"^SYMBOL\((\w+)\)=([0-9a-f]{1,16})$", re.MULTILINE)
_KERNEL_TABLES = ("swapper_pg_dir", "init_top_pgt")
"""What Linux calls its own root table."""
_MOST_NOTE = 4096


@dataclass(slots=True)
class Named:
    """Who names a root.

    Args:
        register: by which name a word would be loaded.
        count: words in memory that do.
        at: addresses of the first of them.
        vmcbs: addresses of VMCBs among them.
    """

    register: str = ""
    count: int = 0
    at: list[int] = field(default_factory=list)
    vmcbs: list[int] = field(default_factory=list)

    def reasons(self) -> tuple[str, ...]:
        """As sentences."""
        found = []
        if self.vmcbs:
            found.append(f"the VMCB at {self.vmcbs[0]:#x} names it as {self.register}, with nested paging on")
        if self.count:
            words = "a word" if self.count == 1 else f"{self.count:,} words"
            found.append(
                f"{words} in memory name{'s' * (self.count == 1)} it as {self.register}, as at {self.at[0]:#x}"
            )
        return tuple(found)


def named_in(source: MemorySource, busy: U64Array, candidates: Sequence[Candidate]) -> dict[Candidate, Named]:
    """Look for words that name roots.

    Args:
        source: the memory.
        busy: its pages that are not empty.
        candidates: the roots.
    """
    groups: dict[tuple[str, int], dict[int, Candidate]] = {}
    for one in candidates:
        for register, value, free in _as_registers(one):
            groups.setdefault((register, free), {}).setdefault(value & ~free, one)
    found: dict[Candidate, Named] = {}
    wanted = {key: np.array(sorted(values), np.uint64) for key, values in groups.items()}

    def look(pages: U64Array) -> list[tuple[tuple[str, int], U64Array, U64Array]]:
        words = source.tables(pages, SIZE_4K // 8)
        hits = []
        for key, values in wanted.items():
            least, span = values[0], np.uint64(int(values[-1]) - int(values[0]))
            cleared = (words & ~np.uint64(key[1])).ravel()
            places = np.flatnonzero(cleared - least <= span)
            places = places[np.isin(cleared[places], values)]
            at = pages[places >> 9] + np.uint64(8) * (places & 511).astype(np.uint64)
            hits.append((key, at, words.ravel()[places]))
        return hits

    parts = [busy[first : first + _PAGES] for first in range(0, len(busy), _PAGES)]
    with ThreadPoolExecutor(THREADS) as pool:
        for hits in pool.map(look, parts if wanted else []):
            for (register, free), at, words in hits:
                for place, word in zip(at.tolist(), words.tolist(), strict=True):
                    one = groups[register, free][word & ~free]
                    if not one.reading.table.fits(np.array([word], np.uint64))[0]:
                        _note(found.setdefault(one, Named(register)), source, register, place)
    return found


def _note(named: Named, source: MemorySource, register: str, place: int) -> None:
    named.count += 1
    if len(named.at) < _MOST_KEPT:
        named.at.append(place)
    if register == "N_CR3" and place % vmcb.ALIGNMENT == vmcb.N_CR3_AT and len(named.vmcbs) < _MOST_KEPT:
        block = place - vmcb.N_CR3_AT
        control = source.word_at(block + vmcb.NESTED_CONTROL_AT)
        if control is not None and control & vmcb.NP_ENABLE:
            named.vmcbs.append(block)


def _as_registers(one: Candidate) -> Iterable[tuple[str, int, int]]:
    """Register, value and free bits with which a root would be loaded."""
    try:
        here = _registers(one.format, one.root, one.controls)
    except Stage2Error:
        return
    for register in _that_vary(one.format, one.controls):
        if (value := here.get(register)) is not None:
            yield register, value, _free(one.format, one.controls, register)


def _registers(fmt: Format, root: int, controls: int) -> Mapping[str, int]:
    family = family_of(fmt)
    if fmt.stage == 2:
        return family.stage_2_registers(fmt, root, controls, 1)  # 0 is no guest's on x86
    return family.own_registers([(fmt, root, controls)])


@lru_cache(256)
def _that_vary(fmt: Format, controls: int) -> tuple[str, ...]:
    """The registers that hold the root."""
    try:
        one, other = (_registers(fmt, times * (1 << 20), controls) for times in (1, 2))
    except Stage2Error:
        return ()
    return tuple(name for name in one if one[name] != other[name])


@lru_cache(256)
def _free(fmt: Format, controls: int, register: str) -> int:
    """The bits of a register that may be otherwise while it selects the same tables."""
    root = 1 << 20
    values = dict(_registers(fmt, root, controls))
    family, found = family_of(fmt), 0
    for bit in range(64):
        selected, _ = family.roots({**values, register: values[register] ^ 1 << bit})
        if any(one.register == register and (one.root, one.format) == (root, fmt) for one in selected):
            found |= 1 << bit
    return found


# --- Linux ----------------------------------------------------------------------------------------------------------


def kernel_tables(source: MemorySource, notes: U64Array) -> tuple[int, ...]:
    """Where Linux says that its own root tables are: virtual addresses in its VMCOREINFO."""
    told = getattr(source, "vmcoreinfo", None) or {}
    found = [told[f"SYMBOL({name})"] for name in _KERNEL_TABLES if f"SYMBOL({name})" in told]
    addresses = [int(value, 16) if isinstance(value, str) else int(value) for value in found]
    for page in notes.tolist()[:_MOST_KEPT]:
        text = source.bytes_at(page, _MOST_NOTE) or b""
        addresses += [int(value, 16) for name, value in _SYMBOL.findall(text) if name.decode() in _KERNEL_TABLES]
    return tuple(dict.fromkeys(addresses))


def led_to(regime: Regime, source: MemorySource, address: int) -> int | None:
    """Where a virtual address of a kernel leads by some tables; None where nothing is mapped there."""
    low = address & (1 << regime.format.input_bits) - 1
    if low | -1 << regime.format.input_bits & (1 << 64) - 1 != address:
        return None
    lister = Lister(regime, source, span=Range(low, low + 1), most=64, strict=False)
    for rows in lister.parts():
        for start, output, size, _ in rows.tolist():
            if start <= low < start + size:
                return int(output + low - start)
    return None
