"""Fetching guests: Debian's kernel and busybox, through the host's own package configuration.

A private apt root takes the mirror and the keys that the host is configured with; the host's own package state is
neither read nor changed. What was made is kept with its hashes and appears in the cache only when it is complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import HostToolError, ImageError
from .aptsources import Source, configured_sources
from .initramfs import build, recipe_hash
from .kernel import inspect

Progress = Callable[[str, int, int], None]
"""Called with (what is being fetched, bytes so far, bytes in all)."""

_INDEX_S, _QUERY_S, _DOWNLOAD_S, _UNPACK_S = 180, 60, 900, 120
_POLL_S = 0.1
_HOOKS = ("APT::Update::Pre-Invoke", "APT::Update::Post-Invoke", "APT::Update::Post-Invoke-Success")
"""Programs of the host that `apt-get update` would run, on the host's own state."""
_MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Recipe:
    """Where a guest comes from.

    Args:
        arch: our name of the architecture; debian_arch is Debian's.
        suite: Debian release.
        alias: a moving name of the same release, tried next: a mirror caught between two states often serves it whole.
        kernel: package that depends on the current kernel's package.
        busybox: package with a static busybox.
    """

    arch: str
    debian_arch: str
    suite: str
    alias: str
    kernel: str
    busybox: str


RECIPES = {"linux-riscv64": Recipe("riscv64", "riscv64", "trixie", "stable", "linux-image-riscv64", "busybox-static")}


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


def cache_folder() -> Path:
    """Where fetched guests are kept: `stage2/guests` in the user's cache folder, or under $STAGE2_CACHE."""
    own = os.environ.get("STAGE2_CACHE")
    if own:
        return Path(own) / "guests"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stage2" / "guests"


def fetched(name: str, cache: Path | None = None) -> FetchedGuest:
    """A guest that was fetched before.

    Raises:
        ImageError: unknown, not there, or its bytes are no longer those that were fetched.
    """
    _recipe(name)
    folder = (cache or cache_folder()) / name
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        files = {role: (folder / manifest[role]["file"], manifest[role]["sha256"]) for role in ("kernel", "ramdisk")}
        packages = tuple(str(package) for package in manifest["packages"])
        made_with = manifest.get("initramfs_recipe")
    except FileNotFoundError:
        raise ImageError(f"the guest {name} is not there yet: run `stage2 fetch {name}`") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ImageError(f"{folder / _MANIFEST} is damaged: run `stage2 fetch {name} --force`") from None
    for path, wanted in files.values():
        if not path.is_file() or _sha256(path) != wanted:
            raise ImageError(f"{path} is not what was fetched: run `stage2 fetch {name} --force`")
    if made_with != recipe_hash():
        raise ImageError(f"the guest {name} was made by another version of stage2: run `stage2 fetch {name}`")
    return FetchedGuest(name, files["kernel"][0], files["ramdisk"][0], packages)


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
    root = cache or cache_folder()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _locked(root / f"{name}.lock"):
            # We hold the lock, so whatever work folder is there belongs to a fetch that was killed.
            for left in root.glob(f".{name}-*"):
                shutil.rmtree(left, ignore_errors=True)
            if not force:
                with contextlib.suppress(ImageError):
                    return fetched(name, root)
            with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=root) as work:
                made = None if force else _renew(name, root / name, Path(work))
                if made is None:
                    _require_tools("apt-get", "apt-cache", "dpkg-deb")
                    made = _make(name, recipe, Path(work), progress or (lambda *_: None))
                _put_in_place(made, root / name)
    except OSError as error:
        raise HostToolError(f"the guest cannot be kept: {error.filename or root}: {error.strerror or error}") from None
    return fetched(name, root)


