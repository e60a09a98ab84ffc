"""One memory and its roots: the questions that can be asked of it, as they read in a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy.typing as npt

from ..address import SIZE_4K, Range, align_offset
from ..errors import ConfigError, OutOfRangeError
from .difference import Difference, difference
from .find.finder import Found, find
from .listing import Progress
from .mapping import MapPart, MapRange, map_parts
from .reach import Reach, reach
from .root import Root, given_roots, roots_of_registers
from .route import Route, route_of
from .source import Cpu, MemorySource
from .translate import Translation, Translations, translate, translate_many, walk

if TYPE_CHECKING:
    from ..tables.explain import Walk
    from .audit.every import Audit

LIKELY = 0.5
"""The score from which on a root that was found is taken where nothing else names one."""


class Inspection:
    """A memory that is looked into, with the roots of tables that are known of it.

    Args:
        source: the memory; it is closed with the inspection.
        roots: as `--root` takes them; without any, those that registers select or the source knows.
        registers: values beside those that the source knows, by the manual's names, for its first CPU.
        core: the CPU whose roots come first; None for the one that the source names first.

    Raises:
        ConfigError: a root is not written as it should be, or there is no such CPU.
    """

    def __init__(
        self,
        source: MemorySource,
        roots: Sequence[str] = (),
        *,
        registers: Mapping[str, int] | None = None,
        core: int | None = None,
    ) -> None:
        self.source = source
        self._registers = dict(registers or {})
        self._given = given_roots(roots)
        self._core = core
        self._taken: list[str] = []

    @cached_property
    def _known(self) -> tuple[tuple[Root, ...], tuple[str, ...]]:
        if self._given:
            return self._given, ()
        roots, problems = roots_of_registers(self.cpus, self.source.arch)
        if self._core is not None:
            mine = [root for root in roots if root.where.endswith(f" of CPU {self._core}")]
            if not mine:
                raise ConfigError(f"{self.source.name} tells of no tables that CPU {self._core} translates by")
            roots = (*mine, *(root for root in roots if root not in mine))
        names = {(root.regime.format, root.regime.root) for root in roots}
        more = [
            Root(regime, f"stage 2 of {name}" if regime.format.stage == 2 else name, f"{self.source.name}")
            for name, regime in self.source.known_roots()
            if (regime.format, regime.root) not in names
        ]
        return (*roots, *more), problems

    @cached_property
    def cpus(self) -> tuple[Cpu, ...]:
        """The CPUs whose registers are known, those that were given beside the source's own."""
        found = self.source.registers()
        if not self._registers:
            return found
        first = found[0] if found else Cpu(0)
        return (Cpu(first.number, {**first.values, **self._registers}), *found[1:])

    @property
    def roots(self) -> tuple[Root, ...]:
        """The roots that were given, or that registers and source tell of, those in use first."""
        return self._known[0]

    @property
    def notices(self) -> tuple[str, ...]:
        """What the source could not tell or read as it should be, and what was taken for granted; a sentence each."""
        return (*self.source.notices, *self._known[1], *self._taken)

    def find(self, *, registers: bool = True, progress: Progress | None = None) -> Found:
        """Search the memory for roots of tables, best first; it takes seconds for each gigabyte.

        Args:
            registers: look at the source's registers too.
            progress: told of the pass over the memory.

        Raises:
            SourceError: the source can no longer be read.
        """
        return find(self.source, registers=registers, progress=progress)

    @cached_property
    def _found(self) -> tuple[Root, ...]:
        """Roots that a search finds likely, for what neither options nor registers name."""
        return tuple(one.root for one in self.find().roots if one.score >= LIKELY)

    def route(self, kind: str) -> Route:
        """The stages that addresses of a kind go through.

        Args:
            kind: "gva" or "gpa".

        Raises:
            ConfigError: no root is known for them.
        """
        try:
            return route_of(self.roots, kind)
        except ConfigError:
            # Where roots were given, what is missing was left out on purpose.
            if self._given or not self._found:
                raise
            route = route_of((*self.roots, *self._found), kind)
            told = ", ".join(str(root) for root in route.roots)
            self._take(f"neither options nor registers name the tables: {told} is taken, the likeliest that was found")
            return route

    def _take(self, notice: str) -> None:
        if notice not in self._taken:
            self._taken.append(notice)

    @property
    def kind(self) -> str:
        """What is asked of when nobody says: "gva" where a stage 1 is known, else "gpa"."""
        known = self.roots or (() if self._given else self._found)
        return "gva" if any(root.stage == 1 for root in known) else "gpa"

    def walk(self, *, gva: int | None = None, gpa: int | None = None) -> Walk:
        """The walk of one address, step by step, through all stages it goes through.

        Raises:
            ConfigError: none or both of the addresses are given, or no root is known for it.
        """
        kind, address = _one(gva, gpa)
        return walk(self.source, self.route(kind), address)

    def translate(self, *, gva: int | None = None, gpa: int | None = None) -> Translation:
        """Where one address leads. Raises: as `walk`."""
        kind, address = _one(gva, gpa)
        return translate(self.source, self.route(kind), address)

    def translate_many(
        self, addresses: npt.ArrayLike, kind: str | None = None, progress: Progress | None = None
    ) -> Translations:
        """Where many addresses lead.

        Args:
            addresses: one dimension, up to 64 bits each.
            kind: what they are: "gva" or "gpa"; None for `kind`.
            progress: told of long work.

        Raises:
            ConfigError: no root is known for them.
            SourceError: tables lead to each other in circles, or the source can no longer be read.
        """
        return translate_many(self.source, self.route(kind or self.kind), addresses, progress)

    def map_parts(
        self, kind: str | None = None, span: Range | None = None, progress: Progress | None = None
    ) -> Iterator[MapPart]:
        """All that is mapped, as arrays, a part at a time; the arguments and errors are those of `map`."""
        route = self.route(kind or self.kind)
        for first in route.first or (None,):
            yield from map_parts(self.source, first, route.second, span=span, progress=progress)

    def map(
        self, kind: str | None = None, span: Range | None = None, progress: Progress | None = None
    ) -> Iterator[MapRange]:
        """All that is mapped, as ranges in order of their address.

        Args:
            kind: of the input addresses: "gva" or "gpa"; None for `kind`.
            span: the addresses that are asked for; None for all.
            progress: told of long work.

        Raises:
            ConfigError: no root is known.
            SourceError: tables lead to each other in circles, or the source can no longer be read.
        """
        for part in self.map_parts(kind, span, progress):
            yield from part.told()

    def reach(
        self, *, hpa: int | Range | None = None, gpa: int | Range | None = None, progress: Progress | None = None
    ) -> Iterator[Reach]:
        """All addresses that lead to some memory, through all roots.

        Args:
            hpa, gpa: one address or a range of them; one of the two.
            progress: told of long work.

        Raises:
            ConfigError: none or both are given, or no root is known.
            SourceError: as `map`.
        """
        if (hpa is None) == (gpa is None):
            raise ConfigError("say which memory is meant: one of hpa and gpa")
        roots = self.roots
        if not roots:
            roots = self._found
            self._take(
                f"neither options nor registers name tables: the {len(roots)} likeliest that were found are read"
            )
        if not roots:
            where = self.source.name
            raise ConfigError(f"no root of tables is known or found in {where}: give --root")
        asked = hpa if hpa is not None else gpa
        assert asked is not None, "one of them is given"
        wanted = asked if isinstance(asked, Range) else Range.sized(asked, 1)
        return reach(self.source, roots, wanted, "hpa" if hpa is not None else "gpa", progress)

    def difference(self, later: Inspection, kind: str | None = None, span: Range | None = None) -> Difference:
        """How the map of a later moment, or of another memory, differs from this one. Raises: as `map`."""
        chosen = kind or self.kind
        return difference(self.map_parts(chosen, span), later.map_parts(chosen, span))

    def audit(self, roots: Sequence[str] = ()) -> Audit:
        """Look for what is dangerous in the tables, as `stage2 audit` does.

        Args:
            roots: of as many VMs as there are, a guest's own tables as `STAGE1@GPA/STAGE2@HPA`; without any, those that
                are known here, and where none was given to this inspection also those that a search finds.

        Raises:
            ConfigError: no root is known, or one is not written as it should be.
            SourceError: the source can no longer be read.
        """
        from .audit.every import audit
        from .audit.roots import Chosen, known_roots, named_roots

        named = named_roots(roots) if roots else self._given and self.roots
        chosen = Chosen(named) if named else known_roots(self)
        told = (*self.notices, *chosen.notices)
        return audit(self.source, chosen.roots, guessed=chosen.guessed, notices=told)

    def read(self, size: int, *, gva: int | None = None, gpa: int | None = None, hpa: int | None = None) -> bytes:
        """Bytes, wherever they lie.

        Args:
            size: how many.
            gva, gpa, hpa: where; one of the three.

        Raises:
            ConfigError: not one address is given, or no root is known for it.
            OutOfRangeError: some of them lead nowhere, or to memory that is not in the source.
        """
        if hpa is not None and gva is None and gpa is None:
            return self.source.read(hpa, size)
        kind, address = _one(gva, gpa)
        route, found = self.route(kind), []
        while size:
            answer = translate(self.source, route, address)
            if answer.fault is not None or answer.hpa is None:
                raise OutOfRangeError(f"{self.source.name}: {answer.fault}")
            piece = min(size, SIZE_4K - align_offset(address, SIZE_4K))
            found.append(self.source.read(answer.hpa, piece))
            address, size = address + piece, size - piece
        return b"".join(found)

    def close(self) -> None:
        """Give the source back."""
        self.source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        known = ", ".join(root.name for root in self.roots[:3]) + (", ..." if len(self.roots) > 3 else "")
        return f"Inspection({self.source!r}, roots {known or 'unknown'})"


