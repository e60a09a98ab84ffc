"""The format record: everything that distinguishes one table format from another.

The functions of a record, `encode_leaf` apart, are written in the compilable subset (see `u64`): no imports of
numba, constants through `u64()`, arguments and results unsigned 64-bit. The walker, the batch kernels, the edit
kernels and the engines' callbacks are all built from them; a format's rules stand nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..address import SIZE_4K
from ..errors import EncodingError, OutOfRangeError
from ..flags import MappingFlags, MemoryType
from .outcome import ADDRESS_SIZE
from .u64 import u64

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
PackAddress = Callable[[int], int]
"""Output address -> its bits in an entry."""
EncodeLeaf = Callable[[int, MappingFlags, MemoryType, int], int]
"""(level, flags, memory type, controls) -> all bits of a leaf but its address."""


TABLE_WALK = 1 << 63
"""Set in the controls that `permissions` of stage 2 sees while hardware reads or marks a stage-1 table."""


def counts_as_read(controls: int) -> int:
    """Reads of stage-1 tables are reads: the rule of most formats."""
    return u64(0)


def stands_alone(entry: int, level: int) -> int:
    """The format knows no groups."""
    return entry


def stood_alone(entry: int, level: int, address: int) -> int:
    """The format knows no groups."""
    return entry


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
        family: folder of `formats` it belongs to.
        stage: 1 (GVA to GPA) or 2 (GPA to HPA).
        levels: number of levels; 0 means no translation (Bare).
        root_bits: index bits of the root table (a concatenated or x4 root has more than the others).
        top_leaf_level: the highest level at which a leaf may stand.
        output_bits: width of the output address.
        sign_extended: input addresses must be sign-extended from the top bit; otherwise zero-extended.
        decode, permissions, mark, pack_address, resize, inherit, forget: the rules, in the compilable subset.
        encode_leaf: the inverse of decode, in plain Python; raises EncodingError.
        table_bits: the bits of a table entry besides its address.
        table_controls: control bits that stand in a table entry as they stand in the controls (EPT's XU).
        fields: what `explain` says of an entry.
        default_controls: control bits of a newly built regime.
        hardware_ad: control bits under which hardware sets accessed and dirty bits by itself.
        manual: where the format is specified.
        switches: what may differ from `default_controls`, by a short name; see `controls_with`.
        page_shift: log2 of the smallest page.
        bits: index bits of every table but the root.
        mark_table: hardware's accessed flag in table entries; None where there is none.
        walk_write: of stage 2, whether its reads of stage-1 tables count as writes.
        group_bits: for each level, log2 of the leaves in a group; empty where the format knows none.
        group, ungroup: the mark of a leaf in a group.
        group_translates: a group's leaves all hold the address of the whole group (RISC-V NAPOT), so that a walk
            takes more bits from the input; otherwise the mark is a hint to TLBs only.
        break_before_make: a live entry may be replaced only through an invalid one (Arm).
        least_root_alignment: in bytes; a larger root is aligned to its size.
        wide_input_fault: the FaultKind of an input address that the regime has no bits for.
        privilege_by_page: stage 2 tells user from supervisor fetches by stage 1's U/S of the page, not by the mode of
            the CPU (EPT's mode-based execute control).
        high_half: input addresses have all bits above the width set (Arm TTBR1), instead of none.
    """

    name: str
    title: str
    family: str
    stage: int
    levels: int
    root_bits: int
    top_leaf_level: int
    output_bits: int
    sign_extended: bool
    decode: Decode
    permissions: Permissions
    mark: Mark
    pack_address: PackAddress
    resize: Resize
    inherit: Inherit
    forget: Forget
    encode_leaf: EncodeLeaf
    table_bits: int
    fields: tuple[Field, ...]
    default_controls: int
    hardware_ad: int
    manual: str
    switches: Mapping[str, Switch] = field(default_factory=dict)
    page_shift: int = 12
    bits: int = 9
    table_controls: int = 0
    mark_table: MarkTable | None = None
    walk_write: WalkWrite = counts_as_read
    group_bits: tuple[int, ...] = ()
    group: Group = stands_alone
    ungroup: Ungroup = stood_alone
    group_translates: bool = False
    break_before_make: bool = False
    least_root_alignment: int = SIZE_4K
    wide_input_fault: int = ADDRESS_SIZE
    privilege_by_page: bool = False
    high_half: bool = False

    @property
    def functions(self) -> tuple[Callable[..., object], ...]:
        """The functions in the compilable subset."""
        always = (
            self.decode, self.permissions, self.mark, self.pack_address, self.resize, self.inherit, self.forget,
            self.walk_write, self.group, self.ungroup,
        )  # fmt: skip
        return always if self.mark_table is None else (*always, self.mark_table)

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
        return 8 << self.bits

    @property
    def root_size(self) -> int:
        """Bytes set aside for a root table that we build, whole pages."""
        return max(8 << self.root_bits, SIZE_4K)

    @property
    def root_alignment(self) -> int:
        """What a root table's address must be a multiple of."""
        return max(8 << self.root_bits, self.least_root_alignment)

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

    def index(self, address: int, level: int) -> int:
        """Index of `address` in its table at `level`."""
        bits = self.root_bits if level == self.levels - 1 else self.bits
        return (address >> self.level_shift(level)) & ((1 << bits) - 1)

    def controls_with(self, *names: str) -> int:
        """The default controls with some of `switches` on.

        Raises:
            EncodingError: the format has no such switch; the text names those it has.
        """
        controls = self.default_controls
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
