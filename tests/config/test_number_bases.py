"""Numbers in a file whose base seems to be mistaken: errors show them as written, with the likely meaning."""

from __future__ import annotations

from pathlib import Path

import pytest

from stage2.config.document import parse_document
from stage2.config.load import load_vm
from stage2.config.locator import hex_groups, likely_meaning, locate
from stage2.errors import ConfigError

VM = """\
[base]
id = 1
name = "a"
vm_type = 1
cpu_num = 1
arch = "riscv64"
[kernel]
entry_point = {entry}
kernel_load_addr = 0x8000_0000
memory_regions = [[{start}, {size}, 0x7, 0]]
[devices]
emu_devices = []
passthrough_devices = []
"""


def error_of(tmp_path: Path, *, entry: str = "0x8000_0000", start: str = "0x8000_0000", size: str = "0x20_0000") -> str:
    path = tmp_path / "vm.toml"
    path.write_text(VM.format(entry=entry, start=start, size=size))
    with pytest.raises(ConfigError) as raised:
        load_vm(path)
    return str(raised.value)


@pytest.mark.parametrize(
    ("written", "meaning"),
    [
        ("40000000", "0x4000_0000"),
        ("40_000_000", "0x4000_0000"),
        ("80200000", "0x8020_0000"),
        ("0x1073741824", "1073741824"),
        ("1073741824", None),  # 0x4000_0000, and rightly so
        ("0x4000_0000", None),
        ("0x8000_f000", None),
        ("12", None),
        ("0", None),
    ],
)
def test_a_number_that_makes_a_page_only_in_the_other_base_is_odd(written: str, meaning: str | None) -> None:
    assert likely_meaning(written) == meaning


def test_groups_of_four_digits_are_as_in_axvisors_files() -> None:
    assert [hex_groups(value) for value in (0x1000, 0x20_0000, 0x4000_0000, 0x1_0000_0000)] == [
        "0x1000", "0x20_0000", "0x4000_0000", "0x1_0000_0000",
    ]  # fmt: skip


def test_an_entry_point_in_decimal_is_shown_as_written(tmp_path: Path) -> None:
    error = error_of(tmp_path, entry="80000000")
    assert "entry point 0x4c4b400 is outside the guest's memory" in error
    assert error.endswith("(written 80000000; did you mean 0x8000_0000?)")


@pytest.mark.parametrize(("start", "size"), [("80000000", "0x20_0000"), ("0x8000_0000", "200000")])
def test_a_number_of_a_row_is_told_where_the_row_is_wrong(start: str, size: str, tmp_path: Path) -> None:
    odd = start if start.isdecimal() else size
    assert f"(written {odd}; did you mean " in error_of(tmp_path, start=start, size=size)


def test_decimal_digits_behind_0x_are_told_too(tmp_path: Path) -> None:
    assert error_of(tmp_path, size="0x2097152").endswith("(written 0x2097152; did you mean 2097152?)")


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("0x64", "0x64 is out of range: 0 to 0x63 is allowed (written 0x64; did you mean 64?)"),
        ("120", "0x78 is out of range: 0 to 0x63 is allowed (written 120)"),
        ("0xff", "0xff is out of range: 0 to 0x63 is allowed"),
    ],
)
def test_a_number_out_of_range_is_shown_as_written(written: str, told: str) -> None:
    item = parse_document(f"irq = {written}\n", "f.toml").root.find("irq")
    assert item is not None
    with pytest.raises(ConfigError) as raised:
        item.integer(0, 99)
    assert str(raised.value) == f"f.toml:1: irq: {told}"


def test_what_is_no_number_is_never_odd() -> None:
    positions = locate('a = "40000000"\nb = 1.5\nc = 2026-11-29\n# d = 40000000\n')
    assert [positions.written((key,)) for key in "abcd"] == [""] * 4
