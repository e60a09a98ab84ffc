"""Every command's text at several widths: no number is ever cut, and nobody gets colours who does not want them."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import RenderableType

from platforms import platform_text
from reports import host_cost, vm_report
from stage2.address import format_size
from stage2.cli.main import call
from stage2.conform.run import OracleReport
from stage2.conform.verdict import Verdict
from stage2.render.conform import render_reports, report_json
from stage2.render.plain import about
from stage2.render.report import render_report
from stage2.render.report_json import reports_json
from stage2.render.tables import render_text
from waiting import HANG_S, said_until_closed

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests/config/fixtures"
GUESTS = ROOT / "src/stage2/vm/guests"
VM_ON_THE_KERNEL = """
[base]
id = 1
name = "bold"
vm_type = 1
cpu_num = 1
[kernel]
entry_point = 0x8020_0000
kernel_load_addr = 0x8020_0000
memory_regions = [[0x8020_0000, 0x40_0000, 0x7, 1]]
[devices]
emu_devices = []
passthrough_devices = []
"""
WIDTHS = (40, 60, 80, 120)
WIDE = 2000
NUMBER = re.compile(r"(?<![0-9A-Za-z_])(?:0[xX][0-9A-Fa-f]+|[0-9][0-9,]*)(?![0-9A-Za-z_])")


def command_lines(folder: Path) -> dict[str, list[str]]:
    platform = folder / "board.toml"
    platform.write_text(platform_text("riscv64", size=0x1000_0000))
    guests = {arch: str(GUESTS / f"demo-{arch}.toml") for arch in ("riscv64", "aarch64", "x86_64")}
    return {
        "show": ["show", str(FIXTURES / "head.toml"), str(FIXTURES / "extensions.toml")],
        "show-platform": ["show", str(platform), guests["riscv64"], "--platform", str(platform)],
        "processors": ["show", "--cpu", "list"],
        **{f"walk-{arch}": ["walk", file, "--gpa", "0x8000_0123"] for arch, file in guests.items()},
        "walk-hva": ["walk", str(platform), "--hva", "0xffff_ffc0_8020_1234"],
        "entry": ["explain", "entry", "--format", "arm-s2-4k-40", "--level", "1", "0x40000080000_7ff"],
        "register": ["explain", "register", "hgatp", "0x800010000013fe00"],
        "fault": ["explain", "fault", "ESR_EL2=0x92000046", "FAR_EL2=0xffff800080000000", "HPFAR_EL2=0x400000"],
        "build": ["build", guests["riscv64"], "-o", str(folder / "built")],
        "layout": ["layout", str(platform), guests["riscv64"]],
    }


COMMANDS = (
    "show", "show-platform", "processors", "walk-riscv64", "walk-aarch64", "walk-x86_64", "walk-hva", "entry",
    "register", "fault", "build", "layout",
)  # fmt: skip
REPORTS: dict[str, tuple[RenderableType, Any]] = {
    "run": (render_report([vm_report()], host_cost()), reports_json([vm_report()], host_cost())),
    "conform": (
        render_reports([OracleReport("qemu-aarch64", "title", "7.2.22", "qemu-aarch64", Verdict(1_234_567))]),
        report_json([OracleReport("qemu-aarch64", "title", "7.2.22", "qemu-aarch64", Verdict(1_234_567))]),
    ),
}


def numbers_of(value: Any) -> Iterator[int]:
    """Every integer of a JSON value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from numbers_of(part)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield value


def forms(number: int) -> tuple[str, ...]:
    """How a number may be written for people."""
    return (f"{number:#x}", f"{number:#018x}", f"{number:,}", str(number), format_size(number), about(number))


def stands(form: str, text: str) -> bool:
    """Whether a number stands whole in a text; between a number and its unit a line may end."""
    pattern = re.escape(form).replace(r"\ ", r"\s+")
    return re.search(rf"(?<![0-9A-Za-z_]){pattern}(?![0-9A-Za-z_])", text) is not None


