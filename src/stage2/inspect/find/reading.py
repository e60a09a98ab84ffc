"""How the entries of a group of formats are told from other words, found by asking the formats themselves.

Formats that differ in the number of levels or the width of the root have the same entries: they share a reading. What
bits an entry must have is found by changing one bit after the other of entries that the format itself makes, and asking
`decode`; nothing here knows a bit.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ...errors import EncodingError
from ...flags import MappingFlags, MemoryType
from ...formats import family_of
from ...formats.outcome import LEAF, MISCONFIGURED, NONE, SHAREABILITY_MASK, TABLE
from ...formats.record import Format
from ...prove.decoding import ALL
from ...prove.packing import Packing, U64Array, packing_of

_MOST_SHAPES = 1 << 15
"""Limit: entries of one level that differ in more than their address, those that occur most. Real tables have a few
dozen; the pages among which they are found have thousands."""
_LEAST_SHIFT = 12
_FLAGS = (
    MappingFlags.READ,
    MappingFlags.READ | MappingFlags.WRITE,
    MappingFlags.READ | MappingFlags.EXECUTE,
    MappingFlags.READ | MappingFlags.WRITE | MappingFlags.EXECUTE | MappingFlags.USER,
)


@dataclass(frozen=True, slots=True)
class Shape:
    """Bits that a word must have: `word & mask == value`."""

    mask: int
    value: int

    def fits(self, words: U64Array) -> npt.NDArray[np.bool_]:
        """Which words have them."""
        found: npt.NDArray[np.bool_] = (words & np.uint64(self.mask)) == np.uint64(self.value)
        return found

    def implies(self, other: Shape) -> bool:
        """Whether every word of this shape is one of the other too."""
        return self.mask & other.mask == other.mask and self.value & other.mask == other.value


@dataclass(frozen=True, slots=True)
class Kinds:
    """What words are as entries of one level: kind and attributes of each."""

    kind: npt.NDArray[np.uint8]
    attributes: U64Array


class Reading:
    """Formats whose entries are the same, under the same controls.

    Args:
        formats: those, the preferred one first.
        controls: theirs.
    """

    def __init__(self, formats: Sequence[Format], controls: int) -> None:
        self.formats, self.controls = tuple(formats), controls
        self.first = formats[0]
        self.packing: Packing = packing_of(self.first)
        self.field = self.packing.mask()
        finer = range(_LEAST_SHIFT, self.first.page_shift)
        self.stray = sum(self.first.pack_address(1 << bit) for bit in finer)
        """Where entries of a finer granule have address bits: this one's software leaves them clear."""
        self.levels = max(fmt.levels for fmt in formats)
        self.deepest = max(formats, key=lambda fmt: fmt.levels)
        self._low = [self._misaligned(level) for level in range(self.levels)]

    @property
    def table_size(self) -> int:
        """Bytes of a table that is no root."""
        return self.first.table_size

    @property
    def family(self) -> str:
        return self.first.family

    @property
    def stage(self) -> int:
        return self.first.stage

    @property
    def name(self) -> str:
        return "/".join(fmt.name for fmt in self.formats)

    @cached_property
    def table(self) -> Shape:
        """What entries that point to tables have in common."""
        levels = range(1, self.levels)
        made = [self.deepest.table_entry(0)]
        return self._tidy(common(_shape(self.deepest, self.controls, made, level) for level in levels))

    @cached_property
    def blocks(self) -> tuple[Shape, ...]:
        """What leaves above the lowest level have in common, level by level."""
        top = max(fmt.top_leaf_level for fmt in self.formats)
        found = (self._leaf_shape(level) for level in range(1, top + 1))
        return tuple(shape for shape in found if shape is not None)

    @cached_property
    def pages(self) -> Shape:
        """What leaves of the lowest level have in common."""
        return self._leaf_shape(0) or Shape(0, 0)

    def leaves(self, level: int) -> list[int]:
        """Leaves of a level, without an address, of all kinds that the format itself makes."""
        found = []
        for flags, kind in itertools.product(_FLAGS, MemoryType):
            try:
                found.append(self.deepest.encode_leaf(level, flags, kind, self.controls))
            except EncodingError:
                continue
        return found

    @cached_property
    def tells_shareability(self) -> bool:
        """Whether leaves say by which CPUs memory is shared."""
        made = self.leaves(0)
        return any(self.deepest.decode(leaf, 0, self.controls)[2] & SHAREABILITY_MASK for leaf in made)

    @cached_property
    def switch(self) -> str:
        """The switch of the formats that gives the same leaves other memory types (Arm's FWB); empty for none."""
        fmt, made = self.deepest, self.leaves(0)
        attributes = [fmt.decode(leaf, 0, self.controls)[2] for leaf in made]

        def types(controls: int) -> list[bool | None]:
            return [cached_word(fmt, one, controls) for one in attributes]

        usual = types(self.controls)
        names = (name for name, one in fmt.switches.items() if types(one.turn_on(self.controls)) != usual)
        return next(names, "")

    @cached_property
    def switched(self) -> int:
        """The controls with that switch on."""
        return self.deepest.switches[self.switch].turn_on(self.controls) if self.switch else self.controls

    def _leaf_shape(self, level: int) -> Shape | None:
        decode = self.deepest.decode
        made = [leaf for leaf in self.leaves(level) if decode(leaf, level, self.controls)[0] == LEAF]
        return self._tidy(_shape(self.deepest, self.controls, made, level, LEAF)) if made else None

    def _tidy(self, shape: Shape) -> Shape:
        return Shape(shape.mask | self.stray, shape.value)

    def _misaligned(self, level: int) -> int:
        """Address bits that make a leaf of a level wrong, or that hardware ignores and software leaves clear."""
        low = self.field ^ self.packing.mask(self.deepest.level_shift(level))
        leaf = next((leaf for leaf in self.leaves(level)), None) if low else None
        if leaf is None:
            return 0
        decode, controls = self.deepest.decode, self.controls
        usual = decode(leaf, level, controls)
        wrong = 0
        for bit in (1 << number for number in range(64) if low >> number & 1):
            found = decode(leaf | bit, level, controls)
            wrong |= bit if found == usual or found[0] == MISCONFIGURED else 0
        return wrong

    def outputs(self, words: U64Array, level: int = 0) -> U64Array:
        """The addresses in words, without what is below a leaf of a level."""
        size = self.first.leaf_size(level)
        return self.packing.outputs(words) & np.uint64(ALL ^ (size - 1))

    def kinds(self, words: U64Array, level: int) -> Kinds:
        """What words are at a level. Of words that differ in their address alone one is decoded.

        Args:
            words: the entries.
            level: theirs.
        """
        kind, attributes = np.zeros(len(words), np.uint8), np.zeros(len(words), np.uint64)
        if not len(words):
            return Kinds(kind, attributes)
        shapes = words & np.uint64(ALL ^ self.field)
        heads = np.concatenate([[0], np.flatnonzero(shapes[1:] != shapes[:-1]) + 1])
        lengths = np.diff(np.concatenate([heads, [len(words)]]))
        distinct, first, of_head = np.unique(shapes[heads], return_index=True, return_inverse=True)
        entries = np.bincount(of_head.ravel(), weights=lengths)
        asked = np.argsort(-entries, kind="stable")[:_MOST_SHAPES]
        low = self._low[level]
        answers = np.full((len(distinct), 2), (MISCONFIGURED, 0), np.uint64)
        decode, controls = self.deepest.decode, self.controls
        for number, word in zip(asked.tolist(), words[heads[first[asked]]].tolist(), strict=True):
            found, _, attribute = decode(word & ~low, level, controls)
            answers[number] = found, attribute
        spread = np.repeat(of_head.ravel(), lengths)
        kind, attributes = answers[spread, 0].astype(np.uint8), answers[spread, 1]
        if low:
            kind[(kind == LEAF) & (words & np.uint64(low) != 0)] = MISCONFIGURED
        if self.stray:
            kind[(kind != NONE) & (words & np.uint64(self.stray) != 0)] = MISCONFIGURED
        return Kinds(kind, attributes)


