"""The site that `make docs` builds: whole, linked, and of this machine alone."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from pages import DOCS, ROOT, name, pages

import stage2
from waiting import HANG_S

pytestmark = pytest.mark.slow
_LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. A warning of Sphinx (a dead link, a page in no list) is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-d", str(folder / "doctrees")]
    done = subprocess.run(
        [*command, str(DOCS), str(folder / "html")], capture_output=True, text=True, timeout=HANG_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


@dataclass
class Page(HTMLParser):
    """What an HTML page links to, what it loads, and where it can be linked to."""

    links: list[str] = field(default_factory=list)
    resources: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {key: value for key, value in attrs if value is not None}
        self.anchors |= {found[key] for key in ("id", "name") if key in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif tag == "link" and "href" in found:
            self.resources.append(found["href"])
        elif "src" in found:
            self.resources.append(found["src"])


@cache
def read(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text())
    return page


def test_every_link_of_the_site_leads_somewhere(site: Path) -> None:
    dead = []
    for path in sorted(site.rglob("*.html")):
        for link in (*read(path).links, *read(path).resources):
            parts = urlsplit(link)
            if parts.scheme or not (parts.path or parts.fragment):
                continue
            target = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
            anchored = target.suffix == ".html" and parts.fragment and target.is_file()
            if not target.is_file() or (anchored and unquote(parts.fragment) not in read(target).anchors):
                dead.append(f"{path.relative_to(site)}: {link}")
    assert not dead


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        assert not [found for found in read(path).resources if urlsplit(found).netloc], path
    for path in site.rglob("*.css"):
        assert not re.findall(r"(?:@import|url\()\s*['\"]?(?:https?:)?//[^)'\"]*", path.read_text()), path


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    anchors = read(site / "reference" / "library.html").anchors
    assert {f"stage2.{found}" for found in stage2.__all__ if not found.startswith("__")} <= anchors


def test_every_page_is_in_the_site(site: Path) -> None:
    made = {path.relative_to(site).with_suffix("").as_posix() for path in site.rglob("*.html")}
    assert {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md")} <= made


@pytest.mark.parametrize("page", pages(), ids=name)
def test_every_relative_link_of_a_page_leads_to_a_file(page: Path) -> None:
    for link in _LINK.findall(page.read_text()):
        parts = urlsplit(link)
        if not parts.scheme and parts.path:
            assert (page.parent / parts.path).exists(), link


def test_nothing_of_the_site_names_this_machine(site: Path) -> None:
    for path in site.rglob("*.html"):
        assert str(ROOT) not in path.read_text(), path
