"""Which format a VM's tables have: by architecture, platform, board, and by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stage2.cli.main import call

BOARD = """\
cargo_args = []
features = [{features}]
log = "Info"
target = "{target}"
to_bin = true
vm_configs = []
"""
PLATFORM = """\
arch = "{arch}"
platform = "board"
[plat]
phys-memory-base = 0x1_0000_0000
phys-memory-size = 0x1000_0000
[devices]
"""
ARM, X86, RISCV = "aarch64-unknown-none-softfloat", "x86_64-unknown-none", "riscv64gc-unknown-none-elf"


def vm_file(folder: Path, *, options: str = "", end: int = 0x8040_0000, arch: str | None = None) -> str:
    path = folder / "vm.toml"
    path.write_text(f"""\
[base]
id = 1
name = "guest"
{"" if arch is None else f'arch = "{arch}"'}

[kernel]
entry_point = 0x8000_0000
kernel_load_addr = 0x8000_0000
memory_regions = [[0x8000_0000, 0x40_0000, 0x7, 0], [{end - 0x1_0000:#x}, 0x1_0000, 0x7, 0]]

[stage2]
{options}
""")
    return str(path)


def host_file(folder: Path, text: str) -> str:
    path = folder / "host.toml"
    path.write_text(text)
    return str(path)


def board(folder: Path, target: str, *features: str) -> str:
    return host_file(folder, BOARD.format(target=target, features=", ".join(f'"{feature}"' for feature in features)))


def format_of(capsys: pytest.CaptureFixture[str], vm: str, *arguments: str) -> str:
    """The format that `walk` finds; `build` and `show` must agree."""
    assert call(["walk", vm, "--gpa", "0x8000_1234", "--json", *arguments]) == 0
    walked = json.loads(capsys.readouterr().out)
    assert walked["result"]["kind"] == "mapped"
    out = Path(vm).with_name("out")
    assert call(["build", vm, "-o", str(out), "--json", *arguments]) == 0
    (built,) = json.loads(capsys.readouterr().out)["vms"]
    assert built["format"] == walked["format"]
    if "--arch" not in arguments:
        assert call(["show", vm, "--json", *arguments]) == 0
        (shown,) = json.loads(capsys.readouterr().out)["vms"]
        assert shown["stage2_format"] == walked["format"]
    return str(walked["format"])


FIRST = 0x8042_0000


@pytest.mark.parametrize(
    ("arch", "end", "expected"),
    [
        ("riscv64", FIRST, "sv39x4"),
        ("riscv64", 1 << 41, "sv39x4"),
        ("riscv64", 1 << 42, "sv48x4"),
        ("riscv64", 1 << 51, "sv57x4"),
        ("aarch64", FIRST, "arm-s2-4k-40"),
        ("aarch64", 1 << 40, "arm-s2-4k-40"),
        ("aarch64", 1 << 41, "arm-s2-4k-44"),
        ("aarch64", 1 << 45, "arm-s2-4k-48"),
        ("x86_64", 1 << 48, "ept4"),
        ("x86_64", 1 << 49, "ept5"),
    ],
)
def test_the_narrowest_format_that_reaches_all_memory_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arch: str, end: int, expected: str
) -> None:
    assert format_of(capsys, vm_file(tmp_path, end=end), "--arch", arch) == expected


@pytest.mark.parametrize(("arch", "expected"), [("riscv64", "sv39x4"), ("aarch64", "arm-s2-4k-40"), ("x86_64", "ept4")])
def test_a_platform_files_architecture_decides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arch: str, expected: str
) -> None:
    platform = host_file(tmp_path, PLATFORM.format(arch=arch))
    assert format_of(capsys, vm_file(tmp_path, end=FIRST), "--platform", platform) == expected


@pytest.mark.parametrize(
    ("target", "features", "expected"),
    [
        (ARM, ("dyn-plat", "fs"), "arm-s2-4k-40"),
        (ARM, ("ept-level-4", "dyn-plat"), "arm-s2-4k-48"),
        (ARM, ("axaddrspace/4-level-ept",), "arm-s2-4k-48"),
        (X86, ("fs",), "ept4"),
        (X86, ("ept-level-4",), "ept4"),
        (RISCV, (), "sv39x4"),
        (RISCV, ("4-level-ept",), "sv48x4"),
    ],
)
def test_a_board_files_target_and_features_decide(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str, features: tuple[str, ...], expected: str
) -> None:
    vm = vm_file(tmp_path, end=FIRST)
    assert format_of(capsys, vm, "--platform", board(tmp_path, target, *features)) == expected


NAMED = ("npt4", "npt5", "ept5", "sv48x4", "arm-s2-16k-40", "arm-s2-64k-40", "arm-s2-4k-40-4level", "arm-s2-4k-52-lpa2")


@pytest.mark.parametrize("name", NAMED)
def test_a_named_format_is_taken_and_names_the_architecture_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert format_of(capsys, vm_file(tmp_path, end=FIRST, options=f'format = "{name}"')) == name
    assert format_of(capsys, vm_file(tmp_path, end=FIRST), "--stage2-format", name) == name


def test_the_command_line_goes_before_the_file_and_a_name_before_the_boards_levels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vm = vm_file(tmp_path, end=FIRST, options='format = "arm-s2-16k-40"')
    arguments = ("--platform", board(tmp_path, ARM, "ept-level-4"))
    assert format_of(capsys, vm, *arguments) == "arm-s2-16k-40"
    assert format_of(capsys, vm, *arguments, "--stage2-format", "arm-s2-4k-44") == "arm-s2-4k-44"


def test_without_an_architecture_show_knows_no_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["show", vm_file(tmp_path, end=FIRST), "--json"]) == 0
    (shown,) = json.loads(capsys.readouterr().out)["vms"]
    assert shown["stage2_format"] is None


@pytest.mark.parametrize(
    ("options", "arguments", "says"),
    [
        ("", ("--stage2-format", "sv39"), "--stage2-format: sv39 is a format of stage 1"),
        ("", ("--stage2-format", "arm-s1-4k-48"), "stage 1, the guest's own; one of stage 2 is wanted: arm-s2-4k-40"),
        ("", ("--stage2-format", "arm-s2-4k-60"), "4k granules translate 25 to 48 bits, not 60"),
        ("", ("--stage2-format", "etp4"), "no stage-2 format is called 'etp4' (did you mean ept4?)"),
        ("", ("--stage2-format", "arm-s2-4k-31"), "memory goes up to GPA 0x80420000, but arm-s2-4k-31 translates 31"),
        ('format = "sv39"', (), "vm.toml:12: stage2.format: sv39 is a format of stage 1"),
        ('format = "arm-s2-4k-31"', (), "vm.toml:12: stage2.format: memory goes up to GPA 0x80420000"),
        ("format = 4", (), "vm.toml:12: stage2.format: 4 found, a string wanted"),
        ('format = "npt4"', ("--platform", "HOST"), "says aarch64, [stage2] format npt4 says x86_64"),
        ("", ("--stage2-format", "sv39x4", "--platform", "HOST"), "says aarch64, --stage2-format sv39x4 says riscv64"),
        ("", ("--stage2-format", "arm-s2-64k-40"), "ram0"),
    ],
)
def test_a_wrong_format_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str, arguments: tuple[str, ...], says: str
) -> None:
    host = board(tmp_path, ARM)
    vm = vm_file(tmp_path, end=FIRST, options=options)
    if says == "ram0":
        Path(vm).write_text(Path(vm).read_text().replace("0x40_0000,", "0x40_1000,"))
    assert call(["walk", vm, "--gpa", "0", *(host if word == "HOST" else word for word in arguments)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert says in errors[0]


def test_shared_memory_begins_at_a_page_of_the_largest_format(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = []
    for number, (name, peer) in enumerate((("a", "b"), ("b", "a")), start=1):
        share = f"""
[[share]]
name = "ring"
gpa = 0xa000_0000
size = 0x1_0000
access = "rw"
peers = ["{peer}"]
"""
        text = Path(vm_file(tmp_path, end=FIRST)).read_text().replace("id = 1", f"id = {number}")
        path = tmp_path / f"{name}.toml"
        path.write_text(text.replace('"guest"', f'"{name}"') + share)
        texts.append(str(path))
    assert call(["walk", *texts, "--gpa", "0xa000_0000", "--stage2-format", "arm-s2-64k-40", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)["result"]
    assert (result["kind"], result["hpa"] % 0x1_0000) == ("mapped", 0)


def test_memory_that_no_usual_format_reaches_asks_for_a_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vm = vm_file(tmp_path, end=1 << 50, arch="aarch64")
    assert call(["walk", vm, "--gpa", "0"]) == 2
    assert "arm-s2-4k-48 translates 48 bits" in capsys.readouterr().err
    assert format_of(capsys, vm, "--stage2-format", "arm-s2-4k-52-lpa2") == "arm-s2-4k-52-lpa2"


def test_a_board_of_an_unknown_architecture_is_no_host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host = board(tmp_path, "loongarch64-unknown-none")
    assert call(["walk", vm_file(tmp_path, end=FIRST), "--gpa", "0", "--platform", host]) == 2
    assert "'loongarch64-unknown-none' is of no architecture known here" in capsys.readouterr().err


def test_show_tells_a_board_and_what_it_decides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host = board(tmp_path, ARM, "ept-level-4")
    assert call(["show", vm_file(tmp_path, end=FIRST), "--platform", host]) == 0
    text = capsys.readouterr().out
    assert "four-level tables" in text
    assert "arm-s2-4k-48: Arm stage 2" in text
    assert call(["show", vm_file(tmp_path, end=FIRST), "--platform", host, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["board"]["four_levels"] is True
    assert found["platform"] is None
