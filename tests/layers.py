"""Which layer a test belongs to, what it needs, and which of them `make quick` runs. See docs/testing.md."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
NEEDS = {
    "machines": "machine",
    "conform": "machine",
    "engines": "guest",
    "cli/test_demo_command.py": "guest",
    "cli/test_run_aarch64.py": "guest",
    "cli/test_run_looked_into.py": "guest",
    "cli/test_trace_edits.py": "guest",
    "images/test_fetch.py": "guest",
    "inspect/test_qemu_cores.py": "machine",
    "inspect/test_vm_source.py": "guest",
    "inspect/test_inspect_notebook.py": "guest",
    "inspect/test_live_qemu.py": "guest",
    "inspect/test_against_qemu.py": "guest",
    "inspect/test_hypervisors_audited.py": "machine",
    "inspect/test_kvm_hosts.py": "machine",
    "inspect/test_xen.py": "machine",
}
"""Folders and files whose tests need an emulator, or run a guest."""
PLAIN = {"check", "config", "forecast", "formats", "images", "memory", "processor", "render"}
"""Folders whose tests compile nothing, unless they are marked. So do the files beside this one."""


def place(path: Path) -> tuple[str, str]:
    """The folder of a test's file, "" for those beside this one, and the file in it."""
    folder, _, file = path.relative_to(TESTS).as_posix().rpartition("/")
    return folder, file


def mark(item: pytest.Item) -> None:
    """Give a test the marks of its folder and file."""
    folder, file = place(item.path)
    for named in (folder, f"{folder}/{file}"):
        if named in NEEDS:
            item.add_marker(NEEDS[named])


def changed_files(root: Path) -> list[str]:
    """What is not committed; where all is, what the last commit changed. Nothing without git."""

    def git(*words: str) -> list[str]:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
        return done.stdout.splitlines() if done.returncode == 0 else []

    changed = git("diff", "--name-only", "HEAD") + git("ls-files", "--others", "--exclude-standard")
    return changed or git("diff", "--name-only", "HEAD~1")


def rooms_of(files: list[str]) -> list[str]:
    """The rooms that files belong to, each once: `formats` for src/stage2/formats/x86/ept.py and its tests."""
    rooms = []
    for file in files:
        parts = Path(file).parts
        below = parts[2:] if parts[:2] == ("src", "stage2") else parts[1:] if parts[:1] == ("tests",) else ()
        if below:
            rooms.append(below[0].removesuffix(".py").removeprefix("test_"))
    return list(dict.fromkeys(rooms))


def quick(items: list[pytest.Item], touched: list[str]) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """The tests that a quick run takes, those of touched rooms first, and those that it leaves out."""
    first, then, left_out = [], [], []
    for item in items:
        folder, file = place(item.path)
        room = folder.partition("/")[0] or file.removesuffix(".py").removeprefix("test_")
        if any(item.get_closest_marker(name) for name in ("slow", "machine", "guest")):
            left_out.append(item)
        elif room in touched:
            first.append(item)
        elif (folder in PLAIN or not folder) and not item.get_closest_marker("kernels"):
            then.append(item)
        else:
            left_out.append(item)
    return first + then, left_out
