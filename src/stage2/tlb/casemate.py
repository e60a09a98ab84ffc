"""A trace of edits as the input of `casemate-check`, which judges Arm's break-before-make by a model of its own.

The grammar is Casemate's (rems-project/casemate, doc/asciidoc/sections/trace-format.adoc and `casemate-check`'s
reader): a record a line, numbers in hexadecimal, the line of our trace as the source. Its model knows 4 KiB granules
and, unless it is told otherwise, tables of four levels.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..address import SIZE_4K
from ..errors import ConfigError, EncodingError
from ..formats import by_name
from ..formats.record import Format
from .trace_lines import Line, lines_of

_LEVELS = 4
_LOCKS = 1 << 63
"""Where the locks are said to lie: at no address of memory."""
_MOST_TAKEN = 1 << 32
"""Bytes: those are two records for each 4 KiB."""
_VMID_SHIFT = 48
"""Of VTTBR_EL2 (DDI 0487, D24.2)."""


def write_casemate(trace: Path, target: Path) -> None:
    """Write a trace of edits as Casemate reads it.

    Args:
        trace: what `EditTrace` wrote.
        target: the file to write; what was in it is gone.

    Raises:
        ConfigError: a file cannot be read or written, is no whole trace, or has a table that Casemate cannot judge.
    """
    records = casemate_records(trace)
    first = next(records, None)
    try:
        with target.open("w", encoding="utf-8", newline="\n") as out:
            if first is not None:
                out.write(first + "\n")
            out.writelines(record + "\n" for record in records)
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror or error}", file=str(target)) from None


def casemate_records(trace: Path) -> Iterator[str]:
    """The records, in order.

    Each VM's edits are a thread of their own, which has the VM's VTTBR_EL2, and an edit holds the lock of its table.
    What walkers store is left out: the model is of what software does.

    Raises:
        ConfigError: as `write_casemate`.
    """
    tables: dict[str, _Table] = {}
    number = 0
    for line in lines_of(trace):
        if line.event == "table":
            name = line.text("vm")
            tables[name] = _Table(line, len(tables))
        elif "vm" in line.keys and line.text("vm") not in tables:
            line.refuse(f"no line before this one says what the table of {line.text('vm')!r} is")
        if "vm" not in line.keys:
            continue
        table = tables[line.text("vm")]
        for kind, rest in table.steps(line):
            yield f'({kind} (id {number}) (tid {table.thread}) {rest} (src "{trace.name}:{line.number}"))'
            number += 1


class _Table:
    """One table, as Casemate has it."""

    def __init__(self, line: Line, thread: int) -> None:
        try:
            _require_known(line, by_name(line.text("format")))
        except EncodingError as error:
            line.refuse(str(error))
        self.thread, self.root = thread, line.word("root")
        self._lock = _LOCKS + 8 * thread
        self._identifier = line.number_of("identifier")

    def steps(self, line: Line) -> Iterator[tuple[str, str]]:
        """What a line comes to: kinds of records and what stands in them."""
        match line.event:
            case "identify":
                self._identifier = line.number_of("identifier")
                yield self._install()
            case "take":
                if line.span.size > _MOST_TAKEN:
                    line.refuse(f"{line.span} is more than tables take at once")
                for frame in range(line.span.start, line.span.end, SIZE_4K):
                    yield "mem-init", f"(address {frame:#x}) (size {SIZE_4K:#x})"
                    if frame == self.root:
                        yield "hint", f"(kind set_root_lock) (location {frame:#x}) (value {self._lock:#x})"
                        yield self._install()
                    else:
                        yield "hint", f"(kind set_owner_root) (location {frame:#x}) (value {self.root:#x})"
            case "begin":
                yield "lock", f"(address {self._lock:#x})"
            case "end":
                yield "unlock", f"(address {self._lock:#x})"
            case "store" if line.keys.get("by") != "walker":
                slot = line.word("table") + 8 * line.number_of("index")
                yield "mem-write", f"(mem-order plain) (address {slot:#x}) (value {line.word('new'):#x})"
            case "barrier":
                yield "barrier", f"{line.barrier.split()[0].lower()} (kind {line.barrier.split()[1].lower()})"
            case "invalidate":
                operation = line.operation
                name = operation.name.removeprefix("TLBI ").lower()
                for operand in operation.operands():
                    yield "tlbi", name if operation.span is None else f"{name} (value {operand:#x})"
            case _:
                return

    def _install(self) -> tuple[str, str]:
        value = self._identifier << _VMID_SHIFT | self.root
        return "sysreg-write", f"(sysreg vttbr_el2) (value {value:#x})"


def _require_known(line: Line, fmt: Format) -> None:
    """Refuse a table that Casemate would take for another.

    Raises:
        ConfigError: it is no stage-2 table of Arm with four levels and pages of 4 KiB.
    """
    if (
        not fmt.break_before_make
        or fmt.stage != 2
        or (fmt.page_size, fmt.root_size, fmt.levels) != (SIZE_4K, SIZE_4K, _LEVELS)
    ):
        line.refuse(
            f"Casemate judges Arm's stage-2 tables with pages of 4 KiB and four levels, not {fmt.name}: run the guest "
            "with --stage2-format arm-s2-4k-48"
        )