def open_memory(
    source: str | MemorySource,
    roots: str | Iterable[str] = (),
    *,
    base: int | None = None,
    registers: Mapping[str, int] | None = None,
    core: int | None = None,
) -> Inspection:
    """Look into a memory: a dump, a folder of `stage2 build`, a snapshot, a running QEMU, or a source of your own.

    Args:
        source: what `stage2.inspect.opened.open_source` takes, or a source.
        roots: `FORMAT@ADDRESS[,control=value]`, one a stage; without any, what registers and source tell.
        base: the HPA of the first byte of a raw image.
        registers: values beside those that the source knows, by the manual's names.
        core: the CPU whose roots come first.

    Raises:
        SourceError: it cannot be opened.
        ConfigError: a root is not written as it should be.
    """
    from .opened import open_source

    opened = open_source(source, base=base) if isinstance(source, str) else source
    texts = (roots,) if isinstance(roots, str) else tuple(roots)
    return Inspection(opened, texts, registers=registers, core=core)


def _one(gva: int | None, gpa: int | None) -> tuple[str, int]:
    """The kind of the address that is given, and it.

    Raises:
        ConfigError: none or both are given.
    """
    if gva is not None and gpa is None:
        return "gva", gva
    if gpa is not None and gva is None:
        return "gpa", gpa
    raise ConfigError("say which address is meant: one of gva and gpa")