def readings_of(searched: Iterable[tuple[Format, int]]) -> list[Reading]:
    """Formats by their entries."""
    groups: dict[object, list[tuple[Format, int]]] = {}
    for fmt, controls in searched:
        key = (fmt.rules.decode, fmt.rules.pack_address, fmt.page_shift, fmt.bits, controls, fmt.stage)
        groups.setdefault(key, []).append((fmt, controls))
    return [Reading([fmt for fmt, _ in group], group[0][1]) for group in groups.values()]


def cached_word(fmt: Format, attributes: int, controls: int) -> bool | None:
    """Whether a leaf's memory is cached; None where the tables do not decide it, or a register that nobody knows."""
    if fmt.stage == 1:
        return None
    word = family_of(fmt).memory_type(fmt, attributes, controls)[0]
    return None if word is None else word in (MemoryType.WRITE_BACK.value, MemoryType.WRITE_THROUGH.value)


def _shape(fmt: Format, controls: int, made: Sequence[int], level: int, kind: int = TABLE) -> Shape:
    """The bits that no entry of a kind may have otherwise."""
    field = packing_of(fmt).mask()
    shapes = []
    for entry in made:
        fixed = [
            1 << bit
            for bit in range(64)
            if not field >> bit & 1 and fmt.decode(entry ^ 1 << bit, level, controls)[0] != kind
        ]
        shapes.append(Shape(sum(fixed), entry & sum(fixed)))
    return common(shapes)


def common(shapes: Iterable[Shape]) -> Shape:
    """What shapes have in common."""
    first, *others = shapes
    mask, value = first.mask, first.value
    for other in others:
        mask &= other.mask & ~(value ^ other.value)
        value &= mask
    return Shape(mask, value & mask)


__all__ = ["LEAF", "NONE", "TABLE", "Kinds", "Reading", "Shape", "cached_word", "common", "readings_of"]
