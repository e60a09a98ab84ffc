"""What both stages map together: ranges GVA -> GPA -> HPA with permissions, leaves and memory types.

Everything is arrays; a range becomes an object only when somebody looks at it. Ranges come in order of their input
address, a part at a time, so that a map of any size takes little memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ..address import ADDRESS_LIMIT, Range
from ..errors import SourceError
from ..formats import TypeSources
from ..formats.effective import NOTHING_KNOWN
from ..formats.outcome import ACCESSED, DIRTY, GLOBAL, GROUPED, TABLES_ACCESSED
from ..formats.record import Format
from ..prove.packing import U64Array
from ..tables.outward import outward_all
from ..tables.regime import Regime
from ..tables.result import permission_text
from .kinds import NONE, Kind, kind_of
from .listing import MOST_TABLES, Lister, Progress
from .root import Root
from .source import MemorySource
from .through import NOWHERE, GuestPhysical

IGNORED = ACCESSED | DIRTY | TABLES_ACCESSED | GROUPED | GLOBAL
"""What a map does not tell leaves apart by: it says what may be done, not what was done."""
_MOST_HELD = 1 << 25
"""Limit: rows of a stage 2 that are held at once for the stage 1 above it (1 GiB)."""


@dataclass(frozen=True, slots=True)
class MapRange:
    """One range of a map.

    Args:
        gva: the first input address of stage 1; None for a map of stage 2 alone.
        gpa: of stage 2; None for a map of a stage 1 whose output is physical.
        hpa: where it leads; None where stage 2 maps nothing there.
        size: bytes.
        permissions: as in `Mapped`: privileged in bits 0-2, user in bits 3-5.
        leaf: bytes of the smallest leaf of any stage.
        memory_type: a word ("write-back", "Device-nGnRE"); None where the tables do not decide it.
    """

    gva: int | None
    gpa: int | None
    hpa: int | None
    size: int
    permissions: int
    leaf: int
    memory_type: str | None

    @property
    def allows(self) -> str:
        """The permissions as text: `rwx`, or `rw-/---` (privileged/user)."""
        return permission_text(self.permissions)

    @property
    def start(self) -> int:
        """The input address."""
        return next(address for address in (self.gva, self.gpa, self.hpa) if address is not None)


@dataclass(frozen=True, slots=True)
class MapPart:
    """Ranges of a map as arrays, in order.

    Args:
        first, second: the stages; None for one that takes no part.
        start: input addresses, as programs write them (sign extended).
        middle: GPAs, where both stages take part; otherwise the input.
        output: HPAs; NOWHERE where stage 2 maps nothing.
        size: bytes.
        key_1, key_2: attributes of the leaves with the level in bits 31:24; NONE for no leaf.
        types: what beside the leaves decides memory types.
    """

    first: Regime | None
    second: Regime | None
    start: U64Array
    middle: U64Array
    output: U64Array
    size: U64Array
    key_1: U64Array
    key_2: U64Array
    types: TypeSources = NOTHING_KNOWN

    def __len__(self) -> int:
        return len(self.start)

    def __repr__(self) -> str:
        stages = " under ".join(regime.format.name for regime in (self.first, self.second) if regime is not None)
        return f"MapPart({len(self)} ranges, {stages})"

    @property
    def columns(self) -> tuple[U64Array, ...]:
        """The arrays, in the order of their names."""
        return self.start, self.middle, self.output, self.size, self.key_1, self.key_2

    def only(self, which: npt.NDArray[np.bool_] | npt.NDArray[np.intp] | slice) -> MapPart:
        """Some of the ranges."""
        return _made(self, [column[which] for column in self.columns])

    def told(self) -> Iterator[MapRange]:
        """The ranges as objects."""
        numbers = zip(*(column.tolist() for column in self.columns), strict=True)
        for start, middle, output, size, key_1, key_2 in numbers:
            kind = kind_of(self.first, self.second, key_1, key_2, self.types)
            yield MapRange(
                start if self.first is not None else None,
                middle if self.second is not None else None,
                None if output == NOWHERE else output,
                size, kind.permissions, kind.leaf, kind.memory_type,
            )  # fmt: skip

    def told_numbers(self, which: npt.NDArray[np.intp]) -> Iterator[tuple[int, int, int, int, int]]:
        """Start, middle, output and size of the ranges, and a number of each: for millions of them.

        Args:
            which: the number of each range's kind, as `kinds` tells it.
        """
        columns = (self.start, self.middle, self.output, self.size, which)
        yield from zip(*(column.tolist() for column in columns), strict=True)

    def kinds(self) -> tuple[list[Kind], npt.NDArray[np.intp]]:
        """The kinds of leaves that occur, and which of them each range is of."""
        firsts, of_first = np.unique(self.key_1, return_inverse=True)
        seconds, of_second = np.unique(self.key_2, return_inverse=True)
        # Pairs as one number each: sorting those takes a fraction of sorting pairs.
        codes, which = np.unique(of_first.ravel() * len(seconds) + of_second.ravel(), return_inverse=True)
        pairs = [(int(firsts[code // len(seconds)]), int(seconds[code % len(seconds)])) for code in codes.tolist()]
        return [kind_of(self.first, self.second, *keys, self.types) for keys in pairs], which.ravel()


def map_parts(
    source: MemorySource,
    first: Root | None,
    second: Root | None,
    *,
    span: Range | None = None,
    most: int = MOST_TABLES,
    progress: Progress | None = None,
) -> Iterator[MapPart]:
    """What stages map together, in order of the input address; neighbours that continue each other are one.

    Args:
        source: host physical memory.
        first: stage 1, whose tables are at GPAs if there is a second.
        second: stage 2.
        span: the input addresses that are asked for, as programs write them; None for all.
        most: tables of a stage that are read before it gives up.
        progress: told of long work.

    Raises:
        SourceError: tables lead to each other in circles, or the source can no longer be read.
    """
    held: MapPart | None = None
    for part in _parts(source, first, second, span, most, progress):
        if not len(part):
            continue
        if held is not None:
            # Parts are joined within: what may go on is the last range of one in the first of the next.
            seam = _joined(_concatenated([held, part.only(slice(0, 1))]))
            if len(seam) == 1:
                part.size[0] = seam.size[0]
                for name in ("start", "middle", "output"):
                    getattr(part, name)[0] = getattr(seam, name)[0]
            else:
                yield held
        if len(part) > 1:
            yield part.only(slice(None, -1))
        held = part.only(slice(-1, None))
    if held is not None:
        yield held


def gathered(parts: Iterable[MapPart], most: int) -> tuple[MapPart | None, int]:
    """Parts of a map as one, as far as there is room, and how many ranges are left out.

    Args:
        parts: of one map; those of Arm's two halves are parts of one as well.
        most: ranges that are kept, the first ones.
    """
    held: list[MapPart] = []
    count = left_out = 0
    for part in parts:
        room = min(len(part), most - count)
        count, left_out = count + room, left_out + len(part) - room
        if room:
            held.append(part.only(slice(None, room)))
    if not held:
        return None, left_out
    return _concatenated(held), left_out


def _parts(
    source: MemorySource,
    first: Root | None,
    second: Root | None,
    span: Range | None,
    most: int,
    progress: Progress | None,
) -> Iterator[MapPart]:
    outer = first or second
    assert outer is not None, "a map is of one stage at least"
    for piece in _walked_spans(outer.regime.format, span):
        if first is None or second is None:
            lister = Lister(outer.regime, source, span=piece, most=most, ignore=IGNORED, progress=progress)
            for rows in lister.parts():
                yield of_one_stage(outer, rows)
            continue
        below = stage_2_rows(source, second, most)
        guest = GuestPhysical(source, second.regime, below)
        lister = Lister(first.regime, guest, span=piece, most=most, ignore=IGNORED, progress=progress)
        for rows in lister.parts():
            yield _joined(through_both(first, second, rows, below))


def stage_2_rows(source: MemorySource, root: Root, most: int = MOST_TABLES) -> U64Array:
    """All that a root of stage 2 maps, as rows.

    Args:
        source: host physical memory.
        root: of stage 2.
        most: tables that are read before it gives up.

    Raises:
        SourceError: it gave up, or there are too many rows to hold.
    """
    rows = [np.zeros((0, 4), np.uint64)]
    count = 0
    for part in Lister(root.regime, source, most=most, ignore=IGNORED).parts():
        rows.append(part)
        count += len(part)
        if count > _MOST_HELD:
            raise SourceError(f"{root.name} maps more than {_MOST_HELD:,} ranges, too many to put a stage 1 above them")
    return np.concatenate(rows)


def _walked_spans(fmt: Format, span: Range | None) -> Sequence[Range | None]:
    """A range of addresses as walks take them: without sign extension, in pieces."""
    if span is None:
        return (None,)
    width, found = 1 << fmt.input_bits, []
    parts = [(0, width, 0)]
    if fmt.high_half:
        parts = [(ADDRESS_LIMIT - width, ADDRESS_LIMIT, ADDRESS_LIMIT - width)]
    elif fmt.sign_extended:
        parts = [(0, width >> 1, 0), (ADDRESS_LIMIT - (width >> 1), ADDRESS_LIMIT, ADDRESS_LIMIT - width)]
    for start, end, less in parts:
        both = span.intersection(Range(start, end))
        if both is not None:
            found.append(Range(both.start - less, both.end - less))
    return found


def _starts(root: Root, rows: U64Array) -> U64Array:
    """Where rows of a root begin, as programs write it."""
    found = rows[:, 0].copy()
    outward_all(root.regime.format, found)
    return found


def of_one_stage(root: Root, rows: U64Array) -> MapPart:
    start = _starts(root, rows)
    none = np.full(len(rows), NONE, np.uint64)
    if root.stage == 1:
        return MapPart(root.regime, None, start, start, rows[:, 1], rows[:, 2], rows[:, 3], none, root.types)
    return MapPart(None, root.regime, start, start, rows[:, 1], rows[:, 2], none, rows[:, 3])


def through_both(first: Root, second: Root, rows: U64Array, below: U64Array) -> MapPart:
    """Rows of stage 1 cut where stage 2 goes on to something else; what stage 2 does not map is there too."""
    starts = _starts(first, rows)
    begin = np.searchsorted(below[:, 0] + below[:, 2], rows[:, 1], "right")
    end = np.searchsorted(below[:, 0], rows[:, 1] + rows[:, 2], "left")
    counts = np.maximum(end - begin, 0)
    who = np.repeat(np.arange(len(rows)), counts)
    first_of = np.cumsum(counts) - counts
    under = np.arange(int(counts.sum())) - np.repeat(first_of, counts) + np.repeat(begin, counts)
    above, lower = rows[who], below[under]
    low = np.maximum(above[:, 1], lower[:, 0])
    high = np.minimum(above[:, 1] + above[:, 2], lower[:, 0] + lower[:, 2])
    hit = MapPart(
        first.regime, second.regime, starts[who] + (low - above[:, 1]), low, lower[:, 1] + (low - lower[:, 0]),
        high - low, above[:, 3], lower[:, 3], first.types,
    )  # fmt: skip
    missed = _missed(first, second, starts, rows, who, low, high)
    whole = hit if not len(missed) else _concatenated([hit, missed])
    return whole.only(np.argsort(whole.start, kind="stable"))


def _missed(
    first: Root, second: Root, starts: U64Array, rows: U64Array, who: npt.NDArray[np.intp], low: U64Array,
    high: U64Array,
) -> MapPart:  # fmt: skip
    """What stage 1 maps and stage 2 does not: the gaps before, between and behind the pieces of each row."""
    every = np.arange(len(rows))
    owner = np.concatenate([who, every])
    begins = np.concatenate([low, rows[:, 1] + rows[:, 2]])
    ends = np.concatenate([high, rows[:, 1] + rows[:, 2]])
    order = np.lexsort((begins, owner))
    owner, begins, ends = owner[order], begins[order], ends[order]
    head = np.ones(len(owner), bool)
    head[1:] = owner[1:] != owner[:-1]
    before = np.empty_like(ends)
    before[1:] = ends[:-1]
    before[head] = rows[owner[head], 1]
    gap = begins > before
    of, at, size = owner[gap], before[gap], begins[gap] - before[gap]
    nowhere = np.full(len(of), NOWHERE, np.uint64)
    return MapPart(
        first.regime, second.regime, starts[of] + (at - rows[of, 1]), at, nowhere, size, rows[of, 3], nowhere.copy()
    )


def _concatenated(parts: Sequence[MapPart]) -> MapPart:
    return _made(parts[0], [np.concatenate(column) for column in zip(*(part.columns for part in parts), strict=True)])


def _made(like: MapPart, columns: Sequence[U64Array]) -> MapPart:
    """Other ranges of the map that a part is of."""
    start, middle, output, size, key_1, key_2 = columns
    return replace(like, start=start, middle=middle, output=output, size=size, key_1=key_1, key_2=key_2)


def _joined(part: MapPart) -> MapPart:
    """Neighbours that continue each other at every stage, as one."""
    if len(part) < 2:
        return part
    size, nowhere = part.size[:-1], part.output[:-1] == np.uint64(NOWHERE)
    on = part.start[:-1] + size == part.start[1:]
    on &= part.middle[:-1] + size == part.middle[1:]
    on &= np.where(nowhere, part.output[1:] == np.uint64(NOWHERE), part.output[:-1] + size == part.output[1:])
    on &= (part.key_1[:-1] == part.key_1[1:]) & (part.key_2[:-1] == part.key_2[1:])
    if not on.any():
        return part
    heads = np.concatenate([[0], np.flatnonzero(~on) + 1])
    return replace(part.only(heads), size=np.add.reduceat(part.size, heads))
