"""An explained walk as text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from ..address import Range, format_size
from ..errors import EncodingError
from ..formats import EffectiveType, Leaf, TypeSources, effective_type, family_of
from ..formats.dependence import deciding_parts
from ..formats.describe import FieldValue, describe_entry, describe_misconfiguration
from ..formats.outcome import EntryKind, FaultKind
from ..formats.record import Format
from ..memory.owners import OwnerKind
from ..processor import Processor
from ..space.faults import FaultResult, Resolution
from ..space.region import MemoryRegion, ViolationPolicy
from ..tables.explain import Step, Walk
from ..tables.regime import Regime
from ..tables.result import Fault, Mapped, permission_text
from .host import assumed_host
from .levels import level_legend, level_text
from .tables import facts, field_table, indented, stack, text

if TYPE_CHECKING:
    from ..config.platform import PlatformConfig
    from ..forecast.map_ranges import MapRange
    from ..hypervisor.plan import Piece

_RESOLUTIONS = {
    Resolution.POPULATED: "the page gets a frame",
    Resolution.PRESENT: "the access goes through: the page is there",
    Resolution.DEVICE: "the access leaves the guest and is emulated, as every access to this device",
    Resolution.VIOLATION: "the access is a violation",
    Resolution.HOLE: "the access is a violation: nothing is declared at this GPA",
    Resolution.OUT_OF_MEMORY: "the guest is stopped: the region allows the access, but the host has no frame left",
}
_BOARD = {"ram": "RAM", "passthrough": "passed through", "hole": "a hole"}
_POLICIES = {
    ViolationPolicy.STOP: "the guest is stopped",
    ViolationPolicy.INJECT: "the guest gets an access fault",
    ViolationPolicy.DISCARD: "a write is dropped, a read returns all ones",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an access does that the tables refuse.

    Args:
        access: the access, as a word.
        result: how the address space resolves it.
        leaf_size: bytes that got a frame, when it populates.
        done: the access was made before the walk; otherwise it is what a first one would do.
        refused: why an access to an emulated device's page is not emulated after all.
    """

    access: str
    result: FaultResult
    leaf_size: int | None = None
    done: bool = False
    refused: str | None = None


@dataclass(frozen=True, slots=True)
class OwnPlace:
    """Where in the hypervisor's own address space a walk is.

    Args:
        piece: what its plan maps there; None for nothing.
        guard: the address is in the boot stack's guard page.
    """

    piece: Piece | None
    guard: bool = False

    @classmethod
    def at(cls, hva: int, piece: Piece | None, guard: Range | None) -> OwnPlace:
        """The place of an address; `guard` is where the guard page lies, if there is one."""
        return cls(piece, guard is not None and guard.contains(hva))


