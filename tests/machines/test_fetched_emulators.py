"""Emulators of another Debian release: fetched whole or not at all, run by their own loader, chosen by generation."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from stage2.errors import HostToolError
from stage2.images.apt import PrivateApt, Release
from stage2.images.store import Progress
from stage2.machines import emulator as emulators
from stage2.machines import fetched as fetching
from stage2.machines.emulator import Emulator, Program, major, own_version
from stage2.machines.fetched import RECIPES, fetch, fetched

NAME = "bochs-3"
LIBRARIES = "usr/lib/x86_64-linux-gnu"
LOADER = "#!/bin/sh\necho 'Bochs x86 Emulator 3.0'\n"
"""Stands for a loader, and does not look at the program it is given."""
FILES = {
    f"{LIBRARIES}/libc.so.6": "c", f"{LIBRARIES}/ld-linux-x86-64.so.2": LOADER, "usr/bin/bochs-bin": "program",
    "usr/bin/bximage": "another", "usr/share/bochs/keymap": "k", "usr/share/doc/bochs/README": "d",
    f"{LIBRARIES}/bochs/plugins/libbx_term.so": "t",
}  # fmt: skip


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A fake archive with one package; what is put into the dictionary is in the package."""
    files = dict(FILES)

    class Apt:
        def download_all(self, packages: tuple[str, ...], what: str, progress: Progress) -> list[Path]:
            assert packages == RECIPES[NAME].packages
            progress(what, 10, 10)
            deb = tmp_path / "bochs_3.0%3a1_amd64.deb"
            deb.write_text("package")
            return [deb]

    def unpack(deb: Path, tree: Path) -> None:
        for path, text in files.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_text(text)
            (tree / path).chmod(0o755)

    def updated(work: Path, release: Release) -> Apt:
        assert release == Release("trixie", "stable", "amd64")
        return Apt()

    monkeypatch.setattr(fetching, "updated", updated)
    monkeypatch.setattr(fetching, "unpack", unpack)
    monkeypatch.setattr(fetching, "own_architecture", lambda: "amd64")
    return files


