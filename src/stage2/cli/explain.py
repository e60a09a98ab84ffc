"""`stage2 explain`: an entry, a register or a fault that somebody pastes in, told in plain sentences."""

from __future__ import annotations

import os
import shlex
import stat
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TextIO

from cyclopts import App, Parameter

from ..crash.numbers import MAX_TEXT, parse_register
from ..errors import ConfigError, OutOfRangeError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..crash.reading import Reading


explain = App(name="explain", help="Tell a table entry, a register or a fault in plain sentences.")

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
        The entry's 64 bits, hexadecimal: 0x200000df or 200000df.
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

    number = parse_register("entry", value)
    fmt = by_name(format_name)
    if not 0 <= level < fmt.levels:
        raise OutOfRangeError(
            f"--level {level}: {fmt.name} has levels 0 to {fmt.levels - 1}, 0 being that of the smallest pages"
        )
    wanted = [name for name, on in (("ad", ad), ("mbec", mbec), ("pbmt", pbmt), ("napot", napot)) if on]
    processor = None if cpu is None else NamedCpu(cpu).on(family_of(fmt).arch)
    view = view_entry(fmt, number, level, (*wanted, *(switch or ())), processor)
    _print("entry" if json_output else None, lambda: entry_json(view), lambda: render_entry(view))
    return 0


@explain.command
def register(name: str, value: str | None = None, /, *, json_output: _Json = False) -> int:
    """Explain the value of a register that takes part in translation: NAME VALUE, or NAME=VALUE.

    Parameters
    ----------
    name
        Its name in the manual: hgatp, VTCR_EL2, EPTP.
    value
        What it holds, hexadecimal: 0x80000000 or 80000000. A value that no CPU would take is told field by field, too.
    json_output
        Print JSON instead of text.
    """
    from ..formats import register_by_name
    from ..render.explain import register_json, render_register

    whole = name if value is None else f"{name.removesuffix('=')}={value.removeprefix('=')}"
    called, equals, behind = whole.partition("=")
    found = register_by_name(called.strip())
    if not equals:
        raise ConfigError(f"{found.name} has no value: write {found.name} 0x1f")
    number = parse_register(found.name, behind)
    found.require(number)
    summary, reason = found.judge(number)
    _print(
        "register" if json_output else None,
        lambda: register_json(found, number, summary, reason),
        lambda: render_register(found, number, summary, reason),
    )
    return 0


@explain.command
def fault(
    values: Annotated[list[str] | None, Parameter(name="TEXT")] = None,
    /,
    *,
    file: Annotated[str | None, Parameter(name=["--file", "-f"], allow_leading_hyphen=True)] = None,
    standard_input: Annotated[bool, Parameter(name="-", negative="", show=False)] = False,
    json_output: _Json = False,
) -> int:
    """Explain a fault by the registers that report it: as KEY=VALUE, or lines pasted from a crash.

    esr far hpfar el (Arm; ESR_EL1 says el=1 by its name);
    qualification gpa gva (EPT violation), exit_reason gpa (EPT misconfiguration, 49);
    exitinfo1 exitinfo2 (AMD nested page fault); error cr2 (x86 page fault);
    scause stval htval htinst, mcause mtval mtval2 mtinst, vscause vstval (RISC-V).
    The first of each is needed. Registers are hexadecimal, with or without 0x; an exit reason is decimal without.

    Whole oopses and panics are understood too, with timestamps and prefixes: Linux and its KVM, Xen, Jailhouse,
    OpenSBI, U-Boot, TF-A, EDK2, Zephyr, FreeBSD, seL4, xv6 and QEMU's -d int. Each fault in them is told, with the page
    tables that Linux dumps beside it; what says nothing of a fault is listed.

    Parameters
    ----------
    values
        esr=0x92000047 far=0x8000_0000, or "ESR: 92000047, FAR: 80000000".
    file
        Read the text from this file; - is standard input, which is also read where a pipe is all that is given.
    standard_input
        The same as --file -.
    json_output
        Print JSON instead of text.
    """
    from ..crash.reading import read_text
    from ..crash.report import report_all
    from ..render.crash import crash_json, render_crash

    standard_input = standard_input or (file is None and not values and _is_fed(sys.stdin))
    if sum((file is not None, bool(values), standard_input)) != 1:
        raise ConfigError(
            "give the registers, such as esr=0x92000047 far=0x1000, or a text by --file FILE "
            "(--file - is standard input)"
        )
    reading = _read_words(values) if values else read_text(_text_of("-" if file is None else file))
    told = report_all(reading)
    _print(
        "fault" if json_output else None,
        lambda: crash_json(told, reading),
        lambda: render_crash(told, reading),
    )
    return 0


def _read_words(words: Sequence[str]) -> Reading:
    """The registers that words tell.

    Raises:
        ConfigError, OutOfRangeError: as `read_text`; a word is the name of a file.
    """
    from ..crash.reading import read_text

    try:
        return read_text(" ".join(words))
    except ConfigError:
        for word in words:
            if os.path.isfile(word):
                raise ConfigError(f"{word!r} is a file: --file {shlex.quote(word)}") from None
        raise


def _is_fed(stream: TextIO) -> bool:
    """Whether a stream is a pipe or a file, so that somebody meant it to be read."""
    try:
        mode = os.fstat(stream.fileno()).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def _text_of(file: str) -> str:
    """The text of a file, or of standard input.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        if file == "-":
            return sys.stdin.buffer.read(MAX_TEXT + 1).decode(errors="replace")
        with open(file, "rb") as opened:
            return opened.read(MAX_TEXT + 1).decode(errors="replace")
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None


def _print(kind: str | None, as_json: Callable[[], dict[str, Any]], as_text: Callable[[], RenderableType]) -> None:
    """Print JSON of a kind, or text."""
    from ..render.explain import print_explanation
    from ..render.json_text import json_text

    if kind is not None:
        print(json_text(kind, as_json()))
    else:
        print_explanation(as_text())