@dataclass(frozen=True, slots=True)
class WalkView:
    """A walk with everything its explanation needs.

    Args:
        walk: the steps.
        stage_2: the hypervisor's regime; its own one where it is the hypervisor's own address that is walked.
        stage_1: the guest's regime, when it took part.
        vm: the VM's name.
        region: the region declared at the GPA.
        owner: whom the HPA belongs to, when the walk ends in one.
        outcome: what an access does, where that is more than the walk says.
        sources: what beside the leaves decides the memory type, as far as it is known.
        processor: what the tables are for; None for no particular one.
        means: the access as a word, where that is more than whether it reads, writes or fetches: "hlvx".
        own: of a walk of the hypervisor's own address.
        host: the host that the tables are for, None for tables that are there already.
        why: what AxVisor's map will have there, by the host's device tree; None without one.
        declared: regions are declared for these tables, so that having none says something.
    """

    walk: Walk
    stage_2: Regime
    stage_1: Regime | None = None
    vm: str = ""
    region: MemoryRegion | None = None
    owner: str | None = None
    outcome: Outcome | None = None
    sources: TypeSources | None = None
    processor: Processor | None = None
    means: str | None = None
    own: OwnPlace | None = None
    host: PlatformConfig | None = None
    why: MapRange | None = None
    declared: bool = True

    @property
    def kind(self) -> str:
        """What sort of address is walked."""
        if self.own is not None:
            return "HVA"
        return "GPA" if self.stage_1 is None and not self.alone else "GVA"

    @property
    def alone(self) -> bool:
        """Whether a stage 1 is walked that has no stage 2 below it."""
        return self.stage_1 is None and self.stage_2.format.stage == 1

    @property
    def references(self) -> int:
        """Memory references that the walk takes: one an entry, without any cache."""
        return sum(1 + len(step.under) for step in self.walk.steps)

    @property
    def access(self) -> str | None:
        """The access as a word; None for a mere lookup."""
        return self.means or (None if self.walk.access is None else self.walk.access.name.lower())

    def regime(self, stage: int) -> Regime:
        """The regime of a step's stage."""
        return self.stage_1 if stage == 1 and self.stage_1 is not None else self.stage_2

    def leaf(self, stage: int) -> Leaf | None:
        """Where a stage's walk of the address itself ended; None where the stage does not translate."""
        found = [step for step in self.walk.steps if step.stage == stage and step.kind is EntryKind.LEAF]
        regime = self.regime(stage)
        return Leaf(regime.format, found[-1].attributes, regime.controls) if found else None

    @property
    def depends(self) -> tuple[str, ...]:
        """The parts of the processor that the entry hangs on at which the walk ended (`formats.dependence`)."""
        if not self.walk.steps:
            return ()
        last = self.walk.steps[-1]
        return deciding_parts(self.regime(last.stage).format, last.entry, last.level, self.processor)

    @property
    def memory_type(self) -> EffectiveType | None:
        """What accesses to the address get; without a stage 1, what stage 2 says. The name is empty if that is open.

        None where the address does not translate.
        """
        stage_1, stage_2 = self.leaf(1), self.leaf(2)
        if not isinstance(self.walk.result, Mapped):
            return None
        fmt = self.stage_2.format
        foreign_index = not self.declared and stage_1 is not None and stage_1.format.family == "arm"
        if foreign_index and (self.sources is None or self.sources.mair is None):
            said = "Stage 1's leaf holds an index into MAIR, which is not known here, so the memory type is open."
            return EffectiveType("", said, fmt.manual)
        if self.stage_1 is None and not foreign_index:
            only = stage_1 if self.alone else stage_2
            if only is None:
                return None
            word, note = family_of(fmt).memory_type(fmt, only.attributes, only.controls)
            who = "The tables give" if self.alone else "Stage 2 gives"
            said = f"{who} the memory type {word}. {note}" if word else note
            return EffectiveType(word or "", said.strip(), fmt.manual)
        try:
            return effective_type(stage_1, stage_2, self.sources)
        except EncodingError as error:
            return EffectiveType("", f"The memory type is not defined: {error}.", fmt.manual)


def _the(owner: str) -> str:
    """An owner in a sentence."""
    return f"the {owner}" if owner == OwnerKind.HYPERVISOR else owner


def owner_text(owner: str) -> str:
    """Whose memory it is, as a sentence."""
    return f"The memory belongs to {_the(owner)}."


def _a(access: str) -> str:
    """An access with its article: a read, an hlvx."""
    return f"{'an' if access.startswith('h') else 'a'} {access}"


def render_walk(view: WalkView) -> Group:
    """The walk, one block a step, and its result in plain sentences."""
    walk = view.walk
    access = f", for {_a(view.access)}" if view.access is not None else ""
    vm = f" of VM {view.vm}" if view.vm else ""
    parts: list[RenderableType] = [
        text(f"Walk of {view.kind} {walk.address:#x}{vm}{access}", "bold"),
        indented(facts(_stage_facts(view))),
        Text(),
    ]
    outcome = view.outcome
    if outcome is not None and outcome.done:
        parts += [text(f"{_a(outcome.access).capitalize()} is made first: {outcome_text(outcome)}."), Text()]
    for step in walk.steps:
        parts += [*_step_block(view, step), Text()]
    parts += result_lines(view)
    if view.why is not None:
        from .stage2_map import range_reason

        parts.append(text(f"On the board {view.why.span} is {_BOARD[view.why.kind.value]}: {range_reason(view.why)}."))
    if view.host is not None and (said := assumed_host(view.host)) is not None:
        parts.append(text(said, "dim"))
    return stack(parts)