def _make(name: str, recipe: Recipe, work: Path, progress: Progress) -> Path:
    progress("package index", 0, 0)
    apt = _updated(work, recipe)
    kernel_package = apt.kernel_package(recipe.kernel)
    tree = work / "tree"
    packages = []
    for package in (kernel_package, recipe.busybox):
        version, deb = apt.download(package, work, progress)
        packages.append(f"{package} {version}")
        _run(["dpkg-deb", "-x", str(deb), str(tree)], _UNPACK_S, f"unpacking {package}")
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
        **{role: {"file": file, "sha256": _sha256(made / file)} for role, file in files.items()},
        "initramfs_recipe": recipe_hash(),
    }
    (made / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def _renew(name: str, folder: Path, work: Path) -> Path | None:
    """The guest in `folder` with a ramdisk made anew, when all that has changed is our part of it."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        packages = [str(package) for package in manifest["packages"]]
        hashes = {file: str(manifest[file]["sha256"]) for file in ("kernel", "busybox")}
        if manifest["initramfs_recipe"] == recipe_hash() or any(
            _sha256(folder / file) != wanted for file, wanted in hashes.items()
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


def _updated(work: Path, recipe: Recipe) -> _Apt:
    """apt with the release's index, under whichever of its names the mirror serves it whole."""
    apt = _Apt(work / "apt", recipe, recipe.suite)
    try:
        apt.update()
    except HostToolError:
        other = _Apt(work / "apt-alias", recipe, recipe.alias)
        with contextlib.suppress(HostToolError):
            other.update()
            if other.codename == recipe.suite:
                return other
        raise
    return apt


class _Apt:
    """apt with a root of its own."""

    def __init__(self, root: Path, recipe: Recipe, suite: str) -> None:
        for folder in ("state/lists/partial", "cache/archives/partial", "etc"):
            (root / folder).mkdir(parents=True)
        sources = root / "etc" / "guest.sources"
        sources.write_text(_private_sources(configured_sources(), recipe, suite))
        clear = root / "etc" / "clear.conf"
        clear.write_text("".join(f"#clear {hook};\n" for hook in _HOOKS))
        options = {
            "Dir::State": root / "state",
            "Dir::State::status": "/dev/null",
            "Dir::Cache": root / "cache",
            "Dir::Etc::sourcelist": sources,
            "Dir::Etc::sourceparts": "/dev/null",
            "APT::Architecture": recipe.debian_arch,
            "APT::Architectures": recipe.debian_arch,
            "Acquire::Languages": "none",
            "Acquire::Retries": "2",
            # The folder is private to this user, so apt's own unprivileged user could not write there.
            "APT::Sandbox::User": "root",
        }
        self._options = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        # Read after the host's own files. Those stay in force otherwise: a proxy is configured there.
        self._options += ["-c", str(clear)]
        self._suite, self._lists = suite, root / "state" / "lists"

    def update(self) -> None:
        output = self._apt("apt-get", _INDEX_S, "reading Debian's package index", "update", "-qq")
        if "W: Failed to fetch" in output or "E: " in output:
            raise HostToolError(f"Debian's package index cannot be had: {_reason(output)}")

    @property
    def codename(self) -> str | None:
        """What the signed index calls the release."""
        for path in self._lists.glob("*Release"):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines()[:40]:
                if line.startswith("Codename: "):
                    return line.removeprefix("Codename: ").strip()
        return None

    def kernel_package(self, meta: str) -> str:
        """The package that a metapackage of the kernel depends on."""
        output = self._apt("apt-cache", _QUERY_S, "reading the package index", "depends", "--important", meta)
        for line in output.splitlines():
            word = line.strip().removeprefix("Depends: ")
            if word != line.strip() and word.startswith("linux-image-"):
                return word.split()[0]
        raise HostToolError(f"Debian {self._suite} has no {meta}: {_reason(output) or 'no such package'}")

    def download(self, package: str, into: Path, progress: Progress) -> tuple[str, Path]:
        """(version, file) of a package, its hash checked against the signed index."""
        shown = self._apt("apt-cache", _QUERY_S, "reading the package index", "show", "--no-all-versions", package)
        fields = dict(line.split(": ", 1) for line in shown.splitlines() if ": " in line and not line.startswith(" "))
        try:
            version, size, wanted = fields["Version"], int(fields["Size"]), fields["SHA256"]
        except (KeyError, ValueError):
            raise HostToolError(f"Debian {self._suite} has no package {package}") from None
        folder = into / "debs" / package
        folder.mkdir(parents=True)

        def poll() -> None:
            done = 0
            for path in folder.iterdir():
                # apt renames a file when it is complete.
                with contextlib.suppress(FileNotFoundError):
                    done += path.stat().st_size
            progress(package, min(done, size), size)

        command = ["apt-get", *self._options, "download", "-qq", package]
        _run(command, _DOWNLOAD_S, f"downloading {package}", folder=folder, poll=poll)
        debs = list(folder.glob("*.deb"))
        if len(debs) != 1 or _sha256(debs[0]) != wanted:
            raise HostToolError(f"{package} {version} is not the file that Debian's index names; try again")
        progress(package, size, size)
        return version, debs[0]

    def _apt(self, program: str, limit_s: float, what: str, *words: str) -> str:
        return _run([program, *self._options, *words], limit_s, what)


def _private_sources(sources: list[Source], recipe: Recipe, suite: str) -> str:
    """A deb822 source for a suite from the host's own Debian mirror and key."""
    archives = [source for source in sources if source.is_debian_archive]
    if not archives:
        raise HostToolError("this host's apt has no Debian archive among its sources; fetching needs one")
    source = max(archives, key=lambda source: source.debian_likeness)
    fields = {
        "Types": "deb",
        "URIs": source.uri,
        "Suites": suite,
        "Components": "main",
        "Architectures": recipe.debian_arch,
    }
    if source.signed_by:
        fields["Signed-By"] = source.signed_by
    return "".join(f"{key}: {value}\n" for key, value in fields.items())


def _run(
    command: list[str],
    limit_s: float,
    what: str,
    *,
    folder: Path | None = None,
    poll: Callable[[], None] | None = None,
) -> str:
    """Run a program of the host, bounded in time; its output. It is ended if we are interrupted.

    Raises:
        HostToolError: it failed or took too long.
    """
    if shutil.which("setpriv") is not None:
        # Should we be killed, the kernel ends the program for us.
        command = ["setpriv", "--pdeathsig", "TERM", "--", *command]
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        deadline = time.monotonic() + limit_s
        try:
            while True:
                try:
                    process.wait(_POLL_S)
                    break
                except subprocess.TimeoutExpired:
                    if time.monotonic() > deadline:
                        raise HostToolError(f"{what} took more than {limit_s:g} s and was ended") from None
                    if poll is not None:
                        poll()
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        output.seek(0)
        text = output.read(1 << 20).decode("utf-8", "replace")
    if process.returncode:
        raise HostToolError(f"{what} failed: {_reason(text) or f'it ended with {process.returncode}'}")
    return text


def _reason(text: str) -> str:
    """The line of a program's output that says why: apt's fetch failure or error, else the last; with what to do."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    marks = ("W: Failed to fetch ", "E: Failed to fetch ", "E: ", "")
    line = next((line for mark in marks for line in reversed(lines) if line.startswith(mark)), "")
    if "is not signed" in text or "NO_PUBKEY" in text:
        line += " Is the key there? Install or renew the Debian package debian-archive-keyring."
    elif line.startswith(marks[:2]):
        line += " Is the network there?"
    return line


def _recipe(name: str) -> Recipe:
    if name not in RECIPES:
        raise ImageError(f"there is no guest {name!r} to fetch; there is {', '.join(RECIPES)}")
    return RECIPES[name]


def _require_tools(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            raise HostToolError(
                f"fetching needs {program}, which this host does not have: it works on Debian and its relatives. "
                "Elsewhere give --kernel and --ramdisk files of your own"
            )


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Only one process at a time fetches a guest."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _put_in_place(made: Path, target: Path) -> None:
    """Let the finished folder appear under its name; an older one disappears."""
    old = made.parent / "old"
    if target.exists():
        target.rename(old)
    made.rename(target)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
