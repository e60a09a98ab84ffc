"""Candidate roots of every format in a source, scored, best first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np

from ...address import Range
from ...errors import Stage2Error
from ...formats import Format, by_name, families, family_of
from ...tables.regime import Regime
from ..listing import Lister
from ..root import Root, roots_of_registers
from ..source import MemorySource
from ..through import NOWHERE
from .candidates import Candidate, candidates
from .column import Column
from .graph import TableGraph
from .guest import GuestMemory
from .judge import NAMED
from .naming import Named, kernel_tables, led_to, named_in
from .reading import Reading, readings_of
from .survey import THREADS, Progress, Survey, survey, tests_for

LEAST = 0.25
"""Scores below this are not told."""
NEARLY = 0.9
"""How good another format must be beside the best one to be told of."""
_PART_OF = 0.6
"""How good a root must be, beside one inside its table, for that to be a part of it."""
_MOST_NAMED = 256
"""Limit: roots for which names are looked for."""
_MOST_GUESTS = 8
"""Limit: stage-2 roots whose guests are searched."""
_GUEST_FROM = 0.5
"""The score from which on a stage-2 root's guest is searched."""
_MOST_KERNELS = 32
_IDENTITY_TABLES = 64


@dataclass(frozen=True, slots=True)
class FoundRoot:
    """A root that was found.

    Args:
        root: format, address, controls; its role and what names it, as far as that is known.
        score: 0 to 1.
        reasons: why, in sentences without a full stop.
        mapped_bytes: what its leaves map.
        register: which register names it; empty if none does.
        others: other formats under which the same bytes make nearly as much sense.
    """

    root: Root
    score: float
    reasons: tuple[str, ...]
    mapped_bytes: int
    register: str = ""
    others: tuple[str, ...] = ()

    @property
    def alive(self) -> bool | None:
        """Whether a CPU translates by it now; None where nothing tells."""
        return self.root.active

    @property
    def _key(self) -> tuple[float, int, int]:
        return -self.score, -self.mapped_bytes, self.root.regime.root


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found.

    Args:
        roots: best first.
        notices: what limits cut short, and what of the registers makes no sense; sentences.
        searched: bytes that were looked at.
    """

    roots: tuple[FoundRoot, ...]
    notices: tuple[str, ...] = ()
    searched: int = 0


@dataclass(slots=True)
class _Space:
    """One address space that is searched: the host's, or a guest's.

    Args:
        memory: it.
        under: the stage 2 that it is seen through.
        seen: what the pass over it found.
        found: the candidates that are left, with the other formats that each could be.
    """

    memory: MemorySource
    under: Root | None
    seen: Survey
    found: list[tuple[Candidate, tuple[str, ...]]] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)


def find(
    source: MemorySource,
    *,
    formats: Sequence[str] = (),
    arch: str | None = None,
    most: int | None = None,
    registers: bool = True,
    progress: Progress | None = None,
) -> Found:
    """Search a source for roots of tables.

    Args:
        source: the memory.
        formats: names of formats; none for all.
        arch: the architecture; None takes the source's, and where it says none, all are searched for.
        most: roots that are told, the best ones; None for all.
        registers: look at the source's registers too.
        progress: told of the pass over the memory.

    Raises:
        EncodingError: there is no such format or architecture.
        SourceError: the source can no longer be read.
    """
    readings = _readings(formats, arch or source.arch)
    spaces = [_searched(source, readings, None, progress)]
    host = spaces[0]
    for one, _ in [pair for pair in host.found if pair[0].reading.stage == 2][:_MOST_GUESTS]:
        first = [reading for reading in readings if reading.stage == 1 and reading.family == one.reading.family]
        if one.judgement.score >= _GUEST_FROM and first:
            guest = GuestMemory(source, one.regime)
            if guest.ranges():
                spaces.append(_searched(guest, first, Root(one.regime, "stage 2", "find"), None))
    _each_once(spaces)
    found = [root for space in spaces for root in _told(space)]
    notices = [notice for space in spaces for notice in space.cut]
    if registers:
        found, wrong = _with_registers(found, source, formats)
        notices += wrong
    found.sort(key=lambda one: one._key)
    return Found(tuple(found[:most]), tuple(dict.fromkeys(notices)), host.seen.size)


def _readings(names: Sequence[str], arch: str | None) -> list[Reading]:
    """What is searched for."""
    if arch is not None:
        from ...formats import family_for

        chosen = [family_for(arch)]
    else:
        chosen = list(families().values())
    searched = [pair for family in chosen for pair in family.searched()]
    if names:
        controls = {(fmt.rules, fmt.page_shift): given for fmt, given in searched}
        asked = [by_name(name) for name in names]
        searched = [(fmt, controls.get((fmt.rules, fmt.page_shift), fmt.default_controls)) for fmt in asked]
    return readings_of((fmt, given) for fmt, given in searched if not fmt.is_bare)


def _searched(
    memory: MemorySource, readings: Sequence[Reading], under: Root | None, progress: Progress | None
) -> _Space:
    """Search one address space."""
    spans = memory.ranges()
    if not spans or not readings:
        return _Space(memory, under, Survey())
    tests = tests_for(readings, Range(spans[0].start, spans[-1].end))
    seen = survey(memory, tests.values(), progress)
    space = _Space(memory, under, seen)

    def search(reading: Reading) -> tuple[list[Candidate], str]:
        graph = TableGraph(reading, memory, seen.pages[tests[reading]], seen.busy)
        found = [one for one in candidates(graph) if one.judgement.score >= LEAST]
        return found, graph.cut

    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(search, readings))
    space.cut = [cut for _, cut in results if cut]
    space.found = _best([one for found, _ in results for one in found], memory)
    return space


def _best(found: Iterable[Candidate], memory: MemorySource) -> list[tuple[Candidate, tuple[str, ...]]]:
    """For each address the best format; without tables that a better root leads to, and parts of better roots."""
    at: dict[int, list[Candidate]] = {}
    for one in sorted(found, key=lambda one: -one.judgement.score):
        at.setdefault(one.root, []).append(one)
    ordered = sorted(at.values(), key=lambda group: -group[0].judgement.score)
    best: list[tuple[Candidate, tuple[str, ...]]] = []
    parts = {one.root for group in ordered for one in group[:1]}
    below: set[int] = set()
    for group in ordered:
        below.update(parts.intersection(group[0].children(memory).tolist()) - {group[0].root})
    heads = [group[0] for group in ordered]
    for group in ordered:
        first, *others = group
        least = _PART_OF * first.judgement.score
        around = (one for one in heads if one.root < first.root < one.end)
        if first.root in below or any(one.judgement.score >= least for one in around):
            continue
        least = NEARLY * first.judgement.score
        near = dict.fromkeys(one.format.name for one in others if one.judgement.score >= least)
        best.append((first, tuple(near)))
    return best


def _each_once(spaces: Sequence[_Space]) -> None:
    """A stage-1 root that a guest's stage 2 leads to is the guest's: it is told there alone."""
    hosts = spaces[0]
    theirs: set[int] = set()
    for space in spaces[1:]:
        if isinstance(space.memory, GuestMemory) and space.found:
            gpas = np.array([one.root for one, _ in space.found], np.uint64)
            hpas = space.memory.hpas(gpas)
            theirs.update(hpas[hpas != np.uint64(NOWHERE)].tolist())
    hosts.found = [pair for pair in hosts.found if pair[0].reading.stage == 2 or pair[0].root not in theirs]


def _told(space: _Space) -> list[FoundRoot]:
    """The roots of one space with what names them."""
    some = [one for one, _ in space.found[:_MOST_NAMED]]
    named = named_in(space.memory, space.seen.busy, some) if some else {}
    kernels, high = _kernel(space, some)
    found = []
    for one, others in space.found:
        by = named.get(one, Named())
        reasons = [*by.reasons(), *one.judgement.reasons]
        fmt, controls, role = _half(one, high, space.memory)
        kernel = one.root in kernels
        if kernel:
            reasons.insert(0, "the kernel's symbol swapper_pg_dir leads to it")
            role = "the kernel's own tables"
        bonus = 1.0 if kernel else 0.4 if by.vmcbs else 0.3 if by.count else 0.0
        score = min(1.0, one.judgement.score + one.judgement.quality * NAMED * bonus)
        root = Root(Regime(fmt, one.root, controls), role, "find", space.under)
        found.append(FoundRoot(root, round(score, 4), tuple(reasons), one.count(Column.BYTES), "", others))
    return found


def _kernel(space: _Space, some: Sequence[Candidate]) -> tuple[set[int], set[int]]:
    """Addresses of Linux's own root tables, and the roots by whose tables the kernel's addresses lead there."""
    addresses = kernel_tables(space.memory, space.seen.notes)
    kernels: set[int] = set()
    through: set[int] = set()
    if not addresses:
        return kernels, through
    roots = {one.root for one in some}
    for one in [one for one in some if one.reading.stage == 1][:_MOST_KERNELS]:
        for address in addresses:
            output = led_to(one.regime, space.memory, address)
            if output is not None and output in roots:
                kernels.add(output)
                through.add(one.root)
    return kernels, through


def _half(one: Candidate, high: set[int], memory: MemorySource) -> tuple[Format, int, str]:
    """The format with the half of the addresses that it is of, its controls, and a role."""
    fmt = one.format
    upper = next((other for other in one.reading.formats if other.high_half and _shape(other) == _shape(fmt)), None)
    users, leaves = one.count(Column.USER), one.count(Column.LEAVES)
    if fmt.stage == 2:
        return fmt, one.controls, "stage 2 of a guest"
    if "el2" in fmt.switches and users == leaves == one.count(Column.FETCHABLE):
        controls = fmt.switches["el2"].turn_on(one.controls)
        return fmt, controls, "the hypervisor's own tables (EL2)"
    if upper is not None and (one.root in high or (not users and not _maps_itself(one, memory))):
        return upper, one.controls, "an operating system's tables, high addresses"
    if users and upper is not None:
        return fmt, one.controls, "the tables of a process"
    return fmt, one.controls, ""


def _shape(fmt: Format) -> tuple[int, int]:
    return fmt.levels, fmt.root_bits


def _maps_itself(one: Candidate, memory: MemorySource) -> bool:
    """Whether the first leaves of a root lead to the addresses that they are for, as while an MMU is switched on."""
    lister = Lister(one.regime, memory, most=_IDENTITY_TABLES, strict=False)
    same = whole = 0
    for rows in lister.parts():
        whole += int(rows[:, 2].sum())
        same += int(rows[rows[:, 0] == rows[:, 1], 2].sum())
    return 2 * same > whole


def _with_registers(
    found: list[FoundRoot], source: MemorySource, formats: Sequence[str]
) -> tuple[list[FoundRoot], list[str]]:
    """The roots with what registers say of them, and those that registers alone name."""
    selected, problems = roots_of_registers(source.registers(), source.arch)
    left = list(found)
    told: list[FoundRoot] = []
    for root in selected:
        place = next((number for number, one in enumerate(left) if _same(one.root, root)), None)
        if place is not None:
            told.append(_by_register(left.pop(place), root))
        elif not formats or root.regime.format.name in formats:
            told.append(_by_register(_listed(root, source), root))
    # Where registers are known, a root that none of them names is not the one that runs.
    known = {family_of(root.regime.format).name for root in selected}
    rest = [
        replace(one, root=replace(one.root, active=False)) if one.root.regime.format.family in known else one
        for one in left
    ]
    return told + rest, list(problems)


def _same(one: Root, other: Root) -> bool:
    if (one.regime.root, one.stage) != (other.regime.root, other.stage):
        return False
    if one.under is None or other.under is None:
        return one.under is other.under
    return one.under.regime.root == other.under.regime.root


def _by_register(one: FoundRoot, root: Root) -> FoundRoot:
    """A root as a register names it: the register's format and controls are the true ones."""
    register = root.where.split(" ")[0]
    runs = {True: ", which runs by it", False: "", None: ""}[root.active]
    reasons = (f"{root.where} names it{runs}", *one.reasons)
    bonus = NAMED * (1.0 if root.active else 0.6)
    score = round(min(1.0, one.score + bonus), 4)
    role = one.root.role if one.root.role.startswith("the kernel") else root.role
    return replace(one, root=replace(root, role=role), score=score, reasons=reasons, register=register, others=())


def _listed(root: Root, source: MemorySource) -> FoundRoot:
    """A root that only a register names."""
    memory: MemorySource = source
    try:
        if root.under is not None:
            memory = GuestMemory(source, root.under.regime)
        lister = Lister(root.regime, memory, most=_IDENTITY_TABLES * 64, strict=False)
        for _ in lister.parts():
            pass
        seen = lister.seen
    except Stage2Error as error:
        return FoundRoot(root, 0.1, (str(error),), 0)
    reasons = ["only a register names it: its tables alone would not have been found"]
    if not seen.leaves:
        reasons.append("nothing is mapped")
    return FoundRoot(root, 0.5 if seen.leaves else 0.1, tuple(reasons), seen.leaf_bytes)