def _stage_facts(view: WalkView) -> list[tuple[str, str | Text]]:
    """By which formats and roots the address goes."""
    fmt, root = view.stage_2.format, f"HPA {view.stage_2.root:#x}"
    if view.stage_1 is None:
        return [("format", f"{fmt.name}: {fmt.title}"), ("root", root)]
    outer = view.stage_1
    return [
        ("stage 1", f"{outer.format.name}, root GPA {outer.root:#x}: {outer.format.title}"),
        ("stage 2", f"{fmt.name}, root {root}: {fmt.title}"),
    ]


def result_lines(view: WalkView) -> list[RenderableType]:
    """How the walk ended, in sentences."""
    walk, result = view.walk, view.walk.result
    lines: list[RenderableType] = []
    if isinstance(result, Mapped):
        subject = f"{view.kind} {walk.address:#x}" if view.alone else f"GPA {result.gpa:#x}"
        lines.append(text(f"Result: {subject} is {result}.", "bold green"))
        if view.owner:
            lines.append(text(owner_text(view.owner)))
        if (found := view.memory_type) is not None:
            lines.append(text(f"{found.text} ({found.manual})"))
    else:
        level = level_text(view.regime(result.stage).format, result.level)
        lines.append(text(f"Result: {result.told(view.kind, level)}.", "bold red"))
        if result.kind is FaultKind.ADDRESS_SIZE:
            regime = view.regime(result.stage)
            lines.append(text(f"{regime.format.name} translates addresses of {regime.format.input_bits} bits."))
    if view.depends:
        from .explain import processor_sentence

        lines.append(text(processor_sentence(view.depends, view.processor)))
    for address, entry in walk.marks:
        lines.append(
            text(f"Hardware would now store {entry:#018x} in the entry at HPA {address:#x} (accessed, dirty).")
        )
    if view.own is not None:
        lines.append(text(_piece_text(view.own)))
    elif view.declared and (view.stage_1 is None or not (isinstance(result, Fault) and result.stage == 1)):
        lines.append(text(region_text(view.region)))
    if not view.declared:
        lines.append(text(cost_text(view)))
    if walk.steps and (legend := level_legend(view.stage_2.format)) is not None:
        lines.append(text(legend, "dim"))
    if view.outcome is not None and not view.outcome.done:
        lines.append(text(f"On {_a(view.outcome.access)}: {outcome_text(view.outcome)}."))
    return lines


def compact_walk(walk: Walk) -> Group:
    """The walk in one line a step, for reports with many of them."""
    return stack(text(line) for line in compact_lines(walk))


def compact_lines(walk: Walk) -> list[str]:
    """The lines of `compact_walk`; stage-2 steps for a stage-1 entry stand above it, further right."""
    fmt = walked_format(walk)
    lines = []
    for step in walk.steps:
        lines += ["  " + _compact_step(under, fmt) for under in step.under]
        lines.append(_compact_step(step, fmt))
    result = walk.result
    return [*lines, f"-> {result if isinstance(result, Mapped) else result.told('GVA', level_text(fmt, result.level))}"]


def walked_format(walk: Walk) -> Format | None:
    """A format of the family whose tables were walked, if any were."""
    regime = walk.stage_2 or walk.stage_1
    return None if regime is None else regime.format


def _compact_step(step: Step, fmt: Format | None) -> str:
    entry = f"stage {step.stage} {level_text(fmt, step.level)}: {step.slot:#x} holds {step.entry:#x}"
    if step.kind in (EntryKind.TABLE, EntryKind.LEAF):
        return f"{entry}, {step.kind.name.lower()} {step.output:#x}, {permission_text(step.permissions)}"
    return f"{entry}, {_KIND_WORDS[step.kind]}"


_KIND_WORDS = {EntryKind.NONE: "not present", EntryKind.MISCONFIGURED: "misconfigured"}


