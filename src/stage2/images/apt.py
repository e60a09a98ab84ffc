"""Debian's packages through the host's own package configuration.

A private apt root takes the mirror and the keys that the host is configured with; the host's own package state is
neither read nor changed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import HostToolError
from .aptsources import Source, configured_sources
from .store import Progress, sha256

_INDEX_S, _QUERY_S, _DOWNLOAD_S, _UNPACK_S = 180, 60, 900, 120
_POLL_S = 0.1
BOOKWORM, TRIXIE = ("bookworm", "oldstable"), ("trixie", "stable")
"""Names of the releases (`Release`) that emulators and hypervisors come from: Debian 12 and 13."""
TOOLS = ("apt-get", "apt-cache", "dpkg-deb")
"""Programs of the host that fetching runs."""
_HOOKS = (
    "APT::Update::Pre-Invoke", "APT::Update::Post-Invoke", "APT::Update::Post-Invoke-Success",
    "DPkg::Pre-Install-Pkgs", "DPkg::Pre-Invoke", "DPkg::Post-Invoke",
)  # fmt: skip
"""Programs of the host that apt would run, on the host's own state."""


@dataclass(frozen=True, slots=True)
class Release:
    """A release of Debian, for one architecture.

    Args:
        suite: its name.
        alias: a moving name of the same release, tried next: a mirror caught between two states often serves it whole.
        architecture: Debian's name of it.
    """

    suite: str
    alias: str
    architecture: str


def updated(work: Path, release: Release) -> PrivateApt:
    """apt with the release's index, under whichever of its names the mirror serves it whole.

    Args:
        work: a folder of the caller's, for apt's root.

    Raises:
        HostToolError: no apt, no archive among the host's sources, no network, no such release, or no key for it.
    """
    require_tools(*TOOLS)
    apt = PrivateApt(work / "apt", release, release.suite)
    try:
        apt.update()
    except HostToolError:
        other = PrivateApt(work / "apt-alias", release, release.alias)
        with contextlib.suppress(HostToolError):
            other.update()
            if other.codename == release.suite:
                return other
        raise
    return apt


class PrivateApt:
    """apt with a root of its own, in which nothing is installed.

    Args:
        root: a folder that is not there yet.
        release: the release and the architecture.
        suite: the name under which the mirror is asked for the release.
    """

    def __init__(self, root: Path, release: Release, suite: str) -> None:
        for folder in ("state/lists/partial", "cache/archives/partial", "etc"):
            (root / folder).mkdir(parents=True)
        sources = root / "etc" / "private.sources"
        sources.write_text(private_sources(configured_sources(), suite, release.architecture))
        # A file, since apt puts its locks beside it: nothing is installed.
        status = root / "state" / "status"
        status.touch()
        clear = root / "etc" / "clear.conf"
        clear.write_text("".join(f"#clear {hook};\n" for hook in _HOOKS))
        options = {
            "Dir::State": root / "state",
            "Dir::State::status": status,
            "Dir::Cache": root / "cache",
            "Dir::Etc::sourcelist": sources,
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "APT::Architecture": release.architecture,
            "APT::Architectures": release.architecture,
            "APT::Default-Release": "",
            "Acquire::Languages": "none",
            "Acquire::Retries": "2",
            # The folder is private to this user, so apt's own unprivileged user could not write there.
            "APT::Sandbox::User": "root",
        }
        self._options = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        # Read after the host's own files. Those stay in force otherwise: a proxy is configured there.
        self._options += ["-c", str(clear)]
        self.suite, self.lists, self._archives = suite, root / "state" / "lists", root / "cache" / "archives"

    def update(self) -> None:
        """Read the index.

        Raises:
            HostToolError: it cannot be had, or is not signed by a key of the host's.
        """
        output = self._apt("apt-get", _INDEX_S, "reading Debian's package index", "update", "-qq")
        if "W: Failed to fetch" in output or "E: " in output:
            raise HostToolError(f"Debian's package index cannot be had: {reason(output)}")

    @property
    def codename(self) -> str | None:
        """What the signed index calls the release."""
        for path in self.lists.glob("*Release"):
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
        raise HostToolError(f"Debian {self.suite} has no {meta}: {reason(output) or 'no such package'}")

    def matching(self, pattern: str) -> list[str]:
        """Packages whose names match a pattern (a POSIX extended regular expression)."""
        found = self._apt("apt-cache", _QUERY_S, "reading the package index", "search", "--names-only", pattern)
        return [line.split(" - ", 1)[0] for line in found.splitlines() if " - " in line]

    def download(self, package: str, into: Path, progress: Progress) -> tuple[str, Path]:
        """(version, file) of one package, its hash checked against the signed index."""
        shown = self._apt("apt-cache", _QUERY_S, "reading the package index", "show", "--no-all-versions", package)
        fields = dict(line.split(": ", 1) for line in shown.splitlines() if ": " in line and not line.startswith(" "))
        try:
            version, size, wanted = fields["Version"], int(fields["Size"]), fields["SHA256"]
        except (KeyError, ValueError):
            raise HostToolError(f"Debian {self.suite} has no package {package}") from None
        folder = into / "debs" / package
        folder.mkdir(parents=True)
        command = ["apt-get", *self._options, "download", "-qq", package]
        poll = _polling(folder, package, size, progress)
        run(command, _DOWNLOAD_S, f"downloading {package}", folder=folder, poll=poll)
        debs = list(folder.glob("*.deb"))
        if len(debs) != 1 or sha256(debs[0]) != wanted:
            raise HostToolError(f"{package} {version} is not the file that Debian's index names; try again")
        progress(package, size, size)
        return version, debs[0]

    def download_all(self, packages: Sequence[str], what: str, progress: Progress) -> list[Path]:
        """Packages with all that they depend on, in one transaction of apt, which checks their hashes itself.

        Args:
            packages: their names. Nothing counts as installed, and nothing that is only recommended is taken.
            what: as progress calls them together.

        Returns:
            The files, in the order of their names.
        """
        install = ["install", "-qq", "--yes", "--no-install-recommends", *packages]
        listed = self._apt("apt-get", _QUERY_S, "resolving what packages depend on", "--print-uris", *install)
        sizes = dict(found for found in map(_listed, listed.splitlines()) if found is not None)
        command = ["apt-get", *self._options, "--download-only", *install]
        poll = _polling(self._archives, what, sum(sizes.values()), progress)
        run(command, _DOWNLOAD_S, f"downloading {what}", poll=poll)
        debs = sorted(self._archives.glob("*.deb"))
        if not sizes or {deb.name for deb in debs} != set(sizes):
            raise HostToolError(f"apt did not bring what {what} needs: {len(debs)} of {len(sizes)} packages; try again")
        progress(what, sum(sizes.values()), sum(sizes.values()))
        return debs

    def _apt(self, program: str, limit_s: float, what: str, *words: str) -> str:
        return run([program, *self._options, *words], limit_s, what)


