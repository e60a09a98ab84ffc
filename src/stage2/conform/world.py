"""Tables at random in a machine's memory: a stage 2, and under it a guest's own tables.

What an oracle needs to run its guest (its fixtures) is mapped whatever else the tables say; everything else may be
legal, odd or broken. The guest's tables lie in one window of GPAs that stage 2 maps, mostly with all permissions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ..address import Hpa, Range, align_down, align_up
from ..flags import RWX, Access
from ..formats.outcome import TABLE
from ..formats.record import Format
from ..memory.physical import PhysicalMemory
from ..tables.explain import explain_stage
from ..tables.extent import Extent
from ..tables.regime import Regime
from ..tables.result import Mapped
from .entries import Maker, window_leaf_size
from .oracle import Fixture, Places
from .probe import PROBE, Means, Probes

U64Array = npt.NDArray[np.uint64]
Locate = Callable[[int], int]
"""Where the bytes of a table are, from its address in its stage's output space."""
Take = Callable[[int], int]
"""A new table of so many bytes, aligned to them."""
_TABLES = {12: 28, 14: 20, 16: 14}
"""Tables of a stage besides its root, by log2 of their size; few enough that most are met."""
_WINDOW_FLAW = 0.08
"""How often a page of the guest's tables has permissions at random at stage 2, relative to the usual."""
_OUTPUTS = 120


@dataclass(frozen=True, slots=True)
class World:
    """Tables in memory and how to reach into them.

    Args:
        stage_1: None where stage 1 is off.
        stage_2: the hypervisor's regime.
        used: the part of `Places.tables` that may not be zero.
        maker: makes input addresses: of stage 1, or of stage 2 where stage 1 is off.
    """

    stage_1: Regime | None
    stage_2: Regime
    used: Range
    maker: Maker