def _step_block(view: WalkView, step: Step) -> Iterator[RenderableType]:
    space = _space(view, step.stage)
    for under in step.under:
        for part in _step_block(view, under):
            yield indented(part, 4)
    stage = f"stage {step.stage}, " if view.stage_1 is not None else ""
    level = level_text(view.regime(step.stage).format, step.level)
    yield text(f"{stage}{level}: entry {step.index} of the table at {space} {step.table:#x}", "bold")
    slot = f"{space} {step.slot:#x}"
    if view.stage_1 is not None and step.stage == 1 and step.slot_hpa != step.slot:
        slot += f", at HPA {step.slot_hpa:#x}"
    rows: list[tuple[str, str | Text]] = [("slot", slot), ("entry", f"{step.entry:#018x}, {entry_text(view, step)}")]
    if step.kind in (EntryKind.TABLE, EntryKind.LEAF):
        rows.append(("allows", f"{permission_text(step.permissions)} (all levels so far)"))
    yield indented(facts(rows))
    yield indented(field_table(step_fields(view, step)), 4)


def _space(view: WalkView, stage: int) -> str:
    """What addresses in a stage's tables are."""
    return "GPA" if stage == 1 and view.stage_1 is not None else "HPA"


def entry_text(view: WalkView, step: Step) -> str:
    """What the entry of a step is, in words."""
    regime = view.regime(step.stage)
    fmt = regime.format
    space = _space(view, step.stage)
    if step.kind is EntryKind.TABLE:
        return f"points to the table at {space} {step.output:#x}"
    if step.kind is EntryKind.LEAF:
        return f"a leaf: {format_size(fmt.leaf_size(step.level))} at {space} {step.output:#x}"
    if step.kind is EntryKind.NONE:
        return f"not present: nothing is mapped in these {format_size(fmt.leaf_size(step.level))}"
    return f"misconfigured: {describe_misconfiguration(fmt, step.entry, step.level, regime.controls)}"


def step_fields(view: WalkView, step: Step) -> list[FieldValue]:
    """The fields of a step's entry, explained."""
    regime = view.regime(step.stage)
    return describe_entry(regime.format, step.entry, step.level, step.kind, regime.controls)


def region_text(region: MemoryRegion | None) -> str:
    """What is declared at an address, as a sentence."""
    if region is None:
        return "No region is declared at this GPA."
    declared = "" if region.place is None else f", declared in {region.place}"
    return (
        f"Region {region.label}: GPA {region.range}, {region.flags.short}, {region.map_type.value} "
        f"({region.map_type.meaning}){declared}."
    )


def cost_text(view: WalkView) -> str:
    """What the walk costs a CPU that has nothing cached."""
    inner = sum(len(step.under) for step in view.walk.steps)
    first = sum(step.stage == 1 for step in view.walk.steps)
    if view.stage_1 is None or not inner:
        return f"The walk takes {_times(view.references)}."
    last = len(view.walk.steps) - first
    return (
        f"The walk takes {_times(view.references)}: {first} of stage 1, {inner} of stage 2 to find those, "
        f"{last} of stage 2 for the last GPA."
    )


def _times(count: int) -> str:
    return f"{count} memory reference{'' if count == 1 else 's'}"


def _piece_text(own: OwnPlace) -> str:
    if own.piece is None:
        return (
            "This is the guard page below the boot stack: it is left out on purpose."
            if own.guard
            else "The hypervisor maps nothing here."
        )
    piece = own.piece
    return f"{piece.name}: HVA {piece.span} is HPA {piece.physical}, {piece.flags.short}."


def outcome_text(outcome: Outcome) -> str:
    """What an access does, as a sentence without its end."""
    result = outcome.result
    sentence = _RESOLUTIONS[result.resolution]
    if outcome.refused is not None:
        sentence = f"the access is a violation: {outcome.refused}"
    if result.resolution is Resolution.POPULATED and outcome.leaf_size:
        sentence += f" ({format_size(outcome.leaf_size)})"
    if result.policy is not None:
        sentence += f"; by its policy {_POLICIES[result.policy]}"
    return sentence
