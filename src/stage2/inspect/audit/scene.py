"""What an audit looks at: the roots, who their tables belong to, and what everybody reaches.

Nothing in memory says who owns it. What is inferred is told with the report (`Scene.assumed`): every stage 2 confines a
VM; its tables, and those of a stage 1 that leads to host memory, are the hypervisor's; tables of a stage 1 below a
stage 2 are that guest's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ...formats.record import Format
from ...formats.rules import ENTRY_SIZE
from ...formats.x86 import longmode
from ...prove.packing import U64Array
from ...tables.regime import Regime
from ..mapping import MapPart, of_one_stage, through_both
from ..root import Root
from ..source import MemorySource
from ..through import NOWHERE, GuestPhysical
from .reach import ANY_WRITE, Held, Layer, Mapped, PartyOf, Reach, gathered
from .spans import NOTHING, common, of_ranges, size_of, together, union
from .survey import Budget, Survey, survey

MOST_ROOTS = 256
"""Limit: roots that are looked at."""
_X86_BITS = 51
"""Bits of an x86 address, at most."""
_MOST_PIECES = 1 << 23
"""Limit: pieces that stage 2 may cut the mappings of one stage 1 into."""


@dataclass(frozen=True, slots=True)
class Looked:
    """A root that was looked at.

    Args:
        root: it.
        party: whose.
        survey: what its tables say.
        tables: (n, 2) host memory that the tables lie in, as a set.
        mapped: bytes of host memory that it leads to, each counted once.
    """

    root: Root
    party: PartyOf
    survey: Survey
    tables: U64Array
    mapped: int


@dataclass(slots=True)
class Scene:
    """What is there.

    Args:
        source: the memory.
        looked: the roots.
        reaches: what everybody reaches: VMs, then guests, then those whose stage 1 leads to host memory.
        memory: host memory that the source has, as a set.
        same: pairs of names of stage-2 roots that were taken for one VM's.
        guessed: roots of stage 1 that were found by looking for them; they may be dead, or none.
        assumed: what was inferred, a sentence each.
        unread: why something was not looked at, a sentence each.
    """

    source: MemorySource
    looked: list[Looked] = field(default_factory=list)
    reaches: list[Reach] = field(default_factory=list)
    memory: U64Array = field(default_factory=lambda: NOTHING)
    same: list[tuple[Root, Root]] = field(default_factory=list)
    guessed: frozenset[Root] = frozenset()
    assumed: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    def of_layer(self, *layers: Layer) -> list[Reach]:
        """What parties of some layers reach."""
        return [reach for reach in self.reaches if reach.party.layer in layers]

    def tables_of(self, wanted: Callable[[PartyOf], bool], *, guessed: bool = True) -> U64Array:
        """The host memory that tables of some parties lie in, with or without those of guessed roots."""
        some = (one for one in self.looked if guessed or one.root not in self.guessed)
        return together(one.tables for one in some if wanted(one.party))

    def hypervisor_tables(self, *, guessed: bool = True) -> U64Array:
        """The tables that no guest may reach: of every stage 2, and of each stage 1 that leads to host memory."""
        return self.tables_of(lambda party: party.layer is not Layer.GUEST, guessed=guessed)


def build_scene(source: MemorySource, roots: Sequence[Root], *, guessed: Collection[Root] = ()) -> Scene:
    """Read all roots, and infer whose they are.

    Args:
        source: the memory.
        roots: in order of importance.
        guessed: those of the roots that were found by looking for them.

    Raises:
        SourceError: the source can no longer be read.
    """
    return _Builder(source, roots, guessed).build()


@dataclass(slots=True)
class _Second:
    """A stage 2 that was read, and what guests' tables are read through."""

    root: Root
    survey: Survey
    vm: int
    physical: GuestPhysical


