"""`--cpu` in `stage2 check`: a name that there is not is bad input, and no finding about memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from stage2.cli.main import call

VM = """\
[base]
id = 1
name = "guest"
vm_type = 1
cpu_num = 1
{arch}
[kernel]
entry_point = 0x9000_0000
kernel_load_addr = 0x9000_0000
memory_regions = [[0x9000_0000, 0x40_0000, 0x7, 0]]

[devices]
"""


@pytest.mark.parametrize(
    ("arch", "cpu", "told"),
    [
        ("riscv64", "nonsense", "--cpu nonsense: no such processor: riscv64 has max,"),
        ("", "nonsense", "--cpu nonsense: no such processor: "),
        ("riscv64", "cortex-a72", "--cpu cortex-a72 is a processor of aarch64, and one of riscv64 is wanted"),
        ("aarch64", "cortex-a72,pa=wide", "--cpu cortex-a72"),
    ],
)
def test_a_processor_that_there_is_not_is_bad_input(
    arch: str, cpu: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "vm.toml"
    file.write_text(VM.format(arch=f'arch = "{arch}"\n' if arch else ""))
    assert call(["check", str(file), "--cpu", cpu]) == 2
    streams = capsys.readouterr()
    assert (streams.out, streams.err.count("\n")) == ("", 1)
    assert told in streams.err


@pytest.mark.parametrize("arch", ["aarch64", ""])
def test_a_processor_that_there_is_says_nothing(arch: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "vm.toml"
    file.write_text(VM.format(arch=f'arch = "{arch}"\n' if arch else ""))
    assert call(["check", str(file), "--cpu", "cortex-a72"]) == 0


def test_a_processor_of_a_file_that_there_is_not_is_a_contradiction_and_not_a_matter_of_width(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "vm.toml"
    file.write_text(VM.format(arch='arch = "riscv64"\n') + '\n[stage2]\ncpu = "cortex-a72"\n')
    assert call(["check", str(file)]) == 1
    assert capsys.readouterr().out.startswith("error S2300: cortex-a72 is a processor of aarch64")
