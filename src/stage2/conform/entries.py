"""Entries at random: legal ones, and what a hostile or broken machine may leave in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ..address import ADDRESS_LIMIT, Hpa
from ..flags import RWX, MappingFlags, MemoryType
from ..formats.arm import layout
from ..formats.record import Format
from ..formats.riscv import entry as riscv
from ..formats.x86 import ept, longmode
from ..memory.physical import PhysicalMemory

U64Array = npt.NDArray[np.uint64]
T = TypeVar("T")


def window_leaf_size(fmt: Format, controls: int, rng: np.random.Generator) -> int:
    """Bytes of the leaves of stage 2 that are to lead to a guest's tables: pages, on RISC-V also blocks and groups."""
    if fmt.family != "riscv":
        return fmt.page_size
    kind = rng.random()
    if kind < 0.1:
        return fmt.leaf_size(1)
    grouped = kind < 0.6 and controls & riscv.SVNAPOT == riscv.SVNAPOT
    return fmt.page_size << fmt.group_bits_at(0) if grouped else fmt.page_size


class Maker:
    """Makes entries and addresses of one format at random.

    Args:
        fmt: the format.
        rng: where the randomness comes from.
        tables: addresses that table entries point to, be there a table or not; a mapping gives them by level, and
            then most pointers lead to a table of the level below.
        outputs: addresses near which leaves point.
        flaws: how often an entry is broken, relative to the usual.
        controls: the regime's.
    """

    def __init__(
        self,
        fmt: Format,
        rng: np.random.Generator,
        tables: Sequence[int] | Mapping[int, Sequence[int]],
        outputs: Sequence[int],
        flaws: float = 1.0,
        controls: int | None = None,
    ) -> None:
        self.fmt, self.rng, self.flaws, self.controls = fmt, rng, flaws, controls
        self.outputs = outputs
        self.by_level = tables if isinstance(tables, Mapping) else {}
        self.tables = [table for group in tables.values() for table in group] if isinstance(tables, Mapping) else tables
        # A few indices, or random addresses would meet nothing but holes; both ends of a table among them.
        count = 1 << fmt.bits
        self.indices = [0, 1, count // 2, count - 1, *rng.integers(0, count, 3).tolist()]

    def choose(self, options: Sequence[T]) -> T:
        return options[int(self.rng.integers(len(options)))]

    def word(self) -> int:
        return int(self.rng.integers(0, 1 << 64, dtype=np.uint64))

    def permissions(self) -> int:
        """Leaf bits besides the address, legal ones mostly, accessed and dirty or not."""
        if self.fmt.family == "riscv":
            rwx = self.choose((1, 3, 4, 5, 7, 7))
            tracked = self.choose((0, riscv.A, riscv.A | riscv.D, riscv.A | riscv.D))
            return riscv.V | rwx << 1 | tracked | self.choose((0, riscv.U, riscv.U)) | self.choose((0, riscv.G))
        if self.fmt.family == "arm":
            keep = 0x1C | 0xC0 | 0x300 | 1 << 10 | 1 << 11 | 0xF << 51 if self.fmt.stage == 1 else 0x3FC | 0xF << 51
            return 1 | 1 << 10 | self.word() & keep | self.choose((0, 1 << 10, 1 << 10)) ^ 1 << 10
        if not self.fmt.name.startswith("ept"):
            keep = 0x138 | self.no_execute()
            return 1 | self.choose((0, 2, 4, 6, 6, 6)) | self.word() & keep | self.choose((0, 0x20, 0x60))
        types = self.choose((0, 1, 4, 5, 6, 6)) << 3
        return self.choose((1, 3, 4, 5, 7, 7)) | types | self.word() & (0x3 << 8 | 1 << 10 | 1 << 63)

    def window_bits(self, *, odd: bool) -> int:
        """Bits, besides the address, of a leaf that leads to a guest's tables.

        Args:
            odd: permissions at random instead of all; it stays a leaf.
        """
        bits = self.fmt.leaf_entry(0, 0, RWX, controls=self.controls)
        if self.fmt.family != "riscv":
            # Arm's two type bits; x86's P and W, or EPT's R and W.
            return self.permissions() | bits & 3 if odd else bits
        if odd:
            bits = self.permissions()
        return bits | self.choose((0, 0, 1, 2)) << riscv.PBMT_SHIFT if self._has(riscv.SVPBMT) else bits

    def _has(self, bits: int) -> bool:
        """Whether control bits are all set."""
        return self.controls is not None and self.controls & bits == bits

    def no_execute(self) -> int:
        """x86's bit 63, where it is legal; where it is not, sometimes."""
        legal = self.controls is None or self.controls & longmode.NXE
        return longmode.NX if legal or self.rng.random() < 0.2 * self.flaws else 0

    def generous(self, level: int) -> int:
        """Leaf bits that allow everything to somebody."""
        flags = RWX | self.choose((MappingFlags(0), MappingFlags.USER))
        controls = self.fmt.default_controls if self.controls is None else self.controls
        return self.fmt.encode_leaf(level, flags, MemoryType.WRITE_BACK, controls)

    def leaf(self, level: int) -> int:
        output = self.choose(self.outputs) + (self.choose((1, 5)) << 21 if self.rng.random() < 0.4 * self.flaws else 0)
        if self.rng.random() > 0.2 * self.flaws:
            output &= ~(self.fmt.leaf_size(min(level, self.fmt.top_leaf_level)) - 1)
        generous = self.by_level and self.rng.random() < 0.4 and level <= self.fmt.top_leaf_level
        bits = self.generous(level) if generous else self.permissions()
        if self.fmt.family == "x86" and level in (1, 2):
            bits |= ept.PAGE_SIZE
        if self.fmt.family == "arm" and level == 0:
            bits |= layout.TABLE_OR_PAGE
        entry = self.fmt.pack_address(output) | bits
        if self.fmt.family == "riscv":
            if self._has(riscv.SVPBMT):
                entry |= self.choose((0, 0, 1, 2)) << riscv.PBMT_SHIFT
            if self._has(riscv.SVNAPOT) and level == 0 and self.rng.random() < 0.4:
                entry = self.fmt.group(entry, level)
        return entry

    def table(self, level: int) -> int:
        below = self.by_level.get(level - 1)
        where = below if below and self.rng.random() > 0.1 * self.flaws else self.tables
        entry = self.fmt.table_entry(self.choose(where), self.controls)
        if self.fmt.family == "arm" and self.fmt.stage == 1 and self.rng.random() < 0.5:
            return entry | self.word() & 0xF << 59
        if self.fmt.name.startswith(("x86", "npt")) and self.rng.random() < 0.2 + 0.3 * min(self.flaws, 1.0):
            return entry & ~0x26 | self.word() & 0x26 | self.choose((0, 0, self.no_execute()))
        if self.fmt.name.startswith("ept") and self.rng.random() < 0.5:
            entry = entry & ~7 | self.choose((1, 3, 4, 5)) | self.choose((0, 1 << 10))
        return entry

    def entry(self, level: int) -> int:
        """An entry for a table at `level`: a hole, a leaf, a table, nonsense, or any of them with a bit flipped."""
        kind = self.rng.random()
        if kind < 0.08 * self.flaws:
            return self.choose((0, 0, self.word() & ~7))
        if kind < 0.12 * self.flaws:
            return self.word()
        # A pointer below the last level is an error, and so is a leaf too high up; tables without flaws have none.
        flaws = min(self.flaws, 1.0)
        descend = 0.75 if level <= self.fmt.top_leaf_level else 1 - 0.25 * flaws
        descend = descend if level else 0.1 * flaws
        word = self.table(level) if self.rng.random() < descend else self.leaf(level)
        if self.rng.random() < 0.12 * self.flaws:
            word ^= 1 << int(self.rng.integers(64))
        return word

    def fill(self, memory: PhysicalMemory, table: int, level: int, index_bits: int | None = None) -> None:
        """Put entries at the chosen indices of a table, in every quarter of a larger root."""
        count = 1 << (self.fmt.bits if index_bits is None else index_bits)
        for quarter in range(0, count, 1 << self.fmt.bits):
            for index in self.indices if count >= 1 << self.fmt.bits else range(count):
                memory.store_u64(Hpa(table + 8 * (quarter + index)), self.entry(level))

    def addresses(self, count: int) -> list[int]:
        """Input addresses: through the chosen indices mostly, some anywhere, some beyond the width, and the edges."""
        width = self.fmt.input_bits
        edges = [0, (1 << width - 1) - 1, 1 << width - 1, (1 << width) - 1, 1 << width, (1 << 64) - (1 << width - 1)]
        return [*self.inside(count).tolist(), *edges, (1 << 64) - (1 << width - 1) - 1, (1 << 64) - 1]

    def inside(self, count: int) -> U64Array:
        """The same without the edges, as an array."""
        fmt, rng, word = self.fmt, self.rng, np.uint64
        indices = np.array(self.indices, word)
        found = rng.integers(0, 1 << fmt.page_shift, count, dtype=word)
        for level in range(fmt.levels):
            found |= indices[rng.integers(len(indices), size=count)] << word(fmt.level_shift(level))
        if fmt.root_bits > fmt.bits:
            spare = fmt.root_bits - fmt.bits
            found |= rng.integers(0, 1 << spare, count, dtype=word) << word(fmt.input_bits - spare)
        if fmt.levels:
            found &= word((1 << fmt.input_bits) - 1)
        above = word(ADDRESS_LIMIT - (1 << fmt.input_bits)) if fmt.input_bits < 64 else word(0)
        if fmt.high_half:
            found |= above
        if fmt.sign_extended:
            found |= np.where(found >> word(fmt.input_bits - 1) != 0, above, word(0))
        kind = rng.random(count)
        anywhere = rng.integers(0, 1 << 64, count, dtype=word)
        flipped = found ^ word(1) << rng.integers(max(fmt.input_bits - 1, 0), 64, count, dtype=word)
        result: U64Array = np.where(kind < 0.05, anywhere, np.where(kind < 0.12, flipped, found))
        return result
