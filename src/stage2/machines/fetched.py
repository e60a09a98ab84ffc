"""Emulators of another Debian release: fetched into a root of their own, never installed.

What is kept is the programs, the libraries they need and the data they read, unpacked from packages that one
transaction of apt resolved; and a manifest of the packages' versions and hashes. The programs run by the root's own
loader, so nothing of the host's libraries takes part.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import unquote

from ..errors import HostToolError
from ..images.apt import BOOKWORM, TRIXIE, Release, own_architecture, run, unpack, updated
from ..images.store import MANIFEST, Progress, keep, sha256
from ..user_cache import user_cache

_KIND = "emulators"
_QEMU = ("qemu-system-aarch64", "qemu-system-riscv64", "qemu-system-x86_64")
_QEMU_DATA = ("qemu", "seabios", "opensbi")
_BOCHS, _BOCHS_DATA = ("bochs-bin",), ("bochs", "terminfo")
_TRY_S = 30


@dataclass(frozen=True, slots=True)
class Recipe:
    """Where a generation of an emulator comes from.

    Args:
        maker: "qemu" or "bochs".
        generation: its major version.
        suite, alias: the release of Debian that has it (`images.apt.Release`).
        packages: what is asked for; apt adds what they depend on.
        programs: what is kept of /usr/bin.
        data: what is kept of /usr/share.
    """

    maker: str
    generation: int
    suite: str
    alias: str
    packages: tuple[str, ...]
    programs: tuple[str, ...]
    data: tuple[str, ...]

    @property
    def name(self) -> str:
        """As `stage2 fetch` calls it: `qemu-10`."""
        return f"{self.maker}-{self.generation}"


RECIPES = {
    found.name: found
    for found in (
        Recipe("qemu", 7, *BOOKWORM, ("qemu-system-arm", "qemu-system-misc", "qemu-system-x86"), _QEMU, _QEMU_DATA),
        Recipe("qemu", 10, *TRIXIE, ("qemu-system-arm", "qemu-system-riscv", "qemu-system-x86"), _QEMU, _QEMU_DATA),
        Recipe("bochs", 2, *BOOKWORM, ("bochs", "bochs-term"), _BOCHS, _BOCHS_DATA),
        Recipe("bochs", 3, *TRIXIE, ("bochs", "bochs-term"), _BOCHS, _BOCHS_DATA),
    )
}


@dataclass(frozen=True, slots=True)
class FetchedEmulator:
    """An emulator in the cache.

    Args:
        name: of its recipe.
        root: the folder that stands for `/`.
        loader: the dynamic loader in it.
        libraries: folders of libraries in it.
        programs: where each program is.
        packages: "name version" of what was unpacked.
    """

    name: str
    root: Path
    loader: Path
    libraries: tuple[Path, ...]
    programs: dict[str, Path]
    packages: tuple[str, ...]

    def command(self, program: str) -> tuple[str, ...]:
        """The words that start a program, before its arguments."""
        variables = [f"{name}={value}" for name, value in self._variables()]
        path = ":".join(map(str, self.libraries))
        loader = str(self.loader), "--inhibit-cache", "--library-path", path
        return "env", *variables, *loader, str(self.programs[program])

    def _variables(self) -> Iterator[tuple[str, Path]]:
        """Where programs find what else they load, or they would look among the host's."""
        modules = {"qemu": "QEMU_MODULE_DIR", "bochs/plugins": "LTDL_LIBRARY_PATH"}
        for folder in self.libraries:
            yield from ((name, folder / below) for below, name in modules.items() if (folder / below).is_dir())
        bochs = self.root / "usr/share/bochs"
        if bochs.is_dir():
            yield "BXSHARE", bochs


def fetched(name: str, cache: Path | None = None) -> FetchedEmulator:
    """An emulator that was fetched before.

    Raises:
        HostToolError: it is not there, or its programs are no longer those that were fetched.
    """
    folder = (cache or user_cache(_KIND)) / name
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        root = folder / "root"
        programs = {str(key): root / entry["file"] for key, entry in manifest["programs"].items()}
        wanted = [(programs[key], entry["sha256"]) for key, entry in manifest["programs"].items()]
        libraries = tuple(root / found for found in manifest["libraries"])
        packages = tuple(f"{entry['name']} {entry['version']}" for entry in manifest["packages"])
        loader = root / manifest["loader"]
    except FileNotFoundError:
        raise HostToolError(f"{name} is not there yet: run `stage2 fetch {name}`") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise HostToolError(f"{folder / MANIFEST} is damaged: run `stage2 fetch {name} --force`") from None
    for path, digest in wanted:
        if not path.is_file() or _digest(path, path.stat().st_mtime_ns) != digest:
            raise HostToolError(f"{path} is not what was fetched: run `stage2 fetch {name} --force`")
    if not set(RECIPES[name].programs) <= set(programs):
        raise HostToolError(f"{name} was fetched by another version of stage2: run `stage2 fetch {name} --force`")
    return FetchedEmulator(name, root, loader, libraries, programs, packages)