def unpack(deb: Path, tree: Path) -> None:
    """Unpack a package's files into a folder; none of its scripts runs."""
    run(["dpkg-deb", "-x", str(deb), str(tree)], _UNPACK_S, f"unpacking {deb.name}")


def own_architecture() -> str:
    """Debian's name of this host's architecture."""
    require_tools("dpkg")
    return run(["dpkg", "--print-architecture"], _QUERY_S, "asking for the architecture").strip()


def private_sources(sources: list[Source], suite: str, architecture: str) -> str:
    """A deb822 source for a suite from the host's own Debian mirror and key.

    Raises:
        HostToolError: the host has no Debian archive among its sources.
    """
    archives = [source for source in sources if source.is_debian_archive]
    if not archives:
        raise HostToolError("this host's apt has no Debian archive among its sources; fetching needs one")
    source = max(archives, key=lambda source: source.debian_likeness)
    fields = {
        "Types": "deb",
        "URIs": source.uri,
        "Suites": suite,
        "Components": "main",
        "Architectures": architecture,
    }
    if source.signed_by:
        fields["Signed-By"] = source.signed_by
    return "".join(f"{key}: {value}\n" for key, value in fields.items())


def require_tools(*programs: str, otherwise: str = "") -> None:
    """See that programs are there.

    Args:
        programs: their names.
        otherwise: a sentence that says what to do without them.

    Raises:
        HostToolError: one is not there.
    """
    for program in programs:
        if shutil.which(program) is None:
            what = f"fetching needs {program}, which this host does not have: it works on Debian and its relatives"
            raise HostToolError(f"{what}. {otherwise}" if otherwise else what)


def run(
    command: list[str],
    limit_s: float,
    what: str,
    *,
    folder: Path | None = None,
    poll: Callable[[], None] | None = None,
    why: Callable[[str], str] | None = None,
) -> str:
    """Run a program of the host, bounded in time; its output. It is ended if we are interrupted.

    Args:
        command: the program and its arguments.
        limit_s: seconds it may take.
        what: what it does, for errors.
        folder: where it runs.
        poll: called every now and then while it runs.
        why: finds the line of its output that says why it failed; `reason` by default.

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
        raise HostToolError(f"{what} failed: {(why or reason)(text) or f'it ended with {process.returncode}'}")
    return text


def reason(text: str) -> str:
    """The line of a program's output that says why: apt's fetch failure or error, else the last; with what to do."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    marks = ("W: Failed to fetch ", "E: Failed to fetch ", "E: ", "")
    line = next((line for mark in marks for line in reversed(lines) if line.startswith(mark)), "")
    if "is not signed" in text or "NO_PUBKEY" in text:
        line += " Is the key there? Install or renew the Debian package debian-archive-keyring."
    elif line.startswith(marks[:2]):
        line += " Is the network there?"
    return line


def _listed(line: str) -> tuple[str, int] | None:
    """(file name, bytes) of a line of `--print-uris`: 'URI' NAME SIZE HASH; None of any other line."""
    words = line.split()
    if len(words) < 3 or not words[0].startswith("'") or not words[2].isdigit():
        return None
    return words[1], int(words[2])


def _polling(folder: Path, what: str, size: int, progress: Progress) -> Callable[[], None]:
    """Tells how much has arrived below a folder."""

    def poll() -> None:
        done = 0
        for path in (*folder.glob("*.deb"), *folder.glob("partial/*"), *folder.glob("*.deb.*")):
            # apt renames a file when it is complete.
            with contextlib.suppress(FileNotFoundError):
                done += path.stat().st_size
        progress(what, min(done, size), size)

    return poll
