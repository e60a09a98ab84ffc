"""`stage2 explain`: an entry, a register or a fault that somebody pastes in, told in plain sentences."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from ..errors import ConfigError, OutOfRangeError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..formats.syndrome import FaultReport

explain = App(name="explain", help="Tell a table entry, a register or a fault in plain sentences.")

_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+(?:_[0-9a-fA-F]+)*|[0-9]+(?:_[0-9]+)*")
_BARE_HEX = re.compile(r"[0-9a-fA-F_]+")
_MAX_SHOWN = 40
_MAX_LINE = 4096
_PAIR = re.compile(r"([A-Za-z][A-Za-z0-9_]*)\s*[=:]\s*([^\s=:,;]+)[\s,;]*")
_SUFFIX = re.compile(r"_el([123])$")

_Json = Annotated[bool, Parameter(name="--json", negative="")]
_Switch = Annotated[bool, Parameter(negative="")]


@explain.command
def entry(
    value: Annotated[str, Parameter(name="ENTRY")],
    /,
    *,
    format_name: Annotated[str, Parameter(name="--format")],
    level: int,
    ad: _Switch = False,
    mbec: _Switch = False,
    pbmt: _Switch = False,
    napot: _Switch = False,
    switch: Annotated[list[str] | None, Parameter(negative="")] = None,
    cpu: str | None = None,
    json_output: _Json = False,
) -> int:
    """Explain one entry of a table.

    Parameters
    ----------
    value
        The entry's 64 bits: 0x...
    format_name
        The table's format: sv39x4, ept4, npt4, arm-s2-4k-40 and so on.
    level
        Where the entry stands: 0 is the table of the smallest pages.
    ad
        Hardware sets accessed and dirty bits (EPTP bit 6, Svadu, VTCR_EL2.HA and HD).
    mbec
        EPT with mode-based execute control.
    pbmt
        RISC-V with Svpbmt: bits 62:61 are a memory type.
    napot
        RISC-V with Svnapot: bit 63 marks a group of 64 KiB.
    switch
        Anything else that is not as usual, by the format's own name for it; may be given several times.
    cpu
        Processor that the entry is for (cortex-a72, "cortex-a72,pa=40"; "--cpu list" names all).
    json_output
        Print JSON instead of text.
    """
    from ..config.cpu import NamedCpu
    from ..formats import by_name, family_of
    from ..render.explain import entry_json, render_entry, view_entry

    number = parse_value("entry", value)
    fmt = by_name(format_name)
    if not 0 <= level < fmt.levels:
        raise OutOfRangeError(
            f"--level {level}: {fmt.name} has levels 0 to {fmt.levels - 1}, 0 being that of the smallest pages"
        )
    wanted = [name for name, on in (("ad", ad), ("mbec", mbec), ("pbmt", pbmt), ("napot", napot)) if on]
    processor = None if cpu is None else NamedCpu(cpu).on(family_of(fmt).arch)
    view = view_entry(fmt, number, level, (*wanted, *(switch or ())), processor)
    _print(json_output, lambda: entry_json(view), lambda: render_entry(view))
    return 0


@explain.command
def register(name: str, value: str, /, *, json_output: _Json = False) -> int:
    """Explain the value of a register that takes part in translation.

    Parameters
    ----------
    name
        Its name in the manual: hgatp, VTCR_EL2, EPTP.
    value
        What it holds: 0x...
    json_output
        Print JSON instead of text.
    """
    from ..formats import register_by_name
    from ..render.explain import register_json, render_register

    found = register_by_name(name)
    number = parse_value(found.name, value)
    found.require(number)
    summary = found.summary(number)
    _print(
        json_output,
        lambda: register_json(found, number, summary),
        lambda: render_register(found, number, summary),
    )
    return 0


@explain.command
def fault(values: Annotated[list[str], Parameter(name="KEY=VALUE")], /, *, json_output: _Json = False) -> int:
    """Explain a fault by the registers that report it, also as a line pasted from a crash.

    esr far hpfar el (Arm; ESR_EL1 says el=1 by its name);
    qualification gpa gva (EPT violation), exit_reason gpa (EPT misconfiguration, 49);
    exitinfo1 exitinfo2 (AMD nested page fault); error cr2 (x86 page fault);
    scause stval htval htinst, mcause mtval mtval2 mtinst, vscause vstval (RISC-V).
    The first of each is needed.

    Parameters
    ----------
    values
        esr=0x92000047 far=0x8000_0000, or "ESR: 0x92000047, FAR: 0x80000000".
    json_output
        Print JSON instead of text.
    """
    from ..render.explain import fault_json, render_fault

    report = report_fault(parse_pairs(" ".join(values)))
    _print(json_output, lambda: fault_json(report), lambda: render_fault(report))
    return 0


@dataclass(frozen=True, slots=True)
class _Source:
    """Who can explain a fault: a function of a family's syndromes, and the keys in its parameters' order.

    The first key is needed, or the one that may be given instead.
    """

    what: str
    family: str
    function: str
    keys: tuple[str, ...]
    instead: str = ""


_SOURCES = (
    _Source("Arm", "arm", "report", ("esr", "far", "hpfar", "el")),
    _Source(
        "an EPT violation", "x86", "ept_fault", ("qualification", "gpa", "gva", "exit_reason"), instead="exit_reason"
    ),
    _Source("an AMD nested page fault", "x86", "nested_page_fault", ("exitinfo1", "exitinfo2")),
    _Source("an x86 page fault", "x86", "page_fault", ("error", "cr2")),
    _Source("RISC-V", "riscv", "report", ("scause", "stval", "htval", "htinst")),
    _Source("RISC-V's machine mode", "riscv", "machine_report", ("mcause", "mtval", "mtval2", "mtinst")),
    _Source("a RISC-V guest", "riscv", "guest_report", ("vscause", "vstval")),
)
_SYNONYMS = {
    "error_code": "error",
    "exit_qualification": "qualification",
    "exit_info1": "exitinfo1",
    "exit_info2": "exitinfo2",
    "guest_physical_address": "gpa",
    "guest_linear_address": "gva",
}
"""How kernels and hypervisors print the same."""
_LEVEL = "el"
"""The key of the exception level whose registers were given."""
_BY_KEY = {key: source for source in _SOURCES for key in source.keys}


def report_fault(values: Mapping[str, int]) -> FaultReport:
    """The report of the family whose registers these are.

    Args:
        values: keys of `_SOURCES` and their numbers.

    Raises:
        ConfigError: keys of several families, or the one that all others depend on is missing.
    """
    sources = list(dict.fromkeys(_BY_KEY[key] for key in values))
    if len(sources) > 1:
        first, second = (next(key for key in values if _BY_KEY[key] is source) for source in sources[:2])
        raise ConfigError(
            f"{first} and {second} do not belong together: {first} is of {sources[0].what}, "
            f"{second} of {sources[1].what}"
        )
    source = sources[0]
    if source.keys[0] not in values and source.instead not in values:
        given = ", ".join(values)
        raise ConfigError(f"{given} alone says nothing: {source.what} needs {source.keys[0]}=... too")
    module = import_module(f"..formats.{source.family}.syndromes", __package__)
    found: FaultReport = getattr(module, source.function)(*(values.get(key) for key in source.keys))
    return found


def parse_pairs(line: str) -> dict[str, int]:
    """The numbers of `esr=0x92000047 far=0x1000`, or of a line like `ESR: 0x92000047, FAR: 0x1000`.

    Raises:
        ConfigError: something else is in it, a key is unknown or comes twice, or a value is no number of 64 bits.
    """
    if len(line) > _MAX_LINE:
        raise ConfigError(f"a line of {len(line)} characters is too long: {_MAX_LINE} at most")
    found: dict[str, int] = {}
    line = line.strip()
    at = 0
    while at < len(line):
        match = _PAIR.match(line, at)
        if match is None:
            raise ConfigError(f"{_shown(line[at:])} is not KEY=VALUE: write for example esr=0x92000047 far=0x1000")
        key, level = _named(match[1].lower())
        if key not in _BY_KEY:
            raise ConfigError(f"{_shown(match[1])} is no key of a fault: there are {', '.join(_BY_KEY)}")
        if key in found:
            raise ConfigError(f"{key} is given twice")
        found[key] = parse_value(key, match[2])
        if level is not None and found.setdefault(_LEVEL, level) != level:
            raise ConfigError(f"{_shown(match[1])} is of EL{level}, and what stands before it of EL{found[_LEVEL]}")
        at = match.end()
    if not found:
        raise ConfigError("nothing is given: write for example esr=0x92000047 far=0x1000")
    return found


def _named(written: str) -> tuple[str, int | None]:
    """The key that a register's name stands for, and the exception level that the name says."""
    match = _SUFFIX.search(written)
    key = written if match is None else written[: match.start()]
    key = _SYNONYMS.get(key, key)
    return key, None if match is None else int(match[1])