def require_whole(facts: Any, text_at: Callable[[int], str]) -> None:
    """Assert that what a wide text says of numbers stands whole at every width."""
    wide = text_at(WIDE)
    told = {form for number in numbers_of(facts) for form in forms(number) if stands(form, wide)}
    assert told, "the text says no number of the JSON"
    for width in WIDTHS:
        text = text_at(width)
        # A line with a path in it is left to the terminal, which copies it whole.
        assert max(len(line) for line in text.splitlines() if "/" not in line) <= width
        assert [form for form in told if not stands(form, text)] == [], f"cut at {width} columns"
        missing = Counter(NUMBER.findall(wide)) - Counter(NUMBER.findall(text))
        assert not missing, f"cut at {width} columns"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_number_of_the_json_stands_whole_at_every_width(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = command_lines(tmp_path)[name]
    assert call([*words, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)

    def text_at(width: int) -> str:
        monkeypatch.setenv("COLUMNS", str(width))
        assert call(words) == 0
        return capsys.readouterr().out

    require_whole(facts, text_at)


@pytest.mark.parametrize("name", REPORTS)
def test_every_number_of_a_report_stands_whole_at_every_width(name: str) -> None:
    item, facts = REPORTS[name]
    require_whole(facts, lambda width: render_text(item, width=width))


def test_findings_are_whole_at_every_width(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    platform, vm = tmp_path / "board.toml", tmp_path / "vm.toml"
    platform.write_text(platform_text("riscv64"))
    vm.write_text(VM_ON_THE_KERNEL)
    words = ["layout", str(platform), str(vm)]
    assert call([*words, "--json"]) == 1
    facts = json.loads(capsys.readouterr().out)
    assert facts["findings"]

    def text_at(width: int) -> str:
        monkeypatch.setenv("COLUMNS", str(width))
        assert call(words) == 1
        return capsys.readouterr().out

    require_whole(facts, text_at)


def test_below_the_width_that_a_table_needs_each_row_is_a_block(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert call(["show", str(FIXTURES / "head.toml")]) == 0
    text = capsys.readouterr().out
    block = "  GPA: 0x80000000\n  end: 0xc0000000\n  size: 1 GiB\n  flags: rwxu--\n  type: MAP_IDENTICAL\n"
    assert block in text


SHOW = ("show", str(FIXTURES / "head.toml"))


def on_a_terminal(columns: int, environment: dict[str, str], words: tuple[str, ...] = SHOW) -> str:
    """What a command prints on a terminal of so many columns."""
    ours, theirs = pty.openpty()
    try:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        plain = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "TERM")}
        process = subprocess.Popen(
            [sys.executable, "-m", "stage2", *words],
            env=plain | {"TERM": "xterm-256color"} | environment, stdin=theirs, stdout=theirs, stderr=theirs,
        )  # fmt: skip
        os.close(theirs)
        said = said_until_closed(ours)
        assert process.wait(timeout=HANG_S) == 0
    finally:
        os.close(ours)
    return said.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("columns", [60, 120])
def test_a_terminal_says_itself_how_wide_it_is(columns: int) -> None:
    text = on_a_terminal(columns, {"NO_COLOR": "1"})
    assert max(map(len, text.splitlines())) <= columns
    assert ("GPA: 0x80000000" in text) == (columns == 60)


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"NO_COLOR": "1", "TERM": "dumb"}])
def test_who_wants_no_colours_gets_neither_colours_nor_styles(environment: dict[str, str]) -> None:
    assert "\x1b" not in on_a_terminal(100, environment)
    assert "\x1b" not in on_a_terminal(100, environment, ("show", "--help"))


def test_a_terminal_with_colours_gets_them_and_an_empty_no_color_says_nothing() -> None:
    assert "\x1b[1m" in on_a_terminal(100, {"NO_COLOR": ""})