def test_what_is_kept_is_what_runs_with_a_manifest_of_the_packages(archive: dict[str, str], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    found = fetch(NAME, cache=cache)
    kept = {str(path.relative_to(found.root)) for path in found.root.rglob("*") if path.is_file()}
    assert kept == set(FILES) - {"usr/bin/bximage", "usr/share/doc/bochs/README"}
    assert found.packages == ("bochs 3.0:1",)
    (package,) = json.loads((cache / NAME / "manifest.json").read_text())["packages"]
    assert set(package) == {"name", "version", "sha256"}
    assert sorted(path.name for path in cache.iterdir()) == [NAME, f"{NAME}.lock"]


def test_it_runs_by_its_own_loader_with_its_own_libraries_and_plugins(archive: dict[str, str], tmp_path: Path) -> None:
    found = fetch(NAME, cache=tmp_path / "cache")
    root = found.root
    assert found.command("bochs-bin") == (
        "env", f"LTDL_LIBRARY_PATH={root}/{LIBRARIES}/bochs/plugins", f"BXSHARE={root}/usr/share/bochs",
        f"{root}/{LIBRARIES}/ld-linux-x86-64.so.2", "--inhibit-cache", "--library-path", f"{root}/{LIBRARIES}",
        f"{root}/usr/bin/bochs-bin",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("path", "text", "says"),
    [
        ("usr/bin/bochs-bin", None, "no bochs-bin"),
        (f"{LIBRARIES}/ld-linux-x86-64.so.2", None, "no loader"),
        (f"{LIBRARIES}/ld-linux-x86-64.so.2", "#!/bin/sh\nexit 1\n", "starting bochs-bin of bochs-3 failed"),
    ],
)
def test_what_does_not_start_is_not_there(
    archive: dict[str, str], tmp_path: Path, path: str, text: str | None, says: str
) -> None:
    del archive[path]
    if text is not None:
        archive[path] = text
    with pytest.raises(HostToolError, match=says):
        fetch(NAME, cache=tmp_path / "cache")
    with pytest.raises(HostToolError, match="bochs-3 is not there yet: run `stage2 fetch bochs-3`"):
        fetched(NAME, tmp_path / "cache")


def test_what_is_there_is_not_fetched_again_unless_it_was_changed(archive: dict[str, str], tmp_path: Path) -> None:
    cache, seen = tmp_path / "cache", list[str]()
    program = fetch(NAME, cache=cache).programs["bochs-bin"]
    fetch(NAME, cache=cache, progress=lambda what, *_: seen.append(what))
    assert seen == []
    program.write_text("changed by somebody")
    with pytest.raises(HostToolError, match="is not what was fetched: run `stage2 fetch bochs-3 --force`"):
        fetched(NAME, cache)
    fetch(NAME, cache=cache, progress=lambda what, *_: seen.append(what))
    assert seen[0] == "package index"
    assert fetched(NAME, cache).programs == {"bochs-bin": program}


def test_a_damaged_manifest_is_told(archive: dict[str, str], tmp_path: Path) -> None:
    fetch(NAME, cache=tmp_path)
    (tmp_path / NAME / "manifest.json").write_text("[]")
    with pytest.raises(HostToolError, match=r"manifest\.json is damaged: run `stage2 fetch bochs-3 --force`"):
        fetched(NAME, tmp_path)


def own(folder: Path, version: str) -> None:
    """Install a Bochs of the machine's own."""
    folder.mkdir(exist_ok=True)
    (folder / "bochs-bin").write_text(f"#!/bin/sh\necho 'Bochs x86 Emulator {version}'\n")
    (folder / "bochs-bin").chmod(0o755)


def test_a_generation_is_the_machines_own_if_that_is_of_it_else_the_fetched_one(
    archive: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path / 'own'}:{os.environ['PATH']}")
    monkeypatch.setenv("STAGE2_CACHE", str(tmp_path))
    own(tmp_path / "own", "2.8")
    assert Emulator("bochs").program("bochs-bin", "bochs-term").version == "2.8"
    assert Emulator("bochs", 2).program("bochs-bin", "bochs-term").root is None
    assert own_version(RECIPES["bochs-2"]) == "2.8"
    assert own_version(RECIPES["bochs-3"]) is None
    with pytest.raises(HostToolError, match="run `stage2 fetch bochs-3`"):
        Emulator("bochs", 3).program("bochs-bin", "bochs-term")
    root = fetch(NAME).root
    found = Emulator("bochs", 3).program("bochs-bin", "bochs-term")
    assert (found.version, found.root) == ("3.0", root)
    assert found.share("bochs") == [root / "usr/share/bochs"]


def test_without_either_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostToolError, match="bochs-bin is not installed: install Debian's package bochs-term"):
        Emulator("bochs").program("bochs-bin", "bochs-term")


def test_an_emulator_that_does_not_tell_its_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own(tmp_path / "own", "x")
    (tmp_path / "own" / "bochs-bin").write_text("#!/bin/sh\necho hello\n")
    monkeypatch.setenv("PATH", f"{tmp_path / 'own'}:{os.environ['PATH']}")
    with pytest.raises(HostToolError, match="--help does not tell its version"):
        Emulator("bochs").program("bochs-bin", "bochs-term")


def test_the_machines_own_has_no_data_of_its_own() -> None:
    assert Program(("/usr/bin/qemu-system-aarch64",), "7.2.22").share("qemu") == []
    assert [major(version) for version in ("7.2.22", "10.0.13", "3.0.devel", "")] == [7, 10, 3, 0]


def test_both_makers_have_a_generation_of_either_release() -> None:
    assert {(recipe.maker, recipe.suite) for recipe in RECIPES.values()} == {
        (maker, suite) for maker in emulators._ASKED for suite in ("bookworm", "trixie")
    }


def test_apt_leaves_its_locks_in_its_own_root(tmp_path: Path) -> None:
    """apt puts the lock of dpkg's status file beside that file, wherever that is."""
    apt = PrivateApt(tmp_path / "apt", Release("trixie", "stable", "amd64"), "trixie")
    (status,) = [word for word in apt._options if word.startswith("Dir::State::status=")]
    assert Path(status.partition("=")[2]).parent == tmp_path / "apt" / "state"


def test_the_real_one_is_fetched_and_starts(tmp_path: Path) -> None:
    if not (os.environ.get("CI") or os.environ.get("STAGE2_NETWORK") == "1"):
        pytest.skip("fetches 55 MB: set STAGE2_NETWORK=1")
    before = set(os.listdir("/dev"))
    found = fetch(NAME, cache=tmp_path)
    assert {package.split()[0] for package in found.packages} >= {"bochs", "bochs-term", "libc6"}
    assert set(os.listdir("/dev")) == before
