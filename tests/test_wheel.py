"""The wheel: what is in it, and that it installs and runs by what it says it needs, without make.

What it needs is taken from the environment of the tests, as far as the wheel's own metadata name it, so that nothing is
asked of a registry.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterable, Iterator
from email.parser import Parser
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from waiting import HANG_S

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps"]
    _run([*pip, "--no-build-isolation", "--no-index", "--wheel-dir", str(folder), str(ROOT)])
    (found,) = folder.glob("*.whl")
    return found


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
    package = {name for name in names if name.startswith("stage2/")}
    sources = {
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src" / "stage2").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert package == sources
    beside = {name.partition("/")[2] for name in names - package}
    assert beside == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}


@pytest.mark.parametrize(
    "name",
    [
        "stage2/py.typed",
        "stage2/vm/guests/demo-riscv64.bin",
        "stage2/vm/guests/demo-riscv64.toml",
        "stage2/vm/guests/linux-init.sh",
    ],
)
def test_the_wheel_holds_what_runs_without_make(wheel: Path, name: str) -> None:
    with zipfile.ZipFile(wheel) as opened:
        assert name in opened.namelist()


def test_the_monitors_of_the_machines_are_in_the_wheel(wheel: Path) -> None:
    monitors = ROOT / "src" / "stage2" / "machines" / "monitors"
    with zipfile.ZipFile(wheel) as opened:
        assert {f"stage2/machines/monitors/{path.name}" for path in monitors.iterdir() if path.is_file()} <= set(
            opened.namelist()
        )


def test_the_metadata_say_what_is_tested_and_need_no_tool_of_developers(wheel: Path) -> None:
    found = Parser().parsestr(_metadata(wheel))
    assert found["Requires-Python"] == ">=3.11"
    versions = {line.rpartition(" ")[2] for line in found.get_all("Classifier", []) if "Python :: 3." in line}
    assert versions == {"3.11", "3.13"}
    assert set(found.get_all("Provides-Extra", [])) == {"cluster", "dumps", "live", "unicorn"}
    assert not {"pytest", "mypy", "ruff", "sphinx", "furo"} & set(_needed(wheel, "unicorn", "cluster"))


def test_it_installs_into_a_fresh_environment_and_runs_a_guest_with_its_extra(wheel: Path, tmp_path: Path) -> None:
    python = _environment(tmp_path, wheel, "unicorn")
    told = _run([str(python.with_name("stage2")), "demo"], tmp_path)
    assert "off after" in told


def test_without_the_extra_it_explains_and_builds_and_says_what_running_needs(wheel: Path, tmp_path: Path) -> None:
    stage2 = str(_environment(tmp_path, wheel).with_name("stage2"))
    assert "Sv39x4" in _run([stage2, "explain", "register", "hgatp", "0x8000000000080000"], tmp_path)
    demo = tmp_path / "lib"
    (vm,) = demo.rglob("demo-riscv64.toml")
    assert "2 MiB leaf" in _run([stage2, "walk", str(vm), "--gpa", "0x8000_0000", "--populate", "eager"], tmp_path)
    failed = subprocess.run([stage2, "demo"], cwd=tmp_path, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert failed.returncode == 2
    assert failed.stderr.count("\n") == 1
    assert "unicorn" in failed.stderr


def _metadata(wheel: Path) -> str:
    with zipfile.ZipFile(wheel) as opened:
        (name,) = (name for name in opened.namelist() if name.endswith("/METADATA"))
        return opened.read(name).decode()


def _needed(wheel: Path, *extras: str) -> dict[str, metadata.Distribution]:
    """Distributions that the wheel and all that they need ask for, here and now, by their names."""
    own = Parser().parsestr(_metadata(wheel)).get_all("Requires-Dist", [])
    found: dict[str, metadata.Distribution] = {}
    waiting = list(_applying(own, extras))
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name not in found:
            found[name] = metadata.distribution(name)
            waiting += _applying(found[name].requires or [], requirement.extras)
    return found


def _applying(requirements: Iterable[str], extras: Iterable[str]) -> Iterator[Requirement]:
    """Those that hold with these extras, on this Python and system."""
    for requirement in map(Requirement, requirements):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement


def _environment(folder: Path, wheel: Path, *extras: str) -> Path:
    """Python of an environment with the wheel and what it needs, and nothing more."""
    venv.create(folder, with_pip=True, symlinks=True)
    python = folder / "bin" / "python"
    (packages,) = folder.glob("lib/python*/site-packages")
    for distribution in _needed(wheel, *extras).values():
        for top in {file.parts[0] for file in distribution.files or () if file.parts[0] != ".."} - {"__pycache__"}:
            link = packages / top
            if not link.exists():
                link.symlink_to(Path(str(distribution.locate_file(top))))
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index"]
    _run([*pip, str(wheel) + (f"[{','.join(extras)}]" if extras else "")], folder)
    return python


def _run(command: list[str], folder: Path | None = None) -> str:
    """What a program prints; PYTHONPATH is taken away, so that the package is the one that is installed."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout
