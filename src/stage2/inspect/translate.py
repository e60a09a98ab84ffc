"""Where addresses lead: one, or millions at once.

Few addresses are walked one by one. For many the mappings are listed once, and every address is looked up in them; why
one does not translate is asked of the walk, once for each entry that ends one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ..address import Gva, Range
from ..errors import SourceError
from ..formats.outcome import FaultKind
from ..prove.packing import U64Array
from ..tables.explain import Walk, explain_stage, explain_two_stage
from ..tables.outward import outward_all
from ..tables.result import Fault, Mapped, permission_text
from .listing import Progress
from .mapping import MapPart, map_parts
from .root import Root
from .route import Route
from .source import MemorySource
from .through import NOWHERE

FEW = 256
"""Addresses that are walked one by one."""
_MOST_TABLES = 1 << 16
"""Limit: tables that are listed to look addresses up in; beyond it every address is walked. 128 GiB in pages of 4 KiB
take so many."""


@dataclass(frozen=True, slots=True)
class Translation:
    """Where one address leads.

    Args:
        input: the address.
        gpa: what stage 1 answers, or the input of stage 2; None where there is none.
        hpa: where the byte is; None where the address does not translate.
        permissions: effective ones of all stages, as in `Mapped`; 0 where it does not translate.
        fault: why it does not translate; None where it does.
    """

    input: int
    gpa: int | None
    hpa: int | None
    permissions: int
    fault: Fault | None

    @property
    def allows(self) -> str | None:
        """The permissions as text; None where it does not translate."""
        return None if self.hpa is None else permission_text(self.permissions)


@dataclass(frozen=True, slots=True)
class Translations:
    """Where many addresses lead, as arrays.

    Args:
        input: the addresses.
        gpa, hpa: NOWHERE where there is none.
        permissions: as in `Translation`.
        fault: number of the fault in `faults`; -1 for none.
        faults: why addresses do not translate.
    """

    input: U64Array
    gpa: U64Array
    hpa: U64Array
    permissions: npt.NDArray[np.uint8]
    fault: npt.NDArray[np.int64]
    faults: tuple[Fault, ...]

    def __len__(self) -> int:
        return len(self.input)

    def __iter__(self) -> Iterator[Translation]:
        columns = (self.input, self.gpa, self.hpa, self.permissions, self.fault)
        for address, gpa, hpa, permissions, fault in zip(*(column.tolist() for column in columns), strict=True):
            yield Translation(
                address, None if gpa == NOWHERE else gpa, None if hpa == NOWHERE else hpa, permissions,
                None if fault < 0 else self.faults[fault],
            )  # fmt: skip

    def __repr__(self) -> str:
        lost = int(np.count_nonzero(self.fault >= 0))
        return f"Translations({len(self)} addresses, {lost} of them faults)"


def walk(source: MemorySource, route: Route, address: int) -> Walk:
    """The walk of an address with all its steps.

    A page of the guest's tables whose accessed flag is clear at stage 2 is looked through: hardware, or the hypervisor
    after a fault, would set the flag and go on, and to look is no access.

    Args:
        source: host physical memory.
        route: the stages.
        address: a GVA or GPA, as the route has it.
    """
    first = route.first_for(address)
    if first is None:
        assert route.second is not None, "a route has one stage at least"
        return explain_stage(source, route.second.regime, address)
    if route.second is None:
        return explain_stage(source, first.regime, address)
    second = route.second.regime
    found = explain_two_stage(source, first.regime, second, Gva(address))
    if isinstance(found.result, Fault) and found.result.kind is FaultKind.ACCESS_FLAG and found.result.on_table:
        setting = replace(second, controls=second.controls | second.format.hardware_ad)
        found = replace(explain_two_stage(source, first.regime, setting, Gva(address)), stage_2=second, marks=())
    return found


def translate(source: MemorySource, route: Route, address: int) -> Translation:
    """Where one address leads."""
    result = walk(source, route, address).result
    if isinstance(result, Mapped):
        gpa = result.gpa if route.second is not None else None
        return Translation(address, gpa, result.hpa, result.permissions, None)
    gpa = result.gpa if route.first and not result.on_table else None
    return Translation(address, address if not route.first else gpa, None, 0, result)


def translate_many(
    source: MemorySource, route: Route, addresses: npt.ArrayLike, progress: Progress | None = None
) -> Translations:
    """Where many addresses lead.

    Args:
        source: host physical memory.
        route: the stages.
        addresses: one dimension, up to 64 bits each.
        progress: told of long work.

    Raises:
        SourceError: tables lead to each other in circles, or the source can no longer be read.
    """
    asked = np.ascontiguousarray(addresses, np.uint64)
    found = _Answers(source, route, asked)
    if len(asked) > FEW:
        try:
            for first in route.first or (None,):
                found.look_up(first, progress)
            found.explain()
        except SourceError:
            # Tables that lead to each other have more mappings than can be listed, and walks as short as any.
            found = _Answers(source, route, asked)
            found.walk_all()
    else:
        found.walk_all()
    return found.done()


class _Answers:
    def __init__(self, source: MemorySource, route: Route, asked: U64Array) -> None:
        self._source, self._route, self._asked = source, route, asked
        count = len(asked)
        self._gpa, self._hpa = np.full(count, NOWHERE, np.uint64), np.full(count, NOWHERE, np.uint64)
        self._permissions = np.zeros(count, np.uint8)
        self._fault = np.full(count, -1, np.int64)
        self._faults: list[Fault] = []

    def done(self) -> Translations:
        return Translations(self._asked, self._gpa, self._hpa, self._permissions, self._fault, tuple(self._faults))

    def walk_all(self) -> None:
        for number, address in enumerate(self._asked.tolist()):
            one = translate(self._source, self._route, address)
            if one.gpa is not None:
                self._gpa[number] = one.gpa
            if one.fault is None:
                assert one.hpa is not None, "what has no fault leads somewhere"
                self._hpa[number], self._permissions[number] = one.hpa, one.permissions
            else:
                self._fault[number] = len(self._faults)
                self._faults.append(one.fault)

    def look_up(self, first: Root | None, progress: Progress | None) -> None:
        """Look all addresses of one half up in what is mapped there."""
        order = np.argsort(self._asked, kind="stable")
        ordered = self._asked[order]
        if not len(ordered):
            return
        span = Range(int(ordered[0]), int(ordered[-1]) + 1)
        for part in map_parts(self._source, first, self._route.second, span=span, most=_MOST_TABLES, progress=progress):
            self._look_up_in(part, order, ordered)

    def _look_up_in(self, part: MapPart, order: npt.NDArray[np.intp], ordered: U64Array) -> None:
        low = int(np.searchsorted(ordered, part.start[0], "left"))
        last = int(part.start[-1]) + int(part.size[-1]) - 1
        high = int(np.searchsorted(ordered, np.uint64(last), "right"))
        mine, where = ordered[low:high], order[low:high]
        row = np.searchsorted(part.start, mine, "right") - 1
        offset = mine - part.start[row]
        inside = offset < part.size[row]
        row, offset, where = row[inside], offset[inside], where[inside]
        there = part.output[row] != np.uint64(NOWHERE)
        if part.second is not None:
            self._gpa[where] = part.middle[row] + offset
        kinds, of_kind = part.kinds()
        allowed = np.array([kind.permissions for kind in kinds], np.uint8)
        row, offset, where = row[there], offset[there], where[there]
        self._hpa[where] = part.output[row] + offset
        self._permissions[where] = allowed[of_kind[row]]

    def explain(self) -> None:
        """Ask the walk why addresses lead nowhere: all that end at one entry end there for the same reason."""
        left = np.flatnonzero(self._hpa == np.uint64(NOWHERE))
        left = left[np.argsort(self._asked[left], kind="stable")]
        for first in self._route.first or (None,):
            values = self._asked[left]
            outer = first or self._route.second
            assert outer is not None, "a route has one stage at least"
            fmt = outer.regime.format
            narrow = values & np.uint64((1 << fmt.input_bits) - 1)
            outward_all(fmt, narrow)
            wide = narrow != values
            mine = np.array([self._route.first_for(value) == first for value in values[wide].tolist()], bool)
            here = np.flatnonzero(wide)[mine]
            if len(here):
                self._note(left[here], self._walked(int(values[here[0]]))[1])
                left = np.delete(left, here)
        self._explain_in_order(left)

    def _explain_in_order(self, left: npt.NDArray[np.intp]) -> None:
        values = self._asked[left]
        at = 0
        while at < len(left):
            address = int(values[at])
            found, fault = self._walked(address)
            until = int(np.searchsorted(values, np.uint64(self._last(address, found, fault)), "right"))
            self._note(left[at:until], fault)
            at = until

    def _walked(self, address: int) -> tuple[Walk, Fault]:
        found = walk(self._source, self._route, address)
        assert isinstance(found.result, Fault), "the listing has all that the walk finds"
        return found, found.result

    def _note(self, which: npt.NDArray[np.intp], fault: Fault) -> None:
        self._fault[which] = len(self._faults)
        self._faults.append(fault)
        if not self._route.first:
            self._gpa[which] = self._asked[which]

    def _last(self, address: int, found: Walk, fault: Fault) -> int:
        """The last address that ends at the same entry for the same reason."""
        first, sizes = self._route.first_for(address), []
        if first is not None:
            level = first.regime.format.levels
            above = [step for step in found.steps if step.stage == 1]
            sizes.append(first.regime.format.leaf_size(level - max(len(above), 1)))
            if fault.on_table:
                sizes = [first.regime.format.leaf_size(level - 1 - len(above))]
        if fault.stage == 2 and not fault.on_table and self._route.second is not None:
            sizes.append(self._route.second.regime.format.leaf_size(fault.level))
        return address | min(sizes) - 1
