"""`stage2 fetch`, without fetching anything."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from stage2.cli.fetch import LineProgress
from stage2.cli.main import call
from stage2.errors import HostToolError
from stage2.images import fetch as images
from stage2.images import hypervisors
from stage2.images.hypervisors import FetchedHypervisors
from stage2.images.store import Progress
from stage2.machines import emulator, fetched
from stage2.machines.fetched import FetchedEmulator, Recipe


def test_lines_tell_of_each_file_once(capsys: pytest.CaptureFixture[str]) -> None:
    progress = LineProgress()
    progress("package index", 0, 0)
    for done in (0, 512, 1024, 1024):
        progress("kernel", done, 1024)
    assert capsys.readouterr().err.splitlines() == [
        "fetching package index",
        "fetching kernel (1 KiB)",
        "fetched kernel",
    ]


@pytest.mark.parametrize("terminal", [False, True])
def test_the_end_says_where_things_are(
    terminal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kernel").write_bytes(b"k" * 2048)
    (tmp_path / "ramdisk").write_bytes(b"r")
    asked = SimpleNamespace(name="", force=None)

    def fetch(name: str, *, progress: Progress, force: bool) -> images.FetchedGuest:
        asked.name, asked.force = name, force
        progress("kernel", 0, 0)
        progress("kernel", 10, 10)
        return images.FetchedGuest(name, tmp_path / "kernel", tmp_path / "ramdisk", ("linux 6.12",))

    monkeypatch.setattr(images, "fetch", fetch)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    assert call(["fetch", "linux-riscv64", "--force"]) == 0
    assert (asked.name, asked.force) == ("linux-riscv64", True)
    out = capsys.readouterr().out
    assert f"{tmp_path / 'kernel'} (2 KiB)" in out
    assert "linux 6.12" in out


def test_an_unknown_guest_names_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["fetch", "linux-vax"]) == 2
    assert "linux-riscv64" in capsys.readouterr().err


def test_emulators_are_those_that_this_machine_does_not_have_and_one_that_fails_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def own(recipe: Recipe) -> str | None:
        return "7.2.22" if recipe.name == "qemu-7" else None

    def fetch(name: str, *, progress: Progress, force: bool) -> FetchedEmulator:
        if name == "qemu-10":
            raise HostToolError("no network")
        return FetchedEmulator(name, tmp_path, tmp_path, (), {}, ("bochs 3.0",))

    monkeypatch.setattr(emulator, "own_version", own)
    monkeypatch.setattr(fetched, "fetch", fetch)
    assert call(["fetch", "emulators"]) == 2
    said = capsys.readouterr()
    assert said.err == "stage2: qemu-10 cannot be had: no network\n"
    assert said.out.splitlines()[0] == "qemu-7 is this machine's own: version 7.2.22"
    assert [line.split()[0] for line in said.out.splitlines()] == ["qemu-7", "bochs-2", "bochs-3"]
    assert call(["fetch", "bochs-3"]) == 0


def test_hypervisors_are_all_that_there_are_and_one_that_fails_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "xen.gz").write_bytes(b"x")

    def fetch(name: str, *, progress: Progress, force: bool) -> FetchedHypervisors:
        if name == "hypervisors-12":
            raise HostToolError("no network")
        return FetchedHypervisors(name, (tmp_path / "xen.gz", tmp_path / "uboot.elf"), ("xen 4.20", "u-boot 1"))

    monkeypatch.setattr(hypervisors, "fetch", fetch)
    assert call(["fetch", "hypervisors"]) == 2
    said = capsys.readouterr()
    assert said.err == "stage2: hypervisors-12 cannot be had: no network\n"
    names = ("hypervisors-13", "xen-aarch64", "kvm-riscv64", "kvm-x86_64")
    assert said.out == "".join(
        f"{name} is ready: xen.gz, uboot.elf in {tmp_path}\n  taken from xen 4.20, u-boot 1\n" for name in names
    )
    assert call(["fetch", "hypervisors-13"]) == 0
