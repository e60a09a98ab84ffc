"""The hypervisor's own tables in `stage2 build`, and `stage2 walk --hva` on a platform and on what was built."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from platforms import platform_text
from stage2.cli.main import call

VM = """
[base]
id = 1
name = "small"
vm_type = 1
cpu_num = 1
[kernel]
entry_point = 0x9000_0000
kernel_load_addr = 0x9000_0000
memory_regions = [[0x9000_0000, 0x40_0000, 0x7, 0]]
[devices]
emu_devices = []
passthrough_devices = []
"""
OFFSET = 0xFFFF_FFC0_0000_0000


@pytest.fixture
def platform(tmp_path: Path) -> Path:
    path = tmp_path / "board.toml"
    path.write_text(platform_text("riscv64", size=0x1000_0000))
    return path


@pytest.fixture
def vm(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(VM)
    return path


def walk(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    assert call(["walk", *arguments, "--json"]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_a_platform_file_alone_explains_the_hypervisors_own_address(
    platform: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = walk(capsys, str(platform), "--hva", f"{0x8020_1234 + OFFSET:#x}")
    assert found["hva"] == 0x8020_1234 + OFFSET
    assert (found["format"], found["guard"]) == ("sv39", False)
    assert found["result"]["hpa"] == 0x8020_1234  # type: ignore[index]
    assert found["result"]["permissions"] == "r-x/---"  # type: ignore[index]
    assert found["piece"]["name"] == ".text"  # type: ignore[index]


def test_what_build_wrote_walks_like_the_platform(
    platform: Path,
    vm: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Temporary folders have long names, which 80 columns break into lines.
    monkeypatch.setenv("COLUMNS", "400")
    out = tmp_path / "out"
    assert call(["build", str(vm), "--platform", str(platform), "-o", str(out), "--smp", "3"]) == 0
    text = capsys.readouterr().out
    assert "hypervisor: " in text
    assert f"in {out / 'hypervisor'}" in text
    manifest = json.loads((out / "manifest.json").read_text())["hypervisor"]
    assert manifest["registers"]["satp"] == 8 << 60 | manifest["halves"][0]["root"] >> 12
    for hva in (0x8020_0000, 0x8FFF_FFFF, 0x1000_0000, 0x8100_0000, 0x2000_0000):
        options = ["--hva", f"{hva + OFFSET:#x}"]
        live = walk(capsys, str(vm), "--platform", str(platform), "--smp", "3", *options)
        stored = walk(capsys, str(out), *options)
        assert stored["steps"] == live["steps"]
        assert stored["piece"] == live["piece"]
    guard, _ = manifest["guard"]
    assert walk(capsys, str(out), "--hva", f"{guard:#x}")["guard"] is True


def test_a_second_build_replaces_the_hypervisors_files_too(
    platform: Path, vm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert call(["build", str(vm), "--platform", str(platform), "-o", str(out)]) == 0
    assert call(["build", str(vm), "--arch", "riscv64", "-o", str(out)]) == 0
    assert not (out / "hypervisor").exists()
    capsys.readouterr()
    assert call(["walk", str(out), "--hva", "0x1000"]) == 2
    assert "holds no tables of the hypervisor's own" in capsys.readouterr().err


def test_protected_tables_are_nowhere_in_the_linear_map(
    platform: Path, vm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []
    for option in ([], ["--protect-tables"]):
        out = tmp_path / f"out{len(option)}"
        assert call(["build", str(vm), "--platform", str(platform), "-o", str(out), *option]) == 0
        manifest = json.loads((out / "manifest.json").read_text())
        capsys.readouterr()
        for piece in manifest["vms"][0]["segments"]:
            for hpa in range(piece["hpa"], piece["hpa"] + piece["size"], 0x1000):
                result = walk(capsys, str(out), "--hva", f"{hpa + OFFSET:#x}")["result"]
                seen.append((bool(option), result["kind"]))  # type: ignore[index]
    assert set(seen) == {(False, "mapped"), (True, "fault")}


def test_a_vm_called_hypervisor_gets_another_folder(
    platform: Path, vm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vm.write_text(VM.replace('"small"', '"Hypervisor"'))
    out = tmp_path / "out"
    assert call(["build", str(vm), "--platform", str(platform), "-o", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["Hypervisor-1", "hypervisor", "manifest.json"]
    capsys.readouterr()


ONE_ADDRESS = "say which address is to be explained: one of --gpa, --gva and --hva"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["walk", "BOARD"], ONE_ADDRESS),
        (["walk", "BOARD", "--gpa", "0", "--hva", "0"], ONE_ADDRESS),
        (["walk", "VM", "--hva", "0"], "--hva: the host's platform file says where the hypervisor is mapped"),
        (["walk", "BOARD", "VM", "--hva", "0"], "board.toml is a platform file: give it alone, or by --platform"),
        (["walk", "BOARD", "--hva", "0", "--touch"], "--touch means nothing for --hva"),
        (["walk", "BOARD", "--hva", "0", "--access", "hlvx"], "--access hlvx: a hypervisor does not access"),
        (["walk", "BOARD", "--hva", "0", "--vm", "small"], "--vm means nothing for --hva"),
        (["walk", "BOARD", "--hva", "0", "--smp", "0"], "--smp 0: 1 to 512 CPUs are possible"),
        (
            ["build", "VM", "--arch", "riscv64", "-o", "OUT", "--protect-tables"],
            "--protect-tables is about the hypervisor's",
        ),
        (
            ["build", "VM", "--platform", "BOARD", "-o", "OUT", "--hypervisor-format", "sv39x4"],
            "sv39x4 is a format of stage 2: the hypervisor's own tables are of stage 1",
        ),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    platform: Path, vm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    places = {"BOARD": platform, "VM": vm, "OUT": tmp_path / "out"}
    assert call([str(places.get(argument, argument)) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert says in error
    # A notice may say before it where the hypervisor's kernel is taken to be.
    assert sum(not line.startswith("stage2: notice: ") for line in error.splitlines()) == 1