class Builder:
    """Builds one world.

    Args:
        memory: the machine's.
        places: where what may be put.
        rng: where the randomness comes from.
        flaws: how often entries are broken, relative to the usual; 0 makes tables without errors.
    """

    def __init__(self, memory: PhysicalMemory, places: Places, rng: np.random.Generator, flaws: float) -> None:
        self._memory, self._places, self._rng, self._flaws = memory, places, rng, flaws
        self._next = places.tables.start
        self._made: dict[int, set[int]] = {}
        """Root -> the tables on the way to what is fixed, which nothing random stands in."""

    def build(self, first: Format | None, second: Format, controls_1: int, controls_2: int) -> World:
        """Fill the tables of both formats.

        Args:
            first: the stage-1 format; None where stage 1 is off.
            second: the stage-2 format.
            controls_1, controls_2: of the regimes.
        """
        root = self._take(second.root_size, second.root_size)
        tables = self._tables(second, lambda size: self._take(size, size))
        width = self._gpa_width(first, second, controls_1) if first is not None else 0
        leaf_size = window_leaf_size(second, controls_2, self._rng)
        inner = self._inner_window(first, second, width, leaf_size) if first is not None else None
        outputs = self._outputs(second)
        outer = Maker(second, self._rng, {**tables, second.levels: [root]}, outputs, self._flaws, controls_2)
        self._fill(outer, second, root, tables, lambda gpa: gpa)
        for fixture in self._fixtures(2):
            self._fix(second, root, controls_2, fixture.address, fixture, lambda gpa: gpa)
        stage_2 = Regime(second, root, controls_2, 1)
        if first is None or inner is None:
            return World(None, stage_2, self._used, outer)
        window, backing = inner
        # The root and what leads to the fixtures, which stands behind the tables, are always within reach.
        broken = Range.sized(window.start + first.root_size, first.table_size * _TABLES[first.page_shift])
        self._map_window(second, root, controls_2, outer, window, backing, broken, leaf_size)

        def to_hpa(gpa: int) -> int:
            return gpa - window.start + backing.start

        cursor = [window.start]

        def take(size: int) -> int:
            cursor[0] = align_up(cursor[0], size)
            cursor[0] += size
            return cursor[0] - size

        root_1 = take(first.root_size)
        tables_1 = self._tables(first, take)
        gpas = self._destinations(outer, stage_2, width, first.page_size)
        maker = Maker(
            first,
            self._rng,
            {**tables_1, first.levels: [root_1]},
            [*gpas, window.start],
            self._flaws,
            controls_1,
        )
        self._fill(maker, first, root_1, tables_1, to_hpa)
        for fixture in self._fixtures(1):
            self._fix(first, root_1, controls_1, fixture.address, fixture, to_hpa, take)
        return World(Regime(first, root_1, controls_1, 1), stage_2, self._used, maker)

    # --- places ------------------------------------------------------------------------------------------

    @property
    def _used(self) -> Range:
        return Range(self._places.tables.start, align_up(self._next, 4096))

    def _take(self, size: int, align: int) -> int:
        start = align_up(self._next, max(align, 64))
        self._next = start + size
        if self._next > self._places.tables.end:
            raise ValueError("the tables of a case do not fit their place")
        return start

    def _fixtures(self, stage: int) -> list[Fixture]:
        return [fixture for fixture in self._places.fixtures if fixture.stage == stage]

    def _tables(self, fmt: Format, take: Take) -> dict[int, list[int]]:
        """Tables for each level below the root's."""
        found: dict[int, list[int]] = {level: [] for level in range(fmt.levels - 1)}
        for number in range(_TABLES[fmt.page_shift] if fmt.levels > 1 else 0):
            found[number % (fmt.levels - 1)].append(take(fmt.table_size))
        return found

    def _destinations(self, outer: Maker, stage_2: Regime, width: int, page: int) -> list[int]:
        """GPAs for the guest's leaves: where stage 2 has something mostly, some where it has nothing."""
        there: list[int] = []
        nowhere: list[int] = []
        for gpa in (outer.inside(_OUTPUTS) & np.uint64((1 << width) - 1)).tolist():
            found = explain_stage(self._memory, stage_2, gpa).result
            (there if isinstance(found, Mapped) else nowhere).append(gpa & -page)
        return [*there, *there, *there, *nowhere[: max(len(there) // 2, 2)]]

    def _outputs(self, fmt: Format) -> list[int]:
        """Where leaves of stage 2 lead: into the data, at places where blocks can begin too, and outside RAM."""
        data, rng = self._places.data, self._rng
        found = [data.start]
        for size in fmt.leaf_sizes:
            if size <= data.size:
                slots = data.size // size
                found += [data.start + size * int(rng.integers(slots)) for _ in range(6)]
        outside = (1 << min(fmt.output_bits, 40)) - fmt.page_size
        return [*found, *found, outside] if self._flaws else found

    # --- entries -----------------------------------------------------------------------------------------

    def _fill(self, maker: Maker, fmt: Format, root: int, tables: dict[int, list[int]], to_hpa: Locate) -> None:
        for level, group in tables.items():
            for table in group:
                maker.fill(self._memory, to_hpa(table), level)
        maker.fill(self._memory, to_hpa(root), fmt.levels - 1, fmt.root_bits)

    def _gpa_width(self, first: Format, second: Format, controls: int) -> int:
        """Bits of the GPAs that stage 1 can lead to and stage 2 translates."""
        output = (Extent(first, controls).output_end - 1).bit_length()
        return min(second.input_bits, output, self._places.gpa_bits)

    def _inner_window(self, first: Format, second: Format, width: int, leaf_size: int) -> tuple[Range, Range]:
        """(GPAs, HPAs) of the guest's tables, which leaves of this size are to lead to."""
        count = _TABLES[first.page_shift] + 8 * first.levels
        size = first.root_size * 2 + first.table_size * count
        page = max(leaf_size, first.table_size, first.root_size)
        size = align_up(size, page)
        backing = self._take(size, page)
        # A place of its own below the widths of both, away from the fixtures.
        block = 1 << max(width - 3, 0)
        taken = {fixture.address // block for fixture in self._fixtures(2)}
        slot = next(slot for slot in (5, 6, 3, 4, 2, 1) if slot not in taken)
        start = align_down(slot * block + int(self._rng.integers(block // 2)), max(page, size & -size, page))
        start = align_down(start, 1 << (size - 1).bit_length()) or page
        return Range.sized(start, size), Range.sized(backing, size)

    def _map_window(
        self,
        fmt: Format,
        root: int,
        controls: int,
        maker: Maker,
        window: Range,
        backing: Range,
        broken: Range,
        leaf_size: int,
    ) -> None:
        level = max(level for level, size in enumerate(fmt.leaf_sizes) if size <= leaf_size)
        grouped = leaf_size > fmt.leaf_size(level)
        for offset in range(0, window.size, leaf_size):
            fixture = Fixture(2, window.start + offset, backing.start + offset, leaf_size, RWX)
            part = Range.sized(fixture.address, leaf_size)
            odd = (
                broken.start <= part.start
                and part.end <= broken.end
                and self._rng.random() < _WINDOW_FLAW * self._flaws
            )
            bits = maker.window_bits(odd=odd)

            def leaf(target: int, bits: int = bits) -> int:
                entry = fmt.pack_address(target) | (fmt.resize(bits, 0, level) if level else bits)
                return fmt.group(entry, level) if grouped else entry

            self._fix(fmt, root, controls, fixture.address, fixture, lambda gpa: gpa, leaf=leaf, level=level)

    def _fix(
        self,
        fmt: Format,
        root: int,
        controls: int,
        address: int,
        fixture: Fixture,
        to_hpa: Locate,
        take: Take | None = None,
        leaf: Locate | None = None,
        level: int = 0,
    ) -> None:
        """Map a fixture by leaves at `level`; tables that it needs are new, or made for another fixture before.

        Args:
            leaf: makes them, from their targets; by default they allow what the fixture must.
        """
        made = self._made.setdefault(root, set())
        for offset in range(0, fixture.size, fmt.leaf_size(level)):
            table, bits_of_root = root, fmt.root_bits
            for at in range(fmt.levels - 1, -1, -1):
                index = ((address + offset) >> fmt.level_shift(at)) & ((1 << bits_of_root) - 1)
                slot = Hpa(to_hpa(table) + 8 * index)
                bits_of_root = fmt.bits
                if at == level:
                    target = fixture.target + offset
                    usual = fmt.leaf_entry(level, target, fixture.flags, controls=controls)
                    self._memory.store_u64(slot, usual if leaf is None else leaf(target))
                    break
                entry = self._memory.load_u64(slot)
                kind, below, _ = fmt.decode(entry, at, controls)
                if kind != TABLE or below not in made:
                    below = self._take(fmt.table_size, fmt.table_size) if take is None else take(fmt.table_size)
                    made.add(below)
                    pointer = fmt.table_entry(below, controls)
                    # The guest's own accesses are not to leave marks.
                    self._memory.store_u64(
                        slot, pointer if fmt.mark_table is None else fmt.mark_table(pointer, controls)
                    )
                table = below


def probes_for(
    world: World, rng: np.random.Generator, count: int, *, translates: bool, users: Sequence[bool] = (False, True)
) -> Probes:
    """Addresses and accesses: reads and fetches in the lower half of a page, writes in the upper one.

    Args:
        world: the tables.
        rng: where the randomness comes from.
        count: how many.
        translates: the oracle has an instruction that translates.
        users: the privileges, as `Pair.users`.

    Real accesses come first, then, for an oracle that has them, translations by instruction; in groups of one kind.
    """
    made = np.zeros(count, PROBE)
    stage_1 = world.stage_1
    pages = [regime.format.page_size for regime in (stage_1, world.stage_2) if regime is not None]
    half = np.uint64(min(pages) // 2)
    made["address"] = world.maker.inside(count) & ~np.uint64(7)
    kinds = np.array([(access, user) for access in Access for user in users], np.uint8)
    chosen = kinds[rng.integers(len(kinds), size=count)]
    made["access"], made["user"] = chosen[:, 0], chosen[:, 1]
    if translates:
        made["means"] = rng.random(count) < 0.75
        # Nothing translates for a fetch.
        made["means"][made["access"] == Access.FETCH] = Means.ACCESS
    writes = made["access"] == Access.WRITE
    made["address"] = np.where(writes, made["address"] | half, made["address"] & ~half)
    # No format takes these values for entries, should a broken table be found where they were written.
    values = np.arange(1, count + 1, dtype=np.uint64) << np.uint64(8) | np.uint64(0x5700_0000_0000_0000)
    made["value"] = np.where(writes, values, 0)
    order = np.lexsort((made["user"], made["access"], made["means"]))
    return made[order]


def flat(second: Format) -> Format:
    """Stage 1 switched off: the format that translates nothing."""
    return replace(
        second, name="off", stage=1, levels=0, root_bits=0, top_leaf_level=0, sign_extended=False, high_half=False
    )
