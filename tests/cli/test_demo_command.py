"""`stage2 demo`: every architecture's guest, and how little a start loads and compiles."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from test_start import COUNT, environment

import effort
from stage2.cli.main import call
from stage2.crash.reading import read_text
from stage2.crash.report import report_fault
from waiting import HANG_S

pytest.importorskip("unicorn")

FAMILIES = {"riscv64": "riscv", "aarch64": "arm", "x86_64": "x86"}
GUESTS = Path(__file__).parents[2] / "src" / "stage2" / "vm" / "guests"
BUNDLED = list(FAMILIES)
REGISTERS = {
    "riscv64": ("scause", "stval", "htval", "htinst"),
    "aarch64": ("ESR_EL2", "FAR_EL2", "HPFAR_EL2"),
    "x86_64": ("exit_qualification", "guest_physical_address", "guest_linear_address"),
}
LOADED = """
import sys
from stage2.cli.main import call
assert call({arguments!r}) == 0
sys.stderr.write(" ".join(name for name in sys.modules if name.startswith("stage2.formats.")))
"""
RUN = (
    COUNT
    + """
import sys
from stage2.cli.main import call
assert call(sys.argv[1:]) == 0
print(f"compiled: {len(compiled)}")
"""
)
"""Runs a command in a process that has numba, and prints how many functions were compiled at the end."""


def fresh(arguments: list[str], cache: Path) -> tuple[Any, set[str]]:
    """What a command prints as JSON, and the families it loaded, in a new process with a kernel cache of its own."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED.format(arguments=arguments)],
        env=environment(cache),
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # A family's own module says which formats it has; what counts is what lies in its folder.
    loaded = {name.split(".")[2] for name in done.stderr.split() if name.count(".") > 2}
    return json.loads(done.stdout), loaded


@pytest.mark.parametrize("arch", BUNDLED)
def test_the_demo_passes_and_reports_what_its_hardware_would(arch: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["demo", "--arch", arch, "--json", "-"]) == 0
    (vm,) = json.loads(capsys.readouterr().out)["vms"]
    assert (vm["arch"], vm["exit"]) == (arch, "off")
    checks = [line for line in vm["console"].splitlines() if " ... " in line]
    assert len(checks) >= 5
    assert all(line.endswith(" ok") for line in checks)
    assert Counter((found["access"], found["region"]) for found in vm["violations"]) == {
        ("write", "rom"): 1,
        ("read", "hole"): 1,
        ("fetch", "uart"): 1,
    }
    if arch == "aarch64":
        # `str wzr`, `ldr x0` and a fetch: ISV, size, register and width are told of loads and stores (D24.2 "ESR_EL2").
        syndromes = {found["region"]: found["syndrome"]["ESR_EL2"] for found in vm["violations"]}
        assert syndromes == {"rom": 0x939F_004F, "hole": 0x93C0_8006, "uart": 0x8200_0006}
    for found in vm["violations"]:
        assert tuple(found["syndrome"]) == REGISTERS[arch]
        line = " ".join(f"{name}={value:#x}" for name, value in found["syndrome"].items())
        told = report_fault(read_text(line).events[0].values)
        assert told.access is not None
        assert (told.arch, told.stage, told.access.name.lower(), told.gva) == (arch, 2, found["access"], found["gva"])
        # Arm leaves HPFAR_EL2 unknown after a permission fault.
        assert told.gpa == (None if (arch, found["region"]) == ("aarch64", "rom") else found["gpa"])
        # An access that is dropped goes on, so nothing is walked for it.
        if (walk := found["walk"]) is None:
            assert found["action"] == "discarded"
            continue
        assert (walk["vm"], walk["gva"], walk["access"]) == (vm["name"], found["gva"], found["access"])
        assert (walk["format"], walk["result"]["kind"]) == (vm["format"], "fault")
        assert (walk["outcome"] is None) == (found["region"] == "uart")


@pytest.mark.parametrize("arch", BUNDLED)
def test_the_table_shows_the_registers_of_each_violation(arch: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["demo", "--arch", arch]) == 0
    text = capsys.readouterr().out
    assert "as hardware reports them" in text
    assert text.count(f"{REGISTERS[arch][0]}=0x") == 3


@pytest.mark.parametrize("arch", BUNDLED if effort.FACTOR > 1 else ["riscv64", "aarch64"])
def test_a_start_compiles_what_the_engine_calls_and_the_next_one_nothing(arch: str, tmp_path: Path) -> None:
    _, loaded = fresh(["demo", "--arch", arch, "--json", "-"], tmp_path)
    assert loaded == {FAMILIES[arch]}
    kernels = Counter(path.with_suffix("").stem for path in tmp_path.rglob("*.nbc"))
    # RISC-V's time CSR reads the clock by a function of its own.
    own = {"callbacks", "clock"} if arch == "riscv64" else {"callbacks"}
    assert {name.split(".")[0] for name in kernels} == own
    assert set(kernels.values()) == {1}
    # RISC-V's MMU is over with its work before it would be compiled.
    assert any(".fill-" in name for name in kernels) is (arch != "riscv64")
    folders = {path.parent.name.rpartition("_")[0] for path in tmp_path.rglob("callbacks.*.nbc")}
    assert not folders & (set(FAMILIES.values()) - {FAMILIES[arch]})
    done = subprocess.run(
        [sys.executable, "-c", RUN, "demo", "--arch", arch],
        env=environment(tmp_path), capture_output=True, text=True, timeout=HANG_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.rpartition("compiled: ")[2] == "0\n"


@pytest.mark.parametrize(("arch", "family"), FAMILIES.items())
def test_tables_of_one_architecture_load_no_other_and_compile_nothing(arch: str, family: str, tmp_path: Path) -> None:
    path = tmp_path / "vm.toml"
    path.write_text("""\
[base]
id = 1
name = "guest"
[kernel]
entry_point = 0x8000_0000
kernel_load_addr = 0x8000_0000
memory_regions = [[0x8000_0000, 0x40_0000, 0x7, 0]]
""")
    walked, loaded = fresh(["walk", str(path), "--gpa", "0x8000_0000", "--arch", arch, "--json"], tmp_path / "cache")
    assert walked["result"]["kind"] == "mapped"
    assert loaded == {family}
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("arch", ["aarch64", "x86_64"])
def test_there_is_no_hostile_guest_for_the_others(arch: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["demo", "--arch", arch, "--hostile"]) == 2
    assert f"there is no hostile guest for {arch}, only for riscv64" in capsys.readouterr().err
