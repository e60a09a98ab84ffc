"""The format record: everything that distinguishes one table format from another.

A format is a geometry (levels, widths, sizes), the `Rules` of its entries, and sentences for people. The walker, the
batch kernels, the edit kernels and the engines' callbacks are all built from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..address import SIZE_4K
from ..errors import EncodingError, OutOfRangeError
from ..flags import MappingFlags, MemoryType
from .outcome import ADDRESS_SIZE
from .rules import (
    ENTRY_SIZE,
    Decode,
    EncodeLeaf,
    Forget,
    Group,
    Inherit,
    Mark,
    MarkTable,
    PackAddress,
    Permissions,
    Resize,
    Rules,
    Ungroup,
    WalkWrite,
)
from .soundness import require_sound


@dataclass(frozen=True, slots=True)
class Field:
    """A field of an entry or a register, with what it means.

    Args:
        high, low: bit numbers, inclusive.
        name: the manual's name.
        meaning: one sentence; used by every explanation.
        values: meaning of single values, where they have one each.
        kinds: entry kinds the field exists in ("leaf", "table"); both by default.
        reserved: True when hardware demands zero.
        levels: levels at which the field exists; None for all.
    """

    high: int
    low: int
    name: str
    meaning: str
    values: Mapping[int, str] = field(default_factory=dict)
    kinds: frozenset[str] = frozenset({"leaf", "table"})
    reserved: bool = False
    levels: frozenset[int] | None = None

    @property
    def bits(self) -> str:
        """The bit numbers as manuals write them: `53:10`, `7`."""
        return str(self.low) if self.high == self.low else f"{self.high}:{self.low}"

    def extract(self, value: int) -> int:
        return (value >> self.low) & ((1 << (self.high - self.low + 1)) - 1)

    def explain(self, value: int) -> str:
        """The sentence for this value of the field."""
        return self.values.get(value, self.meaning)


@dataclass(frozen=True, slots=True)
class Switch:
    """Something that a register, or the processor, may have other than the format's default.

    Args:
        meaning: what is so when it is on, in one sentence.
        sets, clears: the control bits that this sets and clears.
    """

    meaning: str
    sets: int = 0
    clears: int = 0

    def turn_on(self, controls: int) -> int:
        """The control bits with this on."""
        return controls & ~self.clears | self.sets


@dataclass(frozen=True, eq=False)
class Format:
    """One table format. Levels count from 0, the smallest page.

    Args:
        name: as in DESIGN: `sv39x4`, `ept4`.
        title: one line for people.
        rules: how its entries are read and written.
        stage: 1 (GVA to GPA) or 2 (GPA to HPA).
        levels: number of levels; 0 means no translation (Bare).
        root_bits: index bits of the root table (a concatenated or x4 root has more than the others).
        top_leaf_level: the highest level at which a leaf may stand.
        output_bits: width of the output address.
        sign_extended: input addresses must be sign-extended from the top bit; otherwise zero-extended.
        table_bits: the bits of a table entry besides its address.
        table_controls: control bits that stand in a table entry as they stand in the controls (EPT's XU).
        fields: what `explain` says of an entry.
        default_controls: control bits of a newly built regime.
        hardware_ad: control bits under which hardware sets accessed and dirty bits by itself.
        manual: where the format is specified.
        switches: what may differ from `default_controls`, by a short name; see `controls_with`.
        page_shift: log2 of the smallest page.
        bits: index bits of every table but the root.
        entry_size: bytes of an entry.
        group_bits: for each level, log2 of the leaves in a group; empty where the format knows none.
        group_translates: a group's leaves all hold the address of the whole group (RISC-V NAPOT), so that a walk
            takes more bits from the input; otherwise the mark is a hint to TLBs only.
        break_before_make: a live entry may be replaced only through an invalid one (Arm).
        least_root_alignment: in bytes; a larger root is aligned to its size.
        wide_input_fault: the FaultKind of an input address that the regime has no bits for.
        privilege_by_page: stage 2 tells user from supervisor fetches by stage 1's U/S of the page, not by the mode of
            the CPU (EPT's mode-based execute control); every page is a user page while stage 1 is off.
        high_half: input addresses have all bits above the width set (Arm TTBR1), instead of none.

    Raises:
        EncodingError: the numbers contradict each other, or what the rules take for granted is not so.
    """

    name: str
    title: str
    rules: Rules
    stage: int
    levels: int
    root_bits: int
    top_leaf_level: int
    output_bits: int
    sign_extended: bool
    table_bits: int
    fields: tuple[Field, ...]
    default_controls: int
    hardware_ad: int
    manual: str
    switches: Mapping[str, Switch] = field(default_factory=dict)
    page_shift: int = 12
    bits: int = 9
    table_controls: int = 0
    entry_size: int = ENTRY_SIZE
    group_bits: tuple[int, ...] = ()
    group_translates: bool = False
    break_before_make: bool = False
    least_root_alignment: int = SIZE_4K
    wide_input_fault: int = ADDRESS_SIZE
    privilege_by_page: bool = False
    high_half: bool = False

    def __post_init__(self) -> None:
        require_sound(self)

    def with_rules(self, name: str, **functions: Callable[..., object]) -> Format:
        """The same format with some rules replaced by wrong ones: how an error is planted.

        Args:
            name: of the new format.
            functions: by the names of `Rules`.
        """
        changed: dict[str, Any] = {**functions, "wrong_on_purpose": True}
        return replace(self, name=name, rules=replace(self.rules, **changed))

    @property
    def family(self) -> str:
        """Folder of `formats` it belongs to."""
        return self.rules.family

    @property
    def decode(self) -> Decode:
        return self.rules.decode

    @property
    def permissions(self) -> Permissions:
        return self.rules.permissions

    @property
    def mark(self) -> Mark:
        return self.rules.mark

    @property
    def mark_table(self) -> MarkTable | None:
        return self.rules.mark_table

    @property
    def pack_address(self) -> PackAddress:
        return self.rules.pack_address

    @property
    def resize(self) -> Resize:
        return self.rules.resize

    @property
    def inherit(self) -> Inherit:
        return self.rules.inherit

    @property
    def forget(self) -> Forget:
        return self.rules.forget

    @property
    def group(self) -> Group:
        return self.rules.group

    @property
    def ungroup(self) -> Ungroup:
        return self.rules.ungroup

    @property
    def walk_write(self) -> WalkWrite:
        return self.rules.walk_write

    @property
    def encode_leaf(self) -> EncodeLeaf:
        return self.rules.encode_leaf

    def group_bits_at(self, level: int) -> int:
        """log2 of the leaves in a group at `level`; 0 where there are no groups."""
        return self.group_bits[level] if level < len(self.group_bits) else 0

    @property
    def is_bare(self) -> bool:
        """True when the regime translates nothing: output equals input."""
        return self.levels == 0

    @property
    def input_bits(self) -> int:
        """Width of the addresses it translates."""
        if self.is_bare:
            return self.output_bits
        return self.level_shift(self.levels - 1) + self.root_bits

    @property
    def page_size(self) -> int:
        """Size of the smallest page in bytes."""
        return 1 << self.page_shift

    @property
    def table_size(self) -> int:
        """Size of a table that is not the root, in bytes."""
        return self.entry_size << self.bits

    @property
    def root_size(self) -> int:
        """Bytes set aside for a root table that we build, whole pages."""
        return max(self.entry_size << self.root_bits, SIZE_4K)

    @property
    def root_alignment(self) -> int:
        """What a root table's address must be a multiple of."""
        return max(self.entry_size << self.root_bits, self.least_root_alignment)

    @property
    def leaf_sizes(self) -> tuple[int, ...]:
        """Size in bytes of the leaf at each level that may hold one."""
        return tuple(self.leaf_size(level) for level in range(self.top_leaf_level + 1))

    def level_shift(self, level: int) -> int:
        """Lowest address bit that indexes a table at `level`."""
        return self.page_shift + self.bits * level

    def leaf_size(self, level: int) -> int:
        """Bytes that one entry at `level` covers."""
        return 1 << self.level_shift(level)

    def index_bits(self, level: int) -> int:
        """Address bits that index a table at `level`: it has 2 to the power of so many entries."""
        return self.root_bits if level == self.levels - 1 else self.bits

    def index(self, address: int, level: int) -> int:
        """Index of `address` in its table at `level`."""
        return (address >> self.level_shift(level)) & ((1 << self.index_bits(level)) - 1)

    def controls_with(self, *names: str, base: int | None = None) -> int:
        """The default controls, or others, with some of `switches` on.

        Raises:
            EncodingError: the format has no such switch; the text names those it has.
        """
        controls = self.default_controls if base is None else base
        for name in names:
            if name not in self.switches:
                known = f": it has {', '.join(self.switches)}" if self.switches else ""
                raise EncodingError(f"{name} means nothing for {self.name}{known}")
            controls = self.switches[name].turn_on(controls)
        return controls

    def table_entry(self, address: int, controls: int | None = None) -> int:
        """The entry that points to the table at `address`; it restricts nothing below it."""
        given = self.default_controls if controls is None else controls
        return self.pack_address(address) | self.table_bits | given & self.table_controls

    def leaf_entry(
        self,
        level: int,
        address: int,
        flags: MappingFlags,
        memory_type: MemoryType | None = None,
        controls: int | None = None,
    ) -> int:
        """The leaf at `level` that maps `address`.

        Raises:
            OutOfRangeError: the address has more bits than the format's output.
            EncodingError: the format cannot express the flags, the memory type or a leaf at this level.
        """
        if address >> self.output_bits:
            raise OutOfRangeError(f"{address:#x} has more than the {self.output_bits} address bits of {self.name}")
        bits = self.encode_leaf(
            level,
            flags,
            flags.memory_type if memory_type is None else memory_type,
            self.default_controls if controls is None else controls,
        )
        return self.pack_address(address) | bits

    def __repr__(self) -> str:
        return f"<format {self.name}>"
