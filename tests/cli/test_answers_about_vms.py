"""What `show` and `walk` say of VMs beside each other, of pages beside devices, and of images that are not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from platforms import platform_text
from stage2.cli.main import call

VM = """\
[base]
id = {id}
name = "{name}"
vm_type = 1
cpu_num = 1
arch = "riscv64"
[kernel]
entry_point = 0x8000_0000
kernel_load_addr = 0x8000_0000
memory_regions = [[0x8000_0000, 0x20_0000, 0x7, {kind}]]
[devices]
emu_devices = [{emulated}]
passthrough_devices = [{passed}]
{more}
"""


@pytest.fixture(autouse=True)
def room_for_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Temporary folders have long names, which 80 columns break into lines."""
    monkeypatch.setenv("COLUMNS", "400")


def vm(
    folder: Path, name: str, number: int, *, kind: int = 0, emulated: str = "", passed: str = "", more: str = ""
) -> str:
    path = folder / f"{name}.toml"
    path.write_text(VM.format(id=number, name=name, kind=kind, emulated=emulated, passed=passed, more=more))
    return str(path)


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> tuple[str, str]:
    """Output and errors, with blanks and line breaks as one blank."""
    assert call(list(words)) == code
    found = capsys.readouterr()
    return " ".join(found.out.split()), " ".join(found.err.split())


UART = '["uart", 0x1000_0000, 0x1000_0000, 0x1000, 7]'


@pytest.mark.parametrize(("more", "conflict"), [
    ({"kind": 1}, "one VM would reach the other's memory"),
    ({"passed": UART}, "device uart of VM a holds [0x10000000, 0x10001000)"),
])  # fmt: skip
@pytest.mark.parametrize("arch", ["riscv64", None])
def test_show_reports_the_conflict_that_walk_reports(
    arch: str | None, more: dict[str, Any], conflict: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [vm(tmp_path, "a", 1, **more), vm(tmp_path, "b", 2, **more)]
    if arch is None:
        for file in files:
            Path(file).write_text(Path(file).read_text().replace('arch = "riscv64"\n', ""))
    _, error = said(capsys, "walk", *files, "--gpa", "0x8000_0000", "--arch", "riscv64", code=2)
    assert conflict in error
    told = error.rpartition("stage2: error: ")[2]
    assert f"These VMs cannot be run together: {told}" in said(capsys, "show", *files)[0]


def test_show_reports_what_the_host_does_not_have_as_walk_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board = tmp_path / "board.toml"
    board.write_text(platform_text("riscv64", base=0x9000_0000, kernel=0x9020_0000))
    files = [vm(tmp_path, "a", 1, kind=1), vm(tmp_path, "b", 2)]
    both, alone = "These VMs cannot be run together", "This VM cannot be run on this host"
    for given, subject in ((files, both), (files[:1], alone)):
        _, error = said(capsys, "walk", *given, "--platform", str(board), "--gpa", "0x8000_0000", code=2)
        conflict = error.rpartition("stage2: error: ")[2]
        assert "needs host memory that does not exist" in conflict
        assert f"{subject}: {conflict}" in said(capsys, "show", *given, "--platform", str(board))[0]


def test_show_notices_what_walk_notices_of_vms_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [vm(tmp_path, "a", 1), vm(tmp_path, "b", 2)]
    Path(files[1]).write_text(Path(files[1]).read_text().replace('name = "b"', 'name = "a"'))
    notice = "VM 2 'a' has the name of VM 1 'a'"
    assert notice in said(capsys, "walk", *files, "--gpa", "0x8000_0000")[1]
    shown, _ = said(capsys, "show", *files)
    assert notice in shown
    assert "cannot be run" not in shown


def test_a_walk_beside_an_emulated_device_does_not_call_the_access_emulated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = vm(tmp_path, "a", 1, emulated='["trap", 0x900_0000, 0x100, 0, 0x2, []]')
    beside, _ = said(capsys, "walk", file, "--gpa", "0x900_0800")
    assert "no emulated device answers at this GPA (trap answers in [0x9000000, 0x9000100))" in beside
    assert "is emulated" not in beside
    on_it, _ = said(capsys, "walk", file, "--gpa", "0x900_0010")
    assert "the access leaves the guest and is emulated" in on_it
    fetched, _ = said(capsys, "walk", file, "--gpa", "0x900_0010", "--access", "fetch")
    assert "code cannot be fetched from an emulated device" in fetched


def test_a_page_that_brings_a_neighbour_along_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uart, timer = '["uart", 0x1000_0000, 0x1000_0000, 0x100, 7]', '["timer", 0x1000_0400, 0x1000_0400, 0x100, 8]'
    alone, _ = said(capsys, "show", vm(tmp_path, "a", 1, passed=uart))
    assert "'uart' [0x10000000, 0x10000100) is no whole page" in alone
    assert "what else is in HPA [0x10000000, 0x10001000) comes along" in alone
    both, _ = said(capsys, "show", vm(tmp_path, "b", 2, passed=f"{uart}, {timer}"))
    assert "comes along, among it 'timer' [0x10000400, 0x10000500)" in both
    whole = '["uart", 0x1000_0000, 0x1000_0000, 0x1000, 7]'
    assert "comes along" not in said(capsys, "show", vm(tmp_path, "c", 3, passed=whole))[0]


def test_a_rom_or_kernel_that_is_missing_says_where_it_was_looked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rom = '[[rom]]\nname = "boot"\ngpa = 0x2000_0000\nimage = "fw/boot.bin"\n'
    file = vm(tmp_path, "a", 1, more=rom)
    looked = f"looked for {tmp_path}/fw/boot.bin and fw/boot.bin"
    assert looked in said(capsys, "show", file, code=2)[1]
    sized = vm(tmp_path, "b", 2, more=rom + "size = 0x1000\n")
    assert looked.split(" and ")[0] in said(capsys, "show", sized)[0]
    assert "image not found: looked for no/kernel" in said(capsys, "run", sized, "--kernel", "no/kernel", code=2)[1]
    assert json.loads(said(capsys, "show", sized, "--json")[0])["vms"][0]["name"] == "b"
