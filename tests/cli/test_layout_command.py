"""`stage2 layout` on a command line that is wrong: one sentence and code 2."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from linked_kernel import link
from stage2.cli.main import call

PLATFORM = """arch = "riscv64"
platform = "p"
[plat]
phys-memory-base = 0x8000_0000
phys-memory-size = 0x800_0000
kernel-base-paddr = 0x8020_0000
[devices]
mmio-regions = []
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, with a platform file in it."""
    monkeypatch.chdir(tmp_path)
    Path("p.toml").write_text(PLATFORM)
    Path("nowhere.toml").write_text(PLATFORM.replace("kernel-base-paddr = 0x8020_0000\n", ""))
    Path("high.toml").write_text(
        PLATFORM.replace("kernel-base-paddr", 'kernel-base-vaddr = "0xffff_ffff_ffff_0000"\nkernel-base-paddr')
    )
    Path("folder").mkdir()
    os.mkfifo("pipe")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("missing.elf", "missing.elf: cannot be read: No such file or directory"),
        ("missing.toml", "missing.toml: cannot be read: No such file or directory"),
        ("folder", "folder: is a folder or a device: a file is wanted"),
        ("pipe", "pipe: is a folder or a device: a file is wanted"),
        ("/dev/zero", "/dev/zero: is a folder or a device: a file is wanted"),
        (
            "nowhere.toml",
            "nowhere.toml: has no kernel-base-paddr, so where the hypervisor's kernel lies is not known: add it to "
            "[plat]",
        ),
        (
            "high.toml",
            "high.toml: the hypervisor's kernel at 0xffffffffffff0000 reaches beyond 64-bit addresses: "
            "kernel-base-vaddr or phys-virt-offset is too high",
        ),
        ("p.toml --smp 0", "--smp 0: 1 to 512 CPUs are possible"),
        ("p.toml --smp 10000", "--smp 10000: 1 to 512 CPUs are possible"),
        ("p.toml --platform p.toml", "--platform beside p.toml: a platform file is given already"),
        (
            "p.toml --layout axvisor",
            "--layout axvisor means nothing for p.toml: there is no image to hold against it",
        ),
        ("p.toml --svg no/such/picture.svg", "--svg no/such/picture.svg: No such file or directory"),
        ("p.toml --svg folder", "--svg folder: Is a directory"),
    ],
)
def test_what_is_wrong_is_told_in_one_sentence(
    words: str, problem: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["layout", *words.split()]) == 2
    said = capsys.readouterr()
    assert said.err == f"stage2: error: {problem}\n"
    assert said.out == ""


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("smp = 0", "smp: 0 is out of range: 1 to 0x200 is allowed"),
        ("text-size = -1", "text-size: -1 is out of range: 0 to 0x10000000 is allowed"),
        ('bss-size = "large"', "bss-size: 'large' found, an integer wanted"),
    ],
)
def test_a_size_of_the_platform_file_that_cannot_be_names_its_key(
    line: str, problem: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("p.toml").write_text(f"{PLATFORM}[hypervisor]\n{line}\n")
    assert call(["layout", "p.toml"]) == 2
    assert capsys.readouterr().err == f"stage2: error: p.toml:10: hypervisor.{problem}\n"


def test_a_misspelt_size_of_the_platform_file_is_noticed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("p.toml").write_text(f"{PLATFORM}[hypervisor]\ntxt-size = 0x1000\n")
    assert call(["layout", "p.toml"]) == 0
    assert "p.toml:10: hypervisor.txt-size: unknown key, ignored (did you mean text-size?)" in capsys.readouterr().err


def test_a_kernel_for_another_architecture_than_the_platforms_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    link(folder, "x86_64")
    assert call(["layout", "kernel.elf", "--platform", "p.toml"]) == 2
    assert capsys.readouterr().err == ("stage2: error: kernel.elf is for x86_64, and the platform p.toml is riscv64\n")
