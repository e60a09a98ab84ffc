"""An entry, a register or a fault by itself, as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from ..address import format_size
from ..formats import family_of
from ..formats.dependence import controls_on, deciding_parts
from ..formats.describe import FieldValue, describe_entry, describe_misconfiguration
from ..formats.outcome import ALL_PERMISSIONS, EXECUTE, GROUPED, READ, USER, USER_SHIFT, WRITE, EntryKind
from ..formats.record import Field, Format
from ..formats.register import Register
from ..formats.syndrome import FaultReport
from ..processor import Processor
from .levels import level_legend, level_text, reported_level
from .tables import facts, field_table, indented, print_renderable, stack, text

WIDTH = 80
"""Columns of text that goes to no terminal, unless its reader set COLUMNS."""


@dataclass(frozen=True, slots=True)
class EntryView:
    """One entry, understood by its format alone.

    Args:
        format, level, value, controls: what was asked.
        kind: what `decode` says of it.
        address: where it points, None when nowhere.
        attributes: what `decode` says it lets through.
        permissions: what that grants: privileged in bits 0-2, user in bits 3-5.
        memory_type: a word, None where the entry does not say.
        memory_note: what else the memory type hangs on, as a sentence.
        reason: why it is misconfigured, or why its address is refused.
        fields: every field, lowest bits first.
        depends: the parts of the processor that this hangs on, in words (`formats.dependence`).
        processor: what it was read for; None for no particular one.
    """

    format: Format
    level: int
    value: int
    controls: int
    kind: EntryKind
    address: int | None
    attributes: int
    permissions: int
    memory_type: str | None
    memory_note: str
    reason: str | None
    fields: tuple[FieldValue, ...]
    depends: tuple[str, ...] = ()
    processor: Processor | None = None

    @property
    def execute_privileged(self) -> bool:
        """Whether privileged code may be fetched."""
        return bool(self.attributes & EXECUTE)

    @property
    def execute_user(self) -> bool:
        """Whether user code may be fetched."""
        return bool(self.permissions >> USER_SHIFT & EXECUTE)


def view_entry(
    fmt: Format, value: int, level: int, switches: Sequence[str] = (), processor: Processor | None = None
) -> EntryView:
    """Decode one entry.

    Args:
        fmt: its format; `value` has 64 bits and `level` is one of its levels.
        value: the entry.
        level: 0 for the smallest page.
        switches: names of the format's switches that are on.
        processor: what it is read for; None for no particular one.

    Raises:
        EncodingError: the format has no such switch, or the processor lacks the format or what a switch asks for.
    """
    controls = controls_on(fmt, processor, switches)
    number, address, attributes = fmt.decode(value, level, controls)
    kind = EntryKind(number)
    points = kind in (EntryKind.TABLE, EntryKind.LEAF)
    reason = None
    if kind is EntryKind.MISCONFIGURED:
        reason = describe_misconfiguration(fmt, value, level, controls)
    elif kind is EntryKind.TOO_WIDE:
        reason = f"its address is wider than the {fmt.output_bits} bits that the regime allows: an address size fault"
    word, note = family_of(fmt).memory_type(fmt, attributes, controls) if kind is EntryKind.LEAF else (None, "")
    return EntryView(
        format=fmt,
        level=level,
        value=value,
        controls=controls,
        kind=kind,
        address=address if points else None,
        attributes=attributes,
        permissions=fmt.permissions(attributes, controls) & ALL_PERMISSIONS if points else 0,
        memory_type=word,
        memory_note=note,
        reason=reason,
        fields=_entry_fields(fmt, value, level, kind, controls),
        depends=deciding_parts(fmt, value, level, processor, switches),
        processor=processor,
    )


def _entry_fields(fmt: Format, value: int, level: int, kind: EntryKind, controls: int) -> tuple[FieldValue, ...]:
    """Every field of a leaf or a table; of what is neither, the fields that say why."""
    if kind not in (EntryKind.LEAF, EntryKind.TABLE):
        return tuple(describe_entry(fmt, value, level, kind, controls))
    word = kind.name.lower()
    return explain_fields(
        (
            field
            for field in fmt.fields
            if word in field.kinds and (field.levels is None or level in field.levels) and not field.reserved
        ),
        value,
        "no field stands here: hardware ignores it",
    )


def explain_fields(fields: Iterable[Field], value: int, elsewhere: str = "") -> tuple[FieldValue, ...]:
    """The sentence of every field for `value`, lowest bits first.

    Args:
        fields: of an entry or a register.
        value: the number they stand in.
        elsewhere: what to say of bits that are set outside all of them; nothing if empty.
    """
    found = []
    rest = value
    for field in sorted(fields, key=lambda field: field.low):
        part = field.extract(value)
        rest &= ~((1 << field.high + 1) - (1 << field.low))
        if part == 0 and field.reserved:
            continue
        meaning = field.explain(part)
        if part == 0 and 0 not in field.values and field.high == field.low:
            meaning = f"clear; if set: {meaning}"
        found.append((field.low, FieldValue(field.bits, field.name, part, meaning, field.reserved)))
    while rest and elsewhere:
        low = (rest & -rest).bit_length() - 1
        length = ((rest >> low) + 1 & ~(rest >> low)).bit_length() - 1
        high = low + length - 1
        bits = str(low) if high == low else f"{high}:{low}"
        found.append((low, FieldValue(bits, "-", (1 << length) - 1, elsewhere)))
        rest &= ~((1 << high + 1) - (1 << low))
    return tuple(value for _, value in sorted(found, key=lambda item: item[0]))


# --- text --------------------------------------------------------------------------------------------------


def render_entry(view: EntryView) -> Group:
    """What an entry is, in sentences, and its fields."""
    fmt = view.format
    covers = format_size(fmt.leaf_size(view.level))
    title = f"{fmt.name} entry {view.value:#018x} at {level_text(fmt, view.level)}, which covers {covers}"
    rows: list[tuple[str, str | Text]] = [("format", fmt.title), ("manual", fmt.manual)]
    sentences = []
    space = "HPA" if fmt.stage == 2 else "GPA"
    if view.kind is EntryKind.LEAF:
        at = "in the group at" if view.attributes & GROUPED and fmt.group_translates else "at"
        sentences.append(f"A leaf: it maps {covers} {at} {space} {view.address:#x}.")
        sentences.append(_permission_sentence(view))
        word = "" if view.memory_type is None else f"Memory type: {view.memory_type}. "
        sentences.append((word + view.memory_note).strip())
        if view.attributes & GROUPED:
            size = format_size(fmt.leaf_size(view.level) << fmt.group_bits_at(view.level))
            sentences.append(f"It is one of a group of leaves that together map {size}.")
    elif view.kind is EntryKind.TABLE:
        sentences.append(f"It points to the table of {level_text(fmt, view.level - 1)} at {space} {view.address:#x}.")
        sentences.append(_permission_sentence(view))
    elif view.kind is EntryKind.NONE:
        sentences.append("Not present: nothing is mapped here, and hardware ignores the other bits.")
    elif view.kind is EntryKind.MISCONFIGURED:
        sentences.append(f"Misconfigured: {view.reason}.")
        sentences.append("Hardware faults when it meets this entry.")
    else:
        sentences.append(f"Refused: {view.reason}.")
    if view.depends:
        sentences.append(processor_sentence(view.depends, view.processor))
    if (legend := level_legend(fmt)) is not None:
        rows.append(("levels", legend))
    return _page(title, sentences, rows, [("", view.fields)])


def processor_sentence(depends: Sequence[str], processor: Processor | None) -> str:
    """One line on what an answer hangs on."""
    who = "a CPU" if processor is None else processor.name
    return f"So on {who} with {', '.join(depends)}; --cpu says otherwise."


def _permission_sentence(view: EntryView) -> str:
    privileged, user = _letters(view.permissions), _letters(view.permissions >> USER_SHIFT)
    subject = "It lets through" if view.kind is EntryKind.TABLE else "It allows"
    if privileged == user:
        return f"{subject} {privileged}." if privileged else f"{subject} no access at all."
    return f"{subject} {privileged or 'nothing'} for the kernel, {user or 'nothing'} for user mode."


def _letters(mask: int) -> str:
    words = [word for bit, word in ((READ, "read"), (WRITE, "write"), (EXECUTE, "execute")) if mask & bit]
    return ", ".join(words)


def render_register(register: Register, value: int, summary: Mapping[str, str], reason: str | None = None) -> Group:
    """What a register amounts to, or why it may not hold this, and its fields."""
    digits = 2 + register.bits // 4
    title = f"{register.name} = {value:#0{digits}x}: {register.title}"
    rows: list[tuple[str, str | Text]] = [(name, fact) for name, fact in summary.items()]
    rows.append(("manual", register.manual))
    fields = explain_fields(register.fields_of(value), value)
    sentences = [] if reason is None else [f"Illegal: {reason}."]
    sentences += [_reserved_sentence(fields)] if any(field.reserved for field in fields) else []
    return _page(title, sentences, rows, [("", fields)])


def _reserved_sentence(fields: Iterable[FieldValue]) -> str:
    return "Reserved bits are set: " + ", ".join(field.bits for field in fields if field.reserved) + "."


def render_fault(report: FaultReport) -> Group:
    """What happened, in sentences, and the registers that say so."""
    rows: list[tuple[str, str | Text]] = []
    for name, address in (("gva", report.gva), ("gpa", report.gpa)):
        if address is not None:
            rows.append((name.upper(), f"{address:#x}"))
    if report.level is not None:
        rows.append(("level", reported_level(report.arch, report.level)))
    if report.manual:
        rows.append(("manual", report.manual))
    names = dict.fromkeys(name for name, _ in report.fields)
    groups = [(name, tuple(field for of, field in report.fields if of == name)) for name in names]
    return _page(f"{report.arch}: {report.title}", report.sentences, rows, groups)


def _page(
    title: str,
    sentences: Iterable[str],
    rows: list[tuple[str, str | Text]],
    groups: Iterable[tuple[str, tuple[FieldValue, ...]]],
) -> Group:
    parts: list[RenderableType] = [text(title, "bold"), *(text(sentence) for sentence in sentences)]
    if rows:
        parts += [Text(), indented(facts(rows))]
    for name, fields in groups:
        parts.append(Text())
        if name:
            parts.append(text(name, "bold"))
        parts.append(indented(field_table(fields, wide_names=False)))
    return stack(parts)


def print_explanation(item: RenderableType) -> None:
    """Print it 80 columns wide, unless a terminal or COLUMNS says otherwise."""
    print_renderable(item, otherwise=WIDTH)


# --- JSON --------------------------------------------------------------------------------------------------


def entry_json(view: EntryView) -> dict[str, Any]:
    """An entry as a JSON object; `execute` is of either privilege, with both apart beside it."""
    misconfigured = view.kind in (EntryKind.MISCONFIGURED, EntryKind.TOO_WIDE)
    return {
        "kind": "misconfigured" if misconfigured else view.kind.name.lower(),
        "address": view.address,
        "address_hex": None if view.address is None else f"{view.address:#x}",
        "read": bool(view.attributes & READ),
        "write": bool(view.attributes & WRITE),
        "execute": view.execute_privileged or view.execute_user,
        "execute_privileged": view.execute_privileged,
        "execute_user": view.execute_user,
        "user": bool(view.attributes & USER),
        "memory_type": view.memory_type,
        "fields": [_field_json(field) for field in view.fields],
        "format": view.format.name,
        "level": view.level,
        "value": view.value,
        "value_hex": f"{view.value:#018x}",
        "reason": view.reason,
        "processor": None if view.processor is None else view.processor.name,
        "depends_on": list(view.depends),
    }


def register_json(
    register: Register, value: int, summary: Mapping[str, str], reason: str | None = None
) -> dict[str, Any]:
    """A register as a JSON object; `reason` is why it may not hold this, or null."""
    fields = explain_fields(register.fields_of(value), value)
    return {
        "register": register.name,
        "arch": register.arch,
        "value": value,
        "value_hex": f"{value:#x}",
        "title": register.title,
        "legal": reason is None and not any(field.reserved for field in fields),
        "reason": reason,
        "summary": dict(summary),
        "fields": [_field_json(field) for field in fields],
        "manual": register.manual,
    }


def fault_json(report: FaultReport) -> dict[str, Any]:
    """A fault as a JSON object; what the registers do not say is null."""
    return {
        "arch": report.arch,
        "title": report.title,
        "sentences": list(report.sentences),
        "kind": None if report.kind is None else report.kind.name.lower(),
        "stage": report.stage,
        "level": report.level,
        "access": None if report.access is None else report.access.name.lower(),
        "user": report.user,
        "gva": report.gva,
        "gva_hex": None if report.gva is None else f"{report.gva:#x}",
        "gpa": report.gpa,
        "gpa_hex": None if report.gpa is None else f"{report.gpa:#x}",
        "on_table": report.on_table,
        "fields": [{"register": name, **_field_json(field)} for name, field in report.fields],
        "manual": report.manual,
    }


def _field_json(field: FieldValue) -> dict[str, Any]:
    return {
        "bits": field.bits,
        "name": field.name,
        "value": field.value,
        "meaning": field.meaning,
        "reserved": field.reserved,
    }
