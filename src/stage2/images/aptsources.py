"""Which archives the host's apt is configured with: one-line and deb822 sources (sources.list(5))."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Source:
    """An archive.

    Args:
        uri: where it is.
        suites: its suites, as configured.
        components: such as `main`.
        signed_by: as configured, if anything is: keyring files, fingerprints, or a key block (which begins on a line
            of its own).
    """

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str | None = None

    @property
    def is_debian_archive(self) -> bool:
        """Whether it looks like a Debian main archive: not security, not updates only, with `main`."""
        plain = [suite for suite in self.suites if "-" not in suite and "/" not in suite]
        return "main" in self.components and bool(plain) and "security" not in self.uri

    @property
    def debian_likeness(self) -> int:
        """How surely it is Debian's own archive: other publishers have a `main` component as well."""
        by_key = "debian-archive" in (self.signed_by or "")
        by_path = self.uri.rstrip("/").rsplit("/", 1)[-1] == "debian"
        return 2 * by_key + by_path


def configured_sources(etc: Path = Path("/etc/apt")) -> list[Source]:
    """The archives in /etc/apt, in apt's own order; unreadable or odd entries are passed over."""
    files = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]
    sources: list[Source] = []
    for path in files:
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        if path.suffix == ".sources":
            sources += parse_deb822(text)
        elif path.suffix == ".list":
            sources += parse_one_line(text)
    return sources


_NO = ("no", "false", "without", "off", "disable", "0")


def parse_one_line(text: str) -> list[Source]:
    """Sources of `deb [options] uri suite component...` lines."""
    sources = []
    for line in text.splitlines():
        kind, _, words = " ".join(line.split("#")[0].split()).partition(" ")
        if kind != "deb":
            continue
        signed_by = None
        if words.startswith("["):
            inside, _, words = words[1:].partition("]")
            options = dict(option.split("=", 1) for option in inside.split() if "=" in option)
            signed_by = options.get("signed-by")
        parts = words.split()
        if len(parts) >= 2:
            sources.append(Source(parts[0], (parts[1],), tuple(parts[2:]), signed_by))
    return sources


def parse_deb822(text: str) -> list[Source]:
    """Sources of deb822 stanzas, with a key block that is written into the file itself."""
    sources = []
    for stanza in text.split("\n\n"):
        fields: dict[str, str] = {}
        last = ""
        for line in stanza.splitlines():
            if line.startswith("#") or not line.strip():
                continue
            if line[0] in " \t":
                fields[last] = fields.get(last, "") + "\n " + line.strip()
                continue
            key, _, value = line.partition(":")
            last = key.strip().lower()
            fields[last] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in _NO:
            continue
        signed_by = fields.get("signed-by") or None
        suites, components = tuple(fields.get("suites", "").split()), tuple(fields.get("components", "").split())
        sources += [Source(uri, suites, components, signed_by) for uri in fields.get("uris", "").split()]
    return sources
