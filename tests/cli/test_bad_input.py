"""Every kind of wrong file ends in one line that names file and line, code 2, and no traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from waiting import HANG_S

VM = """\
[base]
id = 1
name = "guest"
arch = "riscv64"

[kernel]
entry_point = 0x8020_0000
kernel_load_addr = 0x8020_0000
{kernel}
memory_regions = [
    [0x8000_0000, 0x40_0000, 0x7, 0],
    {region}
]
"""
REGION_LINE = 12


def vm_file(folder: Path, region: str = "", kernel: str = "", name: str = "vm.toml") -> Path:
    path = folder / name
    path.write_text(VM.format(region=region, kernel=kernel))
    return path


def stage2(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from stage2.cli.main import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, check=False)


def the_error(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a failed command."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith("stage2: notice: ")]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("stage2: error: ")
    return lines[0].removeprefix("stage2: error: ")


@pytest.mark.parametrize(
    ("region", "words"),
    [
        pytest.param("[0x8010_0000, 0x40_0000, 0x7, 0]", "0x80100000", id="overlapping regions"),
        pytest.param("[0x9000_0000, 0x1000, 0x7, 9]", "map_type 9 does not exist", id="unknown map_type"),
        pytest.param("[0x9000_0000, 0x1000, 0x47, 0]", "0x47", id="flag bits that mean nothing"),
        pytest.param("[0x9000_0000, 0x4000_0000_0000_0000, 0x7, 0]", "0x4000000090000000", id="2^62 bytes"),
        pytest.param("[0x9000_0000, 0, 0x7, 0]", "size 0", id="size 0"),
        pytest.param("[0x9000_0010, 0x1000, 0x7, 0]", "not a multiple of the page size", id="misaligned start"),
        pytest.param("[0x9000_0000, 0x1010, 0x7, 0]", "not a multiple of the page size", id="misaligned size"),
    ],
)
def test_a_wrong_region_is_one_error_with_its_line(tmp_path: Path, region: str, words: str) -> None:
    path = vm_file(tmp_path, region)
    error = the_error(stage2("show", path))
    assert error.startswith(f"{path}:{REGION_LINE}: ")
    assert words in error


def test_an_entry_outside_ram_is_an_error_at_its_line(tmp_path: Path) -> None:
    path = tmp_path / "vm.toml"
    path.write_text(VM.format(region="", kernel="").replace("entry_point = 0x8020", "entry_point = 0x7020"))
    error = the_error(stage2("show", path))
    assert error.startswith(f"{path}:7: ")
    assert "0x70200000" in error


def test_a_truncated_file_is_an_error_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "cut.toml"
    path.write_text("".join(VM.splitlines(keepends=True)[:10]))
    error = the_error(stage2("show", path))
    assert error.startswith(f"{path}:")


@pytest.mark.parametrize("data", [b"\x7fELF\x02\x01\x00\xff\xfe", b"\x00" * 64, b"[base]\nname = '\xff'\n"])
def test_a_binary_file_is_one_printable_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "binary.toml"
    path.write_bytes(data)
    error = the_error(stage2("show", path))
    assert error.startswith(f"{path}")
    assert error.isprintable()


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert str(tmp_path / "none.toml") in the_error(stage2("show", tmp_path / "none.toml"))


def test_a_file_name_cannot_send_commands_to_the_terminal(tmp_path: Path) -> None:
    error = the_error(stage2("show", tmp_path / "\x1b[31mred\n.toml"))
    assert "\\x1b[31mred" in error
    assert error.isprintable()


def test_a_missing_kernel_is_an_error_at_the_line_that_names_it(tmp_path: Path) -> None:
    path = vm_file(tmp_path, kernel='kernel_path = "no-such-kernel"')
    error = the_error(stage2("run", path))
    assert error.startswith(f"{path}:9: kernel.kernel_path: ")
    assert "no-such-kernel" in error


def test_a_kernel_beyond_ram_is_an_error_at_the_line_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"\x13\0\0\0" * (0x40_0000 // 4))
    path = vm_file(tmp_path, kernel='kernel_path = "big"')
    error = the_error(stage2("run", path))
    assert error.startswith(f"{path}:9: ")
    assert "0x80600000" in error


def test_an_arch_that_contradicts_the_file_is_an_error(tmp_path: Path) -> None:
    path = vm_file(tmp_path)
    error = the_error(stage2("walk", path, "--gpa", "0x80000000", "--arch", "x86_64"))
    assert "--arch says x86_64" in error


def test_a_file_without_an_architecture_says_how_to_name_one(tmp_path: Path) -> None:
    path = tmp_path / "vm.toml"
    path.write_text(VM.format(region="", kernel="").replace('arch = "riscv64"\n', ""))
    assert "--arch" in the_error(stage2("walk", path, "--gpa", "0"))


@pytest.mark.parametrize("gpa", ["zz", "0x", "", "-5", "1g3", "0x8000__0000", "0x1_0000_0000_0000_0000", "9" * 5000])
def test_a_bad_gpa_is_refused_before_anything_is_built(gpa: str, capsys: pytest.CaptureFixture[str]) -> None:
    from stage2.cli.main import call

    assert call(["walk", "no-such-file.toml", f"--gpa={gpa}"]) == 2
    error = capsys.readouterr().err
    assert "--gpa" in error
    assert len(error) < 200
    assert error.count("\n") == 1
