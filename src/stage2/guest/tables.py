"""A guest's own stage-1 tables, made inside its memory as its kernel would make them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..address import Gpa, Gva, Range, align_up
from ..errors import EncodingError, MisalignedError, NotMappedError, OutOfMemoryError, OutOfRangeError, OverlapError
from ..flags import MappingFlags
from ..formats import by_name
from ..formats.outcome import EntryKind
from ..formats.record import Format
from ..formats.rules import ENTRY_SIZE
from ..tables.regime import Regime
from .memory import GuestMemory

if TYPE_CHECKING:
    from ..space.address_space import AddressSpace

_DEFAULT_TABLES = 64


class GuestTables:
    """Stage-1 tables in a guest's memory: their entries hold GPAs, and every byte of them goes through stage 2.

        tables = GuestTables(space, "sv48", 0x8100_0000)
        tables.map(0x40_0000, 0x8000_0000, 0x20_0000, MappingFlags.READ | MappingFlags.WRITE | MappingFlags.USER)
        print(space.walk(0x40_0123, tables.regime))

    The memory that tables take is populated where it is not yet. What a CPU may have cached of an entry that is changed
    is the caller's to drop, as it is the guest's kernel's.

    Args:
        space: whose memory.
        fmt: a format of stage 1, or its name.
        root_gpa: where the root table goes; tables below it follow.
        size: bytes that tables may take from there on; None for 64 tables.
        controls: control bits of the regime; None for the format's own.

    Raises:
        EncodingError: no format of stage 1, or an unknown name.
        MisalignedError: the root is not aligned as the format demands.
        GuestAccessError: the tables would not lie in memory of the guest.
    """

    def __init__(
        self,
        space: AddressSpace,
        fmt: Format | str,
        root_gpa: Gpa | int,
        *,
        size: int | None = None,
        controls: int | None = None,
    ) -> None:
        self.format = by_name(fmt) if isinstance(fmt, str) else fmt
        if self.format.stage != 1 or self.format.is_bare:
            examples = "sv39, x86-4level, arm-s1-4k-48"
            raise EncodingError(f"{self.format.name} is no format of a guest's own tables, such as {examples}")
        self.memory = GuestMemory(space)
        self.regime = Regime.of(self.format, root_gpa, controls=controls)
        """What the guest's registers say; `space.walk` takes it."""
        step = self.format.table_size
        first = align_up(int(root_gpa) + self.format.root_size, step)
        end = first + _DEFAULT_TABLES * step if size is None else int(root_gpa) + size
        if end < first:
            raise OutOfRangeError(
                f"{size or 0:#x} bytes do not hold the root table of {self.format.root_size:#x} bytes"
            )
        self.pool = Range(int(root_gpa), end)
        """GPAs that tables may lie in."""
        self._next = first
        self._given_back: list[int] = []
        self.memory.write(int(root_gpa), bytes(self.format.root_size))

    @property
    def used(self) -> int:
        """Bytes that tables take."""
        return self._next - self.pool.start - len(self._given_back) * self.format.table_size

    def map(self, gva: Gva | int, gpa: Gpa | int, size: int, flags: MappingFlags) -> None:
        """Map a range, in the largest leaves that fit. Where it is refused nothing is changed.

        Args:
            gva, gpa, size: multiples of the format's page.
            flags: permissions, USER, and the memory type.

        Raises:
            MisalignedError, OutOfRangeError: an address is no multiple of a page, or beyond the format.
            OverlapError: something is mapped in the range.
            EncodingError: the format cannot say the flags.
            OutOfMemoryError: the pool is full.
        """
        at, out, end = self._range(gva, size, int(gpa))
        leaves: list[tuple[int, int, int]] = []
        missing: set[tuple[int, int]] = set()
        while at < end:
            level = self._level(at, out, end - at)
            missing |= self._missing(at, level)
            leaves.append((at, level, self.format.leaf_entry(level, out, flags, controls=self.regime.controls)))
            at, out = at + self.format.leaf_size(level), out + self.format.leaf_size(level)
        room = (self.pool.end - self._next) // self.format.table_size + len(self._given_back)
        if len(missing) > room:
            raise OutOfMemoryError(f"{len(missing)} more tables do not fit into {self.pool}: give it a larger size")
        for address, level, entry in leaves:
            self.memory.write_u64(self._slot(address, level), entry)

    def unmap(self, gva: Gva | int, size: int) -> None:
        """Take whole leaves away, and the tables that are empty then. Where it is refused nothing is changed.

        Raises:
            NotMappedError: nothing is mapped in a part of the range.
            MisalignedError: the range cuts a leaf, or is no multiple of a page.
        """
        for address, slot, _, _ in list(self._leaves(gva, size)):
            self.memory.write_u64(slot, 0)
            self._drop_empty(address)

    def protect(self, gva: Gva | int, size: int, flags: MappingFlags) -> None:
        """Give whole leaves other flags. Where it is refused nothing is changed.

        Raises:
            NotMappedError, MisalignedError: as for `unmap`.
            EncodingError: the format cannot say the flags.
        """
        changed = [
            (slot, self.format.leaf_entry(level, output, flags, controls=self.regime.controls))
            for _, slot, level, output in self._leaves(gva, size)
        ]
        for slot, entry in changed:
            self.memory.write_u64(slot, entry)

    def __repr__(self) -> str:
        return f"GuestTables({self.format.name}, root {self.regime.root:#x}, {self.used:#x} bytes)"

    # --- entries -----------------------------------------------------------------------------------------

    def _range(self, gva: int, size: int, gpa: int) -> tuple[int, int, int]:
        page, width = self.format.page_size, self.format.input_bits
        for name, value in (("GVA", int(gva)), ("GPA", gpa), ("size", size)):
            if value % page:
                raise MisalignedError(f"{name} {value:#x} is no multiple of a page of {page:#x} bytes")
        low = int(gva) & (1 << width) - 1
        fits = self._canonical(low) == int(gva)
        if size <= 0 or not fits or low + size > 1 << width:
            raise OutOfRangeError(f"[{int(gva):#x}, {int(gva) + size:#x}) is not in the GVAs of {self.format.name}")
        return int(gva), gpa, int(gva) + size

    def _canonical(self, low: int) -> int:
        """An address of the format's width as a register holds it."""
        width = self.format.input_bits
        above = (1 << 64) - (1 << width)
        if self.format.high_half or (self.format.sign_extended and low >> (width - 1)):
            return low | above
        return low

    def _level(self, gva: int, gpa: int, left: int) -> int:
        """The largest leaf that begins here and fits, and below which there is no table yet."""
        for level in range(self.format.top_leaf_level, 0, -1):
            size = self.format.leaf_size(level)
            if gva % size == 0 and gpa % size == 0 and left >= size and not self._has_table(gva, level):
                return level
        return 0

    def _has_table(self, gva: int, level: int) -> bool:
        kind, _, _ = self._decode(self._find(gva, level)[2], level)
        return kind is EntryKind.TABLE

    def _find(self, gva: int, wanted: int) -> tuple[int, int, int]:
        """(slot, level, entry) where the walk of an address ends, at the wanted level at the latest."""
        table = self.regime.root
        for level in range(self.format.levels - 1, -1, -1):
            slot = table + ENTRY_SIZE * self.format.index(gva, level)
            entry = self.memory.read_u64(slot)
            kind, output, _ = self._decode(entry, level)
            if level == wanted or kind is not EntryKind.TABLE:
                return slot, level, entry
            table = output
        raise AssertionError("a level is wanted that the format has")

    def _missing(self, gva: int, wanted: int) -> set[tuple[int, int]]:
        """The tables, as (level, address that they begin to translate), that a leaf at a level needs and are not there.

        Raises:
            OverlapError: something is mapped there.
        """
        _, level, entry = self._find(gva, wanted)
        kind, _, _ = self._decode(entry, level)
        if kind is not EntryKind.NONE:
            covered = self.format.leaf_size(level)
            raise OverlapError(f"GVA {gva:#x} is mapped already, by a leaf of {covered:#x} bytes")
        return {(below, gva & -self.format.leaf_size(below + 1)) for below in range(wanted, level)}

    def _slot(self, gva: int, wanted: int) -> int:
        """The entry's address at a level, with the tables above it made."""
        while True:
            slot, level, _ = self._find(gva, wanted)
            if level == wanted:
                return slot
            table = self._given_back.pop() if self._given_back else self._next
            self._next = max(self._next, table + self.format.table_size)
            self.memory.write(table, bytes(self.format.table_size))
            self.memory.write_u64(slot, self.format.table_entry(table, self.regime.controls))

    def _leaves(self, gva: int, size: int) -> Iterator[tuple[int, int, int, int]]:
        """(address, slot, level, output) of every leaf in a range, all of which is to be mapped by whole ones."""
        at, _, end = self._range(gva, size, 0)
        while at < end:
            slot, level, entry = self._find(at, 0)
            kind, output, _ = self._decode(entry, level)
            if kind is not EntryKind.LEAF:
                raise NotMappedError(f"nothing is mapped at GVA {at:#x}")
            covered = self.format.leaf_size(level)
            if at % covered or at + covered > end:
                raise MisalignedError(f"the range cuts the leaf of {covered:#x} bytes that maps GVA {at:#x}")
            yield at, slot, level, output
            at += covered

    def _drop_empty(self, gva: int) -> None:
        """Unlink the tables on the way to an address that hold nothing any more."""
        for level in range(1, self.format.levels):
            slot, found, entry = self._find(gva, level)
            kind, table, _ = self._decode(entry, found)
            if found != level or kind is not EntryKind.TABLE:
                continue
            if any(self.memory.read(table, self.format.table_size)):
                return
            self.memory.write_u64(slot, 0)
            self._given_back.append(table)

    def _decode(self, entry: int, level: int) -> tuple[EntryKind, int, int]:
        kind, output, attributes = self.format.decode(entry, level, self.regime.controls)
        return EntryKind(int(kind)), int(output), int(attributes)
