"""Real hypervisors and firmware of a Debian release, to look at and to start: Xen, OpenSBI, U-Boot, Linux with its KVM.

Only their images are kept, with their hashes; what the packages depend on is neither resolved nor fetched.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from ..errors import HostToolError
from ..user_cache import user_cache
from .apt import BOOKWORM, TRIXIE, Release, unpack, updated
from .store import MANIFEST, Progress, keep, sha256

_KIND = "hypervisors"


@dataclass(frozen=True, slots=True)
class Taken:
    """What is taken of a package.

    Args:
        package: pattern of its name (a POSIX extended regular expression), for the version is part of it.
        files: patterns of the files that are kept; each must find one.
    """

    package: str
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Where images come from.

    Args:
        release: of Debian.
        taken: of which packages, and what.
    """

    release: Release
    taken: tuple[Taken, ...]


_IMAGES = (
    Taken(r"^xen-hypervisor-[0-9.]+-amd64$", ("boot/xen-*.gz", "boot/xen-*.efi")),
    Taken(r"^opensbi$", ("usr/lib/riscv64-linux-gnu/opensbi/generic/fw_*.elf",)),
    Taken(r"^u-boot-qemu$", ("usr/lib/u-boot/qemu-riscv64/uboot.elf",)),
)
_MODULES = "usr/lib/modules/*/kernel"
RECIPES = {
    "hypervisors-12": Recipe(Release(*BOOKWORM, "amd64"), _IMAGES),
    "hypervisors-13": Recipe(Release(*TRIXIE, "amd64"), _IMAGES),
    "xen-aarch64": Recipe(
        Release(*TRIXIE, "arm64"), (Taken(r"^xen-hypervisor-[0-9.]+-arm64$", ("boot/xen-*-arm64",)),)
    ),
    "kvm-riscv64": Recipe(
        Release(*TRIXIE, "riscv64"),
        (
            Taken(
                r"^linux-image-[0-9.]+[+]deb[0-9]+-riscv64$",
                ("boot/vmlinux-*", f"{_MODULES}/virt/lib/irqbypass.ko.xz", f"{_MODULES}/arch/riscv/kvm/kvm.ko.xz"),
            ),
        ),
    ),
    "kvm-x86_64": Recipe(
        Release(*TRIXIE, "amd64"),
        (
            Taken(
                r"^linux-image-[0-9.]+[+]deb[0-9]+-cloud-amd64$",
                (
                    "boot/vmlinuz-*",
                    f"{_MODULES}/virt/lib/irqbypass.ko.xz",
                    f"{_MODULES}/arch/x86/kvm/kvm.ko.xz",
                    f"{_MODULES}/arch/x86/kvm/kvm-amd.ko.xz",
                ),
            ),
        ),
    ),
}
"""As `stage2 fetch` calls them -> where they come from. On AArch64 KVM is part of the guest's kernel, linux-aarch64."""


@dataclass(frozen=True, slots=True)
class FetchedHypervisors:
    """Images in the cache.

    Args:
        name: of the recipe.
        files: the images, in the order of their names.
        packages: "name version" of what they were taken from.
    """

    name: str
    files: tuple[Path, ...]
    packages: tuple[str, ...]


def fetched(name: str, cache: Path | None = None) -> FetchedHypervisors:
    """Images that were fetched before.

    Raises:
        HostToolError: they are not there, or no longer what was fetched.
    """
    folder = (cache or user_cache(_KIND)) / name
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        wanted = {folder / str(file): str(digest) for file, digest in manifest["files"].items()}
        packages = tuple(str(package) for package in manifest["packages"])
    except FileNotFoundError:
        raise HostToolError(f"{name} is not there yet: run `stage2 fetch {name}`") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise HostToolError(f"{folder / MANIFEST} is damaged: run `stage2 fetch {name} --force`") from None
    for path, digest in wanted.items():
        if not path.is_file() or sha256(path) != digest:
            raise HostToolError(f"{path} is not what was fetched: run `stage2 fetch {name} --force`")
    return FetchedHypervisors(name, tuple(sorted(wanted)), packages)


def fetch(
    name: str, *, cache: Path | None = None, progress: Progress | None = None, force: bool = False
) -> FetchedHypervisors:
    """Fetch the images of a release unless they are there already.

    Args:
        name: a key of `RECIPES`.
        cache: folder instead of the user's cache.
        progress: called as bytes arrive.
        force: fetch even if they are there.

    Raises:
        HostToolError: no apt, no mirror, no network, no such release, or a package is not what it used to be.
    """
    root = cache or user_cache(_KIND)

    def make(work: Path) -> Path | None:
        if not force:
            with contextlib.suppress(HostToolError):
                fetched(name, root)
                return None
        return _make(RECIPES[name], work, progress or (lambda *_: None))

    keep(name, root, make)
    return fetched(name, root)


def newest(names: list[str]) -> str | None:
    """Of packages whose names hold a version, the one with the highest; None of none."""
    return max(names, key=lambda name: [int(number) for number in re.findall(r"\d+", name)], default=None)


def _make(recipe: Recipe, work: Path, progress: Progress) -> Path:
    progress("package index", 0, 0)
    apt = updated(work, recipe.release)
    made = work / "made"
    made.mkdir()
    packages, files = [], {}
    for taken in recipe.taken:
        package = newest(apt.matching(taken.package))
        if package is None:
            raise HostToolError(f"Debian {recipe.release.suite} has no package {taken.package}")
        version, deb = apt.download(package, work, progress)
        packages.append(f"{package} {version}")
        tree = work / "trees" / package
        tree.parent.mkdir(exist_ok=True)
        unpack(deb, tree)
        for glob in taken.files:
            found = sorted(tree.glob(glob))
            if not found:
                raise HostToolError(f"{package} {version} does not hold what it used to: no {glob}")
            for path in found:
                shutil.copyfile(path, made / path.name)
                files[path.name] = sha256(path)
    (made / MANIFEST).write_text(json.dumps({"packages": packages, "files": files}, indent=2) + "\n")
    return made