class _Builder:
    def __init__(self, source: MemorySource, roots: Sequence[Root], guessed: Collection[Root]) -> None:
        self._source, self._guessed = source, guessed
        first = frozenset(root for root in guessed if root.stage == 1)
        self._scene = Scene(source, memory=of_ranges(source.ranges()), guessed=first)
        self._budget = Budget()
        self._roots = _with_those_below(roots)
        if len(self._roots) > MOST_ROOTS:
            self._scene.unread.append(f"{len(self._roots) - MOST_ROOTS:,} roots more than {MOST_ROOTS}")
            self._roots = self._roots[:MOST_ROOTS]
        self._mapped: dict[PartyOf, list[Mapped]] = {}
        self._writable: dict[PartyOf, U64Array] = {}
        self._seconds: dict[str, _Second] = {}

    def build(self) -> Scene:
        for root in self._roots:
            if root.stage == 2:
                self._take_second(root)
        for party, mapped in self._mapped.items():
            reach = gathered(party, mapped)
            self._writable[party] = reach.spans(reach.allowing(ANY_WRITE))
        for root in sorted(self._roots, key=lambda root: root.under is None):
            if root.stage == 1:
                self._take_first(root)
        scene = self._scene
        scene.reaches = [gathered(party, mapped) for party, mapped in self._mapped.items()]
        order = {Layer.VM: 0, Layer.GUEST: 1, Layer.OWN: 2}
        scene.reaches.sort(key=lambda reach: (order[reach.party.layer], reach.party.vm))
        self._assume()
        return scene

    def _take_second(self, root: Root) -> None:
        found = survey(_narrowed(root.regime), self._source, self._budget, keep_vacant=_may_leak(root))
        twin = next((one for one in self._seconds.values() if _may_be_one(one, root, found)), None)
        vm = twin.vm if twin is not None else 1 + max((one.vm for one in self._seconds.values()), default=0)
        if twin is not None:
            self._scene.same.append((twin.root, root))
        physical = GuestPhysical(self._source, root.regime, found.rows)
        self._seconds[root.name] = _Second(root, found, vm, physical)
        self._keep(root, PartyOf(f"VM {vm}", Layer.VM, vm), found, of_one_stage(root, found.rows), found.tables)

    def _take_first(self, root: Root) -> None:
        if root.under is None:
            self._take_own(root)
            return
        second = self._seconds.get(root.under.name)
        if second is None:  # it is beyond the limit, which is told
            return
        found = survey(_narrowed(root.regime), second.physical, self._budget, keep_vacant=_may_leak(root))
        if _pieces(found.rows, second.survey.rows) > _MOST_PIECES:
            self._scene.unread.append(f"{root.name}: {root.under.name} cuts it into too many pieces")
            return
        part = through_both(root, second.root, found.rows, second.survey.rows)
        hpas = second.physical.hpas(found.tables[:, 0])
        tables = np.stack([hpas, found.tables[:, 1]], axis=1)[hpas != np.uint64(NOWHERE)]
        party = PartyOf(f"the guest of VM {second.vm}", Layer.GUEST, second.vm)
        self._keep(root, party, found, part, tables)

    def _take_own(self, root: Root) -> None:
        """A stage 1 that leads to host memory. One that was found where a guest can write may be any guest's."""
        if root in self._guessed:
            at = np.array([[root.regime.root, root.regime.root + 8]], np.uint64)
            for party, writable in self._writable.items():
                if len(common(at, writable)):
                    self._scene.unread.append(
                        f"{root.name}: it lies where {party.name} can write, so it is taken for that guest's own, "
                        "whose addresses are not host addresses"
                    )
                    return
        found = survey(_narrowed(root.regime), self._source, self._budget, keep_vacant=_may_leak(root))
        name = self._own_name(root)
        self._keep(root, PartyOf(name, Layer.OWN), found, of_one_stage(root, found.rows), found.tables)

    def _own_name(self, root: Root) -> str:
        if "EL2" in root.where or "hypervisor" in root.role:
            return "the hypervisor"
        return "the host" if self._seconds else "the system"

    def _keep(self, root: Root, party: PartyOf, found: Survey, part: MapPart, tables: U64Array) -> None:
        kinds, which = part.kinds()
        family = root.regime.format.family
        held = [Held.of(kind, kind.memory_type, family) for kind in kinds]
        self._mapped.setdefault(party, []).append(Mapped(root, part, held, which))
        there = part.output != np.uint64(NOWHERE)
        mapped = size_of(union(part.output[there], part.size[there]))
        if found.cut:
            self._scene.unread.append(found.cut)
        places = _places(tables, root.regime.format)
        self._scene.looked.append(Looked(root, party, found, places, mapped))

    def _assume(self) -> None:
        assumed = self._scene.assumed
        if self._seconds:
            assumed.append(
                "each root of a stage 2 confines a VM; its tables, and those of a stage 1 that leads to host memory, "
                "belong to the hypervisor"
            )
            assumed.append(
                "what two VMs both reach is shared; no declaration in memory says which shares are meant to be"
            )
        if any(one.party.layer is Layer.GUEST for one in self._scene.looked):
            assumed.append("the tables of a stage 1 below a stage 2 belong to that guest")
        if any(one.party.layer is not Layer.VM for one in self._scene.looked):
            assumed.append(
                "the high half of the addresses is the kernel's; what a CPU allows beside its tables (protection keys, "
                "PSTATE.PAN) is not seen"
            )
        if any(one.root in self._scene.guessed for one in self._scene.looked):
            assumed.append(
                "a stage 1 that only a search found may be one that nobody uses any more, or none: what rests on such "
                "roots alone is no error but a warning"
            )


