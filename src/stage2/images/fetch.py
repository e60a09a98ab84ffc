"""Fetching guests: Debian's kernel and busybox, kept with their hashes.

What was made appears in the cache only when it is complete.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from ..errors import HostToolError, ImageError
from ..user_cache import user_cache
from .apt import TOOLS, Release, require_tools, unpack, updated
from .initramfs import build, recipe_hash
from .kernel import inspect
from .store import MANIFEST, Progress, keep, sha256


@dataclass(frozen=True, slots=True)
class Recipe:
    """Where a guest comes from.

    Args:
        arch: our name of the architecture.
        release: of Debian.
        kernel: package that depends on the current kernel's package.
        busybox: package with a static busybox.
    """

    arch: str
    release: Release
    kernel: str
    busybox: str


RECIPES = {
    "linux-riscv64": Recipe("riscv64", Release("trixie", "stable", "riscv64"), "linux-image-riscv64", "busybox-static"),
    "linux-aarch64": Recipe(
        "aarch64", Release("trixie", "stable", "arm64"), "linux-image-cloud-arm64", "busybox-static"
    ),
    "linux-x86_64": Recipe("x86_64", Release("trixie", "stable", "amd64"), "linux-image-cloud-amd64", "busybox-static"),
}


@dataclass(frozen=True, slots=True)
class FetchedGuest:
    """A guest in the cache.

    Args:
        kernel, ramdisk: the files.
        packages: "name version" of what they were made from.
    """

    name: str
    kernel: Path
    ramdisk: Path
    packages: tuple[str, ...]


def fetched(name: str, cache: Path | None = None) -> FetchedGuest:
    """A guest that was fetched before.

    Raises:
        ImageError: unknown, not there, or its bytes are no longer those that were fetched.
    """
    _recipe(name)
    folder = (cache or user_cache("guests")) / name
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        files = {role: (folder / manifest[role]["file"], manifest[role]["sha256"]) for role in ("kernel", "ramdisk")}
        packages = tuple(str(package) for package in manifest["packages"])
        made_with = manifest.get("initramfs_recipe")
    except FileNotFoundError:
        raise ImageError(f"the guest {name} is not there yet: run `stage2 fetch {name}`") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ImageError(f"{folder / MANIFEST} is damaged: run `stage2 fetch {name} --force`") from None
    for path, wanted in files.values():
        if not path.is_file() or sha256(path) != wanted:
            raise ImageError(f"{path} is not what was fetched: run `stage2 fetch {name} --force`")
    if made_with != recipe_hash():
        raise ImageError(f"the guest {name} was made by another version of stage2: run `stage2 fetch {name}`")
    return FetchedGuest(name, files["kernel"][0], files["ramdisk"][0], packages)


def is_fetched(name: str) -> bool:
    """Whether a guest was fetched before, whole or not.

    Raises:
        ImageError: no such guest.
    """
    _recipe(name)
    return (user_cache("guests") / name / MANIFEST).is_file()


def fetch(
    name: str, *, cache: Path | None = None, progress: Progress | None = None, force: bool = False
) -> FetchedGuest:
    """Fetch a guest unless it is there already.

    Args:
        name: `linux-riscv64`.
        cache: folder instead of the user's cache.
        progress: called as bytes arrive.
        force: fetch even if it is there.

    Raises:
        ImageError: no such guest.
        HostToolError: no apt, no mirror, no network, or a package that is not what its index says.
    """
    recipe = _recipe(name)
    root = cache or user_cache("guests")

    def make(work: Path) -> Path | None:
        if not force:
            with contextlib.suppress(ImageError):
                fetched(name, root)
                return None
            renewed = _renew(name, root / name, work)
            if renewed is not None:
                return renewed
        return _make(name, recipe, work, progress or (lambda *_: None))

    keep(name, root, make)
    return fetched(name, root)


def _make(name: str, recipe: Recipe, work: Path, progress: Progress) -> Path:
    require_tools(*TOOLS, otherwise="Elsewhere give --kernel and --ramdisk files of your own")
    progress("package index", 0, 0)
    apt = updated(work, recipe.release)
    kernel_package = apt.kernel_package(recipe.kernel)
    tree = work / "tree"
    packages = []
    for package in (kernel_package, recipe.busybox):
        version, deb = apt.download(package, work, progress)
        packages.append(f"{package} {version}")
        unpack(deb, tree)
    kernels = sorted((tree / "boot").glob("vmlinu[xz]-*"))
    busybox = next((p for p in (tree / "usr/bin/busybox", tree / "bin/busybox") if p.is_file()), None)
    if not kernels or busybox is None:
        raise HostToolError(f"Debian's packages of {name} do not hold what they used to: no kernel or no busybox")
    data = kernels[0].read_bytes()
    if inspect(data).arch != recipe.arch:
        raise HostToolError(f"{kernels[0].name} is no {recipe.arch} kernel")
    made = work / "made"
    made.mkdir()
    (made / "kernel").write_bytes(data)
    shutil.copyfile(busybox, made / "busybox")
    _complete(name, made, packages)
    return made


def _complete(name: str, made: Path, packages: list[str]) -> None:
    """Make the ramdisk of a folder with kernel and busybox, and its manifest."""
    (made / "initramfs.cpio").write_bytes(build((made / "busybox").read_bytes()))
    files = {"kernel": "kernel", "ramdisk": "initramfs.cpio", "busybox": "busybox"}
    manifest = {
        "guest": name,
        "packages": packages,
        **{role: {"file": file, "sha256": sha256(made / file)} for role, file in files.items()},
        "initramfs_recipe": recipe_hash(),
    }
    (made / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def _renew(name: str, folder: Path, work: Path) -> Path | None:
    """The guest in `folder` with a ramdisk made anew, when all that has changed is our part of it."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        packages = [str(package) for package in manifest["packages"]]
        hashes = {file: str(manifest[file]["sha256"]) for file in ("kernel", "busybox")}
        if manifest["initramfs_recipe"] == recipe_hash() or any(
            sha256(folder / file) != wanted for file, wanted in hashes.items()
        ):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    made = work / "made"
    made.mkdir()
    for file in hashes:
        shutil.copyfile(folder / file, made / file)
    _complete(name, made, packages)
    return made


def _recipe(name: str) -> Recipe:
    if name not in RECIPES:
        raise ImageError(f"there is no guest {name!r} to fetch; there is {', '.join(RECIPES)}")
    return RECIPES[name]