def fetch(
    name: str, *, cache: Path | None = None, progress: Progress | None = None, force: bool = False
) -> FetchedEmulator:
    """Fetch an emulator unless it is there already.

    Args:
        name: a key of `RECIPES`.
        cache: folder instead of the user's cache.
        progress: called as bytes arrive.
        force: fetch even if it is there.

    Raises:
        HostToolError: no apt, no mirror, no network, no such release, or what was fetched does not start.
    """
    root, report = cache or user_cache(_KIND), progress or (lambda *_: None)

    def make(work: Path) -> Path | None:
        if not force:
            with contextlib.suppress(HostToolError):
                fetched(name, root)
                return None
        return _make(RECIPES[name], work, report)

    keep(name, root, make)
    return fetched(name, root)


def _make(recipe: Recipe, work: Path, progress: Progress) -> Path:
    progress("package index", 0, 0)
    apt = updated(work, Release(recipe.suite, recipe.alias, own_architecture()))
    debs = apt.download_all(recipe.packages, f"{recipe.name} and what it needs", progress)
    progress("unpacking", 0, 0)
    tree, made = work / "tree", work / "made"
    tree.mkdir()
    for deb in debs:
        unpack(deb, tree)
    _keep_what_runs(recipe, tree, made / "root")
    manifest = _described(recipe, made / "root") | {"packages": [_package(deb) for deb in debs]}
    (made / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    made = made.rename(work / recipe.name)
    found = fetched(recipe.name, work)
    for program in recipe.programs:
        run([*found.command(program), "--help"], _TRY_S, f"starting {program} of {recipe.name}")
    return made


def _keep_what_runs(recipe: Recipe, tree: Path, root: Path) -> None:
    """Move libraries, programs and data into the root; documentation and the rest of the packages go."""
    wanted = [*tree.glob("lib*"), *tree.glob("usr/lib*")]
    wanted += [tree / "usr/bin" / program for program in recipe.programs]
    wanted += [tree / folder / data for data in recipe.data for folder in ("usr/share", "usr/lib", "lib")]
    for path in wanted:
        target = root / path.relative_to(tree)
        if path.exists() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)


def _described(recipe: Recipe, root: Path) -> dict[str, object]:
    """The manifest but for the packages."""
    homes = {path.parent for path in root.rglob("libc.so.6")}
    # Some libraries of PulseAudio are in a folder of their own, which others name by its place on an installed system.
    libraries = sorted({found for path in _twins(root, homes) for found in (path, path / "pulseaudio")})
    loaders = sorted(root.rglob("ld-linux*.so.*"))
    programs = {program: root / "usr/bin" / program for program in recipe.programs}
    missing = [program for program, path in programs.items() if not path.is_file()]
    missing += [] if loaders and homes else ["loader"]
    if missing:
        what = " and no ".join(missing)
        raise HostToolError(f"Debian's packages of {recipe.name} do not hold what they used to: no {what}")
    return {
        "emulator": recipe.name,
        "loader": str(loaders[0].relative_to(root)),
        "libraries": [str(path.relative_to(root)) for path in libraries if path.is_dir()],
        "programs": {
            program: {"file": str(path.relative_to(root)), "sha256": sha256(path)} for program, path in programs.items()
        },
    }


def _twins(root: Path, libraries: Iterable[Path]) -> list[Path]:
    """Where libraries of the same architecture are: before all of Debian moved to /usr, in two places."""
    return [root / above / path.name for path in libraries for above in ("lib", "usr/lib")]


def _package(deb: Path) -> dict[str, str]:
    """Name, version and hash of a package, whose file apt names NAME_VERSION_ARCHITECTURE.deb."""
    name, version, _ = deb.name.split("_")
    return {"name": name, "version": unquote(version), "sha256": sha256(deb)}


@cache
def _digest(path: Path, _changed: int) -> str:
    """A file's hash, asked once as long as it is not written."""
    return sha256(path)