def _with_those_below(roots: Sequence[Root]) -> list[Root]:
    """Each root once, and each stage 2 that a root names."""
    found: dict[tuple[str, str], Root] = {}
    for root in roots:
        below = root.under
        if below is not None:
            found.setdefault((below.name, ""), below)
        found.setdefault((root.name, "" if below is None else below.name), root)
    return list(found.values())


def _narrowed(regime: Regime) -> Regime:
    """A regime of x86 without address bit 51, where nothing says how wide addresses are.

    No processor has it, and KVM marks entries of nested tables for devices that it emulates by setting it (Linux,
    arch/x86/kvm/mmu/spte.c, `kvm_mmu_reset_all_pte_masks`): they are reserved to hardware, which faults on them.
    """
    width = regime.controls >> longmode.MAXPHYADDR_SHIFT & 0x3F
    if regime.format.rules is not longmode.RULES or width <= _X86_BITS:
        return regime
    lower = (width ^ _X86_BITS) << longmode.MAXPHYADDR_SHIFT
    return replace(regime, controls=regime.controls ^ lower)


def _may_leak(root: Root) -> bool:
    """Whether the address in an entry that is not present matters (see `not_present`)."""
    return root.regime.format.family == "x86"


def _places(tables: U64Array, fmt: Format) -> U64Array:
    """The host memory that tables lie in: (n, 2) address and level."""
    if not len(tables):
        return NOTHING
    sizes = np.array([ENTRY_SIZE << fmt.index_bits(level) for level in range(fmt.levels)], np.uint64)
    return union(tables[:, 0], sizes[tables[:, 1].astype(np.intp)])


def _pieces(rows: U64Array, below: U64Array) -> int:
    """Into how many pieces a stage 2 cuts the mappings of a stage 1."""
    begin = np.searchsorted(below[:, 0] + below[:, 2], rows[:, 1], "right")
    end = np.searchsorted(below[:, 0], rows[:, 1] + rows[:, 2], "left")
    return int(np.maximum(end - begin, 0).sum()) + len(rows)


def _may_be_one(one: _Second, root: Root, found: Survey) -> bool:
    """Whether two stages 2 are of one VM, as far as their identifiers and what they map tell."""
    identifiers = {one.root.regime.identifier, root.regime.identifier} - {0}
    return len(identifiers) < 2 and _map_the_same(one.survey.rows, found.rows)


def _map_the_same(one: U64Array, other: U64Array) -> bool:
    """Whether two stages 2 lead most of their addresses to the same: two views of one VM, and no two VMs."""
    if not len(one) or not len(other):
        return False
    smaller = min(int(one[:, 2].sum()), int(other[:, 2].sum()))
    alike = 0
    # Where the difference between input and output is the same, equal inputs are equal outputs.
    for shift in np.intersect1d(one[:, 1] - one[:, 0], other[:, 1] - other[:, 0])[:_MOST_SHIFTS].tolist():
        mine, its = (rows[rows[:, 1] - rows[:, 0] == np.uint64(shift)] for rows in (one, other))
        alike += size_of(common(union(mine[:, 0], mine[:, 2]), union(its[:, 0], its[:, 2])))
    return 2 * alike > smaller


_MOST_SHIFTS = 256
"""Limit: differences between input and output that are compared."""
