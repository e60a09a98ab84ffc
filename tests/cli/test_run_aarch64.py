"""`stage2 run` with AArch64 guests: what runs, and what is refused in one line."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

import effort
from stage2.cli.main import call

pytest.importorskip("unicorn")

GUESTS = Path(__file__).parents[2] / "src" / "stage2" / "vm" / "guests"
BOARD = 'target = "aarch64-unknown-none-softfloat"\nfeatures = [{}]\n'


def guest(folder: Path, *, base: str = 'vm_type = 1\ncpu_num = 1\narch = "aarch64"', image: bytes = b"") -> str:
    """The demo guest's file with another [base]; `image` is put behind its code."""
    shutil.copytree(GUESTS, folder / "guests")
    path = folder / "guests" / "demo-aarch64.toml"
    start, _, rest = path.read_text().partition("vm_type = 1\n")
    path.write_text(f"{start}{base}\n[kernel]{rest.partition('[kernel]')[2]}")
    kernel = path.with_name("demo-aarch64.bin")
    kernel.write_bytes(kernel.read_bytes() + image)
    return str(path)


def ran(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, str, int]:
    """Exit, format and number of violations of a run."""
    assert call(["run", *arguments, "--json", "-"]) == 0
    (vm,) = json.loads(capsys.readouterr().out)["vms"]
    assert vm["console"].count(" ok") == 5
    return vm["exit"], vm["format"], len(vm["violations"])


def test_a_bare_metal_image_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran(capsys, guest(tmp_path)) == ("off", "arm-s2-4k-40", 3)


@pytest.mark.parametrize(("features", "expected"), [("", "arm-s2-4k-40"), ('"ept-level-4"', "arm-s2-4k-48")])
def test_a_board_file_says_the_architecture_and_the_levels_of_a_run(
    features: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board = tmp_path / "board.toml"
    board.write_text(BOARD.format(features))
    path = guest(tmp_path, base="cpu_num = 1")
    assert ran(capsys, path, "--platform", str(board)) == ("off", expected, 3)


OTHERS = ["arm-s2-4k-52-lpa2", "arm-s2-64k-48", "arm-s2-4k-40-4level", "arm-s2-16k-40"]


@pytest.mark.parametrize("name", OTHERS if effort.FACTOR > 1 else OTHERS[:2])
def test_a_guest_runs_on_another_stage_2_format(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(guest(tmp_path))
    # The ROM must be whole pages; the emulated device, which is never mapped, need not.
    path.write_text(path.read_text().replace("size = 0x1000", "size = 0x1_0000"))
    assert ran(capsys, str(path), "--stage2-format", name) == ("off", name, 3)


@pytest.mark.parametrize(
    ("base", "image", "says"),
    [
        ('cpu_num = 2\narch = "aarch64"', b"", "runs aarch64 guests with one CPU; VM demo has 2"),
        ('vm_type = 2\narch = "aarch64"', b"", "VM 1 'demo' is a Linux guest: it needs interrupts"),
        (
            'arch = "aarch64"',
            b"Linux version 6.1",
            "riscv64, and for aarch64 with an emulated GICv2",
        ),
    ],
)
def test_what_the_engine_cannot_run_is_one_clear_line(
    base: str, image: bytes, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["run", "--engine", "unicorn", guest(tmp_path, base=base, image=image)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    assert says in shown.err


def test_a_run_draws_what_the_guest_had_at_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    svg = tmp_path / "p.svg"
    assert ran(capsys, guest(tmp_path), "--svg", str(svg)) == ("off", "arm-s2-4k-40", 3)
    shown = re.findall(r"populated: (\S+ KiB) of (\S+ MiB), \d+ %", svg.read_text())
    assert len(set(shown)) == 1
    assert "mapped, not declared" not in svg.read_text()
    assert call(["run", guest(tmp_path / "again"), "--svg", str(tmp_path / "p.png")]) == 2
    assert "the picture is SVG" in " ".join(capsys.readouterr().err.split())