def parse_value(what: str, text: str) -> int:
    """A number of 64 bits: `0x8000_0000` or `2147483648`.

    Args:
        what: whose number it is, for the error.
        text: what was given.

    Raises:
        ConfigError: it is no number.
        OutOfRangeError: it has more than 64 bits.
    """
    written = text.strip()
    if len(written) > _MAX_LINE or not _NUMBER.fullmatch(written):
        hint = "write 0x first if it is hexadecimal" if _BARE_HEX.fullmatch(written) else "write 0x1f or 31"
        raise ConfigError(f"{what} {_shown(written)} is no number: {hint}")
    digits = written.replace("_", "")
    hexadecimal = digits[1:2] in ("x", "X")
    # Python refuses to read thousands of decimal digits; 64 bits have 20.
    if not hexadecimal and len(digits.lstrip("0")) > 20:
        raise OutOfRangeError(f"{what} {_shown(written)} has more than 64 bits")
    number = int(digits, 16 if hexadecimal else 10)
    if number >> 64:
        raise OutOfRangeError(f"{what} {_shown(written)} has more than 64 bits")
    return number


def _shown(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."


def _print(json_output: bool, as_json: Callable[[], dict[str, Any]], as_text: Callable[[], RenderableType]) -> None:
    from ..render.explain import print_explanation

    if json_output:
        print(json.dumps(as_json(), indent=2))
    else:
        print_explanation(as_text())
